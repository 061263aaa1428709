"""The process that plays the robot behind its vendor's wire: a box of :mod:`robopolicy.sim.wire`, sensors, the clock.

``python -m robopolicy.deploy.drivers.wire_process RUN_DIR PARENT_PID`` is started by the supervisor. The driver of the
real-time process reaches the arm through the vendor's protocol only; what this process puts into shared memory is what
a scene has besides an arm: sensor frames, success of the task, resets, and the counts of what arrived at the wire.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.control.setpoint_check import VIOLATIONS
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.drivers.sensor_frame import write_frame
from robopolicy.deploy.process import ParentWatch, become_realtime, ignore_terminal_signals
from robopolicy.deploy.records import TEXT_BYTES
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.registry import load_target
from robopolicy.sim.plant import Plant
from robopolicy.sim.wire.box import Box, BoxLoop
from robopolicy.sim.wire.faults import WireFaults

__all__ = ["WireRobot", "build", "main"]

ORPHAN_S = 3.0
"""How long the robot outlives its supervisor, so that the real-time loop can still brake it."""


def build(config: DaemonConfig) -> Box:
    """Box and plant of a configuration.

    Raises:
        SimulationError: a bad fault or address.
    """
    wire, card = dict(config.robot.wire), config.card
    kind, faults = load_target(wire.pop("target")), WireFaults()
    faults.set(**wire.pop("faults", {}))
    made = load_target(config.robot.plant or "robopolicy.sim.plant:KinematicPlant")
    plant: Plant = made(
        card, cameras=config.cameras, task=config.robot.task, rate_hz=1.0 / kind.period_s, **config.robot.options
    )
    box: Box = kind(card, plant, faults, **wire)
    return box


class WireRobot:
    """Sensors and scene of a box.

    Args:
        bus: Shared memory.
        box: The vendor's controller.
        config: Rates.
        run_dir: Where traces of setpoints go; None keeps none.
    """

    def __init__(self, bus: Bus, box: Box, config: DaemonConfig, run_dir: Path | None):
        self._bus, self._box, self._run_dir = bus, box, run_dir
        self.loop = BoxLoop(box)
        self._commands, self._done = bus.ring("commands"), 0
        self._frame_ns = round(config.card.control_dt_s * 1e9)
        self._scene, self._split, self._index, self._step = 0, "", 0, 0
        self._failure = ""
        self._anchor()

    def step(self) -> None:
        """Serve the wire; after a controller cycle also sensors and orders."""
        if not self.loop.step():
            return
        self._bus.heartbeat.beat("robot")
        if self.loop.time_ns >= self._next_frame_ns:
            self._step += 1
            self._next_frame_ns += self._frame_ns
            self._publish_frame()
            self._publish_report()
        self._obey()

    def close(self) -> None:
        """Save the trace and close the box."""
        self._save()
        self.loop.close()

    def _anchor(self) -> None:
        self.loop.anchor()
        self._step, self._next_frame_ns = 0, self.loop.time_ns + self._frame_ns
        self._publish_frame()
        self._publish_report()

    def _obey(self) -> None:
        while self._done < self._commands.newest:
            self._done += 1
            order = self._commands.read(self._done)
            if order is None:
                continue
            kind = bytes(order["kind"]).decode()
            if kind == "reset":
                self._save()
                self._reset(bytes(order["split"]).decode(), int(order["index"]))
            elif kind == "recover" and self._box.faults.stopped:
                self._box.faults.set(protective_stop=False, emergency_stop=False)
                self._box.recover()
            self._publish_report()

    def _reset(self, split: str, index: int) -> None:
        self._failure = ""
        try:
            self._box.plant.reset(split, index)
        except (ValueError, RuntimeError, LookupError) as error:
            self._failure = f"reset failed: {error}"
            return
        self._scene, self._split, self._index = self._scene + 1, split, index
        standing = self._box.plant.measure()[0]
        self._box.reset(standing)
        self._box.recorder.reset(standing)
        self._anchor()

    def _save(self) -> None:
        if self._run_dir is not None and self._box.recorder.trace:
            folder = self._run_dir / "setpoints"
            folder.mkdir(exist_ok=True)
            self._box.recorder.save(folder / f"{self._split or 'start'}-{self._index:05d}.npz")

    def _publish_frame(self) -> None:
        write_frame(
            self._bus.ring("frames"),
            self._box.plant.sense(),
            time_ns=self.loop.time_ns,
            scene=self._scene,
            step=self._step,
            split=self._split,
            index=self._index,
        )

    def _publish_report(self) -> None:
        ring, box = self._bus.ring("report"), self._box
        found, state = box.recorder.report(), box.state()
        record: Any = np.zeros((), ring.dtype)
        record["time_ns"], record["done"], record["scene"] = monotonic_ns(), self._done, self._scene
        record["ticks"], record["slips"] = found["cycles"], self.loop.slips
        for name in ("received", "running", "missing", "watchdog_stops"):
            record[name] = found[name]
        record["setpoint_hz"] = _rate(box.recorder.trace)
        record["violations"] = [found["violations"][kind] for kind in VIOLATIONS]
        record["worst"] = [found["worst"][kind] for kind in VIOLATIONS]
        record["at_rest"] = bool(state["at_rest"])
        drawn = box.plant.initial_state
        record["horizon"], record["initial_width"] = box.plant.horizon, len(drawn)
        record["initial_state"][: len(drawn)] = drawn
        message = self._failure or found["first_violation"]
        record["failed"], record["message"] = bool(self._failure), message.encode("utf-8", "replace")[:TEXT_BYTES]
        ring.write(record)


def _rate(trace: list[tuple[int, Any]]) -> float:
    """Setpoints per second, by arrival, over at most the last 200."""
    tail = trace[-200:]
    span_ns = tail[-1][0] - tail[0][0] if len(tail) > 1 else 0
    return (len(tail) - 1) / (span_ns / 1e9) if span_ns > 0 else 0.0


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor ends this process, or is gone."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    ignore_terminal_signals()
    # ends the loop below through its finally, so that the trace is written
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = read_daemon(run_dir)
    bus = Bus.attach({"report", "frames"})
    robot = WireRobot(bus, build(config), config, run_dir if config.deploy.record_setpoints else None)
    for note in become_realtime(config.deploy.robot_priority):
        print(f"robot: {note}", file=sys.stderr)
    print(f"robot: {robot.loop.box.address}", file=sys.stderr)
    orphan_ns = 0
    try:
        while not orphan_ns or monotonic_ns() < orphan_ns:
            robot.step()
            if not orphan_ns and parent.lost:
                orphan_ns = monotonic_ns() + round(ORPHAN_S * 1e9)
    finally:
        robot.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
