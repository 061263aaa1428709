"""What the supervisor counts while the arm runs: timing, seams, chunks, success; read from shared memory only."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from robopolicy.control.setpoint_check import VIOLATIONS
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.records import EXECUTOR_MODES, REASONS, REFUSALS
from robopolicy.deploy.state_machine import State

__all__ = ["Monitor", "report_of"]

MOST_KEPT, MOST_CHANGES = 60_000, 256


def report_of(bus: Bus) -> dict[str, Any]:
    """The robot's own newest report as plain values; empty when there is none (hardware)."""
    found = bus.ring("report").latest()
    if found is None:
        return {}
    record = found[1]
    names = (
        "done",
        "scene",
        "ticks",
        "received",
        "running",
        "missing",
        "gaps",
        "late",
        "lost",
        "watchdog_stops",
        "slips",
    )
    plain: dict[str, Any] = {name: int(record[name]) for name in names}
    plain |= {name: float(record[name]) for name in ("behind_ms", "setpoint_hz")}
    plain["violations"] = {kind: int(n) for kind, n in zip(VIOLATIONS, record["violations"], strict=True)}
    plain["worst"] = {kind: float(x) for kind, x in zip(VIOLATIONS, record["worst"], strict=True)}
    plain["at_rest"] = bool(record["at_rest"])
    plain["horizon"] = int(record["horizon"])
    plain["initial_state"] = [float(x) for x in record["initial_state"][: int(record["initial_width"])]]
    plain["failed"] = bool(record["failed"])
    plain["message"] = bytes(record["message"]).decode("utf-8", "replace")
    return plain


class Monitor:
    """Drains the state ring and the frames.

    Args:
        bus: Shared memory.
    """

    def __init__(self, bus: Bus):
        self._bus = bus
        self._cursor = 0
        self._frame_cursor = 0
        self.newest: np.void | None = None
        self.frame: np.void | None = None
        self.begin_episode()

    def begin_episode(self) -> None:
        """Start counting anew."""
        # of a daemon that runs for days only the newest are kept
        self.late_ms: deque[float] = deque(maxlen=MOST_KEPT)
        self.inference_ms: deque[float] = deque(maxlen=MOST_KEPT)
        self.latency_ms: deque[float] = deque(maxlen=MOST_KEPT)
        self.lost = self.ticks = self.tracking = self.clipped = self.chunks = self.seams = 0
        self.seam_step = 0.0
        self.first_ns = self.last_ns = 0
        self.success_once = self.success_at_end = False
        self.visited: deque[str] = deque(maxlen=MOST_CHANGES)
        self.transitions: deque[dict[str, Any]] = deque(maxlen=MOST_CHANGES)
        self.stopping_ticks = 0

    def poll(self) -> None:
        """Take what has come since the last call."""
        records, self._cursor, lost = self._bus.ring("state").since(self._cursor)
        self.lost += lost
        for record in records:
            self._count(record)
        if records:
            self.newest = records[-1]
        frames, self._frame_cursor, _ = self._bus.ring("frames").since(self._frame_cursor)
        for frame in frames:
            self._see(frame)

    def _count(self, record: np.void) -> None:
        state = State(int(record["state"]))
        if not self.visited or self.visited[-1] != state.name:
            self.visited.append(state.name)
            times = {"t_ns": int(record["t_ns"]), "t_robot_ns": int(record["t_robot_ns"])}
            self.transitions.append({"state": state.name, "reason": REASONS[int(record["reason"])], **times})
        self.stopping_ticks += state is State.STOPPING
        if bool(record["accepted"]):
            self.chunks += 1
            self.inference_ms.append(float(record["inference_ms"]))
            self.latency_ms.append(float(record["latency_ms"]))
        if bool(record["seam"]):
            self.seams += 1
            self.seam_step = max(self.seam_step, float(record["velocity_step"]))
        if state is not State.RUNNING:
            return
        self.first_ns = self.first_ns or int(record["t_ns"])
        self.last_ns = int(record["t_ns"])
        self.ticks += 1
        self.tracking += EXECUTOR_MODES[int(record["mode"])] == "tracking"
        self.clipped += bool(record["clipped"])
        self.late_ms.append(int(record["late_ns"]) / 1e6)

    def _see(self, frame: np.void) -> None:
        self.frame = frame
        if self.first_ns and int(frame["time_ns"]) >= self.first_ns:
            self.success_at_end = bool(frame["success"])
            self.success_once |= self.success_at_end

    def state(self) -> dict[str, Any]:
        """Where the arm stands now."""
        record = self.newest
        if record is None:
            return {"state": State.OFFLINE.name, "epoch": 0, "reason": "", "message": ""}
        return {
            "state": State(int(record["state"])).name,
            "mode": EXECUTOR_MODES[int(record["mode"])],
            "epoch": int(record["epoch"]),
            "tick": int(record["tick"]),
            "events_done": int(record["events_done"]),
            "reason": REASONS[int(record["reason"])],
            "message": bytes(record["message"]).decode("utf-8", "replace"),
            "late_ms": int(record["late_ns"]) / 1e6,
            "remaining_s": float(record["remaining_s"]),
            "overruns": int(record["overruns"]),
            "torn": int(record["torn"]),
            "refused": {name: int(n) for name, n in zip(REFUSALS, record["refused"], strict=True) if n},
            "position": [float(x) for x in record["position"]],
        }

    def scene(self) -> dict[str, Any]:
        """The newest sensor frame in brief."""
        frame = self.frame
        if frame is None:
            return {}
        return {
            "scene": int(frame["scene"]),
            "step": int(frame["step"]),
            "split": bytes(frame["split"]).decode(),
            "index": int(frame["index"]),
            "success": bool(frame["success"]),
        }

    def episode(self) -> dict[str, Any]:
        """Everything counted since :meth:`begin_episode`."""
        span_s = (self.last_ns - self.first_ns) / 1e9
        return {
            "ticks": self.ticks,
            "tracking_ticks": self.tracking,
            "clipped_ticks": self.clipped,
            "stopping_ticks": self.stopping_ticks,
            "chunks": self.chunks,
            "seams": self.seams,
            "max_seam_velocity_step": self.seam_step,
            "inference_ms": [round(x, 3) for x in self.inference_ms],
            "latency_ms": [round(x, 3) for x in self.latency_ms],
            "late_ms": [round(x, 4) for x in self.late_ms],
            "running_s": span_s,
            "tick_hz": (self.ticks - 1) / span_s if span_s > 0 else 0.0,
            "success_once": self.success_once,
            "success_at_end": self.success_at_end,
            "visited": list(self.visited),
            "transitions": list(self.transitions),
            "lost_records": self.lost,
        }
