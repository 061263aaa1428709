"""What the page shows, gathered from the shared memory: one plain snapshot of the arm as often as it is asked for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from robopolicy import __version__
from robopolicy.control.verdict import Limit
from robopolicy.deploy.blackbox_status import recording_of
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig
from robopolicy.deploy.monitor import report_of
from robopolicy.deploy.operator.event_log import EventLog
from robopolicy.deploy.records import EXECUTOR_MODES, REASONS, REFUSALS
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.deploy.state_machine import OPERATOR_EVENTS, Outcome, State, next_state

__all__ = ["Feed", "description"]

SHOW_CLIP_NS = 1_000_000_000
"""A limit that was met stays on the page this long, or nobody would see it."""
QUANTILES_EVERY_NS = 250_000_000


class Recent:
    """The newest values of one kind with their quantiles, which are worked out only now and then."""

    def __init__(self, count: int):
        self._values: deque[float] = deque(maxlen=count)
        self._quantiles: dict[str, float] = {}
        self._peak = 0.0

    def add(self, value: float) -> None:
        """One more; what is not finite is no measure of anything."""
        if math.isfinite(value):
            self._values.append(value)
            self._peak = max(self._peak, value)

    def work_out(self) -> None:
        """Quantiles of what is kept."""
        if self._values:
            p50, p95, p99 = (round(float(x), 4) for x in np.percentile(list(self._values), (50, 95, 99)))
            self._quantiles = {"p50": p50, "p95": p95, "p99": p99, "max": round(max(self._values), 4)}

    def take(self) -> dict[str, float] | None:
        """Last value, quantiles, and the peak since this was asked last; None while there is nothing."""
        if not self._values:
            return None
        peak, self._peak = self._peak, 0.0
        return {"last": round(self._values[-1], 4), "peak": round(peak, 4), **self._quantiles}


class Feed:
    """Drains the rings.

    Args:
        bus: Shared memory, read only.
        config: What runs.
    """

    def __init__(self, bus: Bus, config: DaemonConfig):
        self._bus, self._config = bus, config
        self.log = EventLog()
        # Begin with what is still there: a page that is opened late shows how it came to this.
        self._cursors = {name: max(0, bus.ring(name).newest - n) for name, n in (("state", 2000), ("events", 60))}
        self._frame = self._frame_number = 0
        self._newest: np.void | None = None
        self._scene: dict[str, Any] | None = None
        self._late, self._seam = Recent(2000), Recent(200)
        self._inference, self._latency = Recent(200), Recent(200)
        self._met: dict[Limit, int] = {}
        self._clipped: deque[bool] = deque(maxlen=500)
        self._chunks = self._seams = self._lost = 0
        self._worked_ns = 0

    def poll(self) -> None:
        """Take what has come since the last call."""
        for record in self._since("events"):
            self.log.event(record)
        for record in self._since("state"):
            self._tick(record)
            self._newest = record
        frames = self._bus.ring("frames")
        if frames.newest != self._frame_number:
            self._look(frames.latest())
        self.log.flush()
        now_ns = monotonic_ns()
        if now_ns - self._worked_ns > QUANTILES_EVERY_NS:
            self._worked_ns = now_ns
            for recent in (self._late, self._seam, self._inference, self._latency):
                recent.work_out()

    def live(self) -> dict[str, Any]:
        """The snapshot; times are monotonic milliseconds, joints in the card's order and units."""
        now_ns = monotonic_ns()
        found = {
            "kind": "live",
            "now_ms": now_ns / 1e6,
            "stamp": str(now_ns),  # as text: a page's numbers are too short for it
            "age_ms": None,
            "state": State.OFFLINE.name,
            "scene": self._scene,
            "report": self._report(),
            "blackbox": self._blackbox(),
            "deadman_ms": _ms(self._bus.heartbeat.age_s("deadman", now_ns)),
        }
        if self._newest is None:
            return found
        record = self._newest
        return found | {
            "age_ms": max(0.0, (now_ns - int(record["t_ns"]) - int(record["late_ns"])) / 1e6),
            **self._situation(record),
            **self._timing(record),
            **self._limits(now_ns),
        }

    def _since(self, name: str) -> Iterable[np.void]:
        records, self._cursors[name], lost = self._bus.ring(name).since(self._cursors[name])
        self._lost += lost
        return records

    def _tick(self, record: np.void) -> None:
        self.log.tick(record)
        self._late.add(int(record["late_ns"]) / 1e6)
        if bool(record["accepted"]):
            self._chunks += 1
            self._inference.add(float(record["inference_ms"]))
            self._latency.add(float(record["latency_ms"]))
        if bool(record["seam"]):
            self._seams += 1
            self._seam.add(float(record["velocity_step"]))
        if bool(record["streamed"]):
            self._clipped.append(bool(record["clipped"]))
            bits = int(record["verdict"])
            if bits:
                self._met |= {limit: int(record["t_ns"]) for limit in Limit if bits & limit}

    def _look(self, found: tuple[int, np.void] | None) -> None:
        if found is None:
            return
        self._frame_number, frame = found
        self.log.frame(frame)
        self._scene = {
            "scene": int(frame["scene"]),
            "split": bytes(frame["split"]).decode("ascii", "replace"),
            "index": int(frame["index"]),
            "step": int(frame["step"]),
            "success": bool(frame["success"]),
        }

    def _situation(self, record: np.void) -> dict[str, Any]:
        streamed = bool(record["streamed"])
        return {
            "state": State(int(record["state"])).name,
            "mode": EXECUTOR_MODES[int(record["mode"])],
            "reason": REASONS[int(record["reason"])],
            "message": bytes(record["message"]).decode("utf-8", "replace"),
            "epoch": int(record["epoch"]),
            "tick": int(record["tick"]),
            "robot_fault": bool(record["robot_fault"]),
            "position": _numbers(record["position"]) if int(record["t_robot_ns"]) else None,
            "velocity": _numbers(record["velocity"]) if int(record["t_robot_ns"]) else None,
            "setpoint": _numbers(record["setpoint"]) if streamed else None,
        }

    def _timing(self, record: np.void) -> dict[str, Any]:
        return {
            "late_ms": self._late.take(),
            "inference_ms": self._inference.take(),
            "latency_ms": self._latency.take(),
            "seam": self._seam.take(),
            "chunks": self._chunks,
            "seams": self._seams,
            "remaining_s": round(float(record["remaining_s"]), 3),
            "overruns": int(record["overruns"]),
            "torn": int(record["torn"]),
            "refused": {word: int(n) for word, n in zip(REFUSALS, record["refused"], strict=True) if n},
        }

    def _limits(self, now_ns: int) -> dict[str, Any]:
        recent = [limit for limit, met_ns in self._met.items() if now_ns - met_ns < SHOW_CLIP_NS]
        share = sum(self._clipped) / len(self._clipped) if self._clipped else 0.0
        return {"limits": [limit.name.lower() for limit in sorted(recent) if limit.name], "clipped": round(share, 4)}

    def _report(self) -> dict[str, Any] | None:
        """What a simulated robot counted on its side of the wire; None for hardware."""
        report = report_of(self._bus)
        if not report:
            return None
        kept = {name: report[name] for name in ("received", "missing", "watchdog_stops")}
        return {
            **kept,
            "violations": sum(report["violations"].values()),
            "setpoint_hz": round(report["setpoint_hz"], 1),
        }

    def _blackbox(self) -> dict[str, Any] | None:
        """How the recording goes; None where none is made."""
        if not self._config.deploy.blackbox:
            return None
        found = recording_of(self._bus)
        kept = ("recording", "bytes", "records", "lost", "file", "message")
        return {name: found[name] for name in kept if name in found}


def description(config: DaemonConfig) -> dict[str, Any]:
    """What does not change while the daemon runs: the robot, its limits, and where each event leads."""
    card = config.card
    ways = {
        state.name: {
            event: target.name
            for event in OPERATOR_EVENTS
            for target, outcome in [next_state(state, event)]
            if outcome is Outcome.CHANGED
        }
        for state in State
    }
    joints = [
        {"name": c.name, "unit": c.unit, "lower": c.lower, "upper": c.upper, "max_velocity": c.max_velocity}
        for c in card.joints.channels
    ]
    cameras = [{"name": c.name, "width": c.width, "height": c.height} for c in map(card.camera, config.cameras)]
    return {
        "kind": "meta",
        "version": __version__,
        "robot": card.name,
        "description": card.description,
        "policy": config.policy,
        "simulated": bool(config.robot.process),
        "task": config.robot.task,
        "joints": joints,
        "cameras": cameras,
        "ways": ways,
        "limits": [limit.name.lower() for limit in Limit if limit.name],
        "deadman": config.deploy.deadman,
        "deadman_timeout_s": config.deploy.deadman_timeout_s,
        "tick_ms": card.tick_s * 1e3,
    }


def _numbers(values: Any) -> list[float | None]:
    """Rounded for the wire; what is not finite has no place in JSON and is shown as unknown."""
    return [round(float(x), 5) if np.isfinite(x) else None for x in values]


def _ms(age_s: float | None) -> float | None:
    return None if age_s is None else round(age_s * 1e3, 1)
