"""The process that plays the robot: a controller, a plant, sensors, and the wall clock.

``python -m robopolicy.deploy.drivers.sim_process RUN_DIR PARENT_PID`` is started by the supervisor. Physics advances
tick by tick of ``setpoint_hz`` along the wall clock. When the machine stalls the process, it catches up in simulated
time, with the setpoints that belong to that time; when it falls behind by more than a quarter of a second the clock
slips, and the slip is counted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.control.clock import MonotonicClock
from robopolicy.control.setpoint_check import VIOLATIONS
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import read_daemon
from robopolicy.deploy.drivers.controller import RobotController
from robopolicy.deploy.drivers.sensor_frame import write_frame
from robopolicy.deploy.process import ParentWatch, become_realtime, ignore_terminal_signals
from robopolicy.deploy.records import TEXT_BYTES
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.registry import load_target
from robopolicy.sim.plant import Plant

__all__ = ["SimRobot", "main"]

SLIP_NS = 250_000_000
ORPHAN_S = 3.0
"""How long the robot outlives its supervisor, so that the real-time loop can still brake it."""


class SimRobot:
    """The robot's main loop.

    Args:
        bus: Shared memory.
        plant: What is moved.
        controller: Who moves it.
        card: Rates.
        run_dir: Where setpoint records go; None keeps none.
    """

    def __init__(self, bus: Bus, plant: Plant, controller: RobotController, card: Embodiment, run_dir: Path | None):
        self._bus, self._plant, self._controller, self._run_dir = bus, plant, controller, run_dir
        self._tick_ns, self._per_frame = round(card.tick_s * 1e9), round(card.setpoint_hz / card.control_hz)
        self._setpoints, self._commands = bus.ring("setpoints"), bus.ring("commands")
        self._cursor, self._done = self._setpoints.newest, 0
        self._scene, self._split, self._index = 0, "", 0
        self._trace: list[np.void] = []
        self._lost = self._slips = 0
        self._behind_ns = 0
        self._failure = ""
        self._base_ns = self._k = 0
        self._first_received_ns = self._last_received_ns = 0

    def anchor(self, now_ns: int) -> None:
        """Tie simulated time zero to ``now_ns``."""
        self._base_ns, self._k = now_ns, 0
        self._publish_state(now_ns)
        self._publish_frame(now_ns)

    @property
    def next_ns(self) -> int:
        """Wall time of the next tick."""
        return self._base_ns + (self._k + 1) * self._tick_ns

    def tick(self, now_ns: int) -> None:
        """Advance the plant by one tick up to :attr:`next_ns`."""
        time_ns = self.next_ns
        self._behind_ns = max(self._behind_ns, now_ns - time_ns)
        if now_ns - time_ns > SLIP_NS:
            self._base_ns += now_ns - time_ns
            self._slips += 1
            time_ns = self.next_ns
        self._receive(now_ns)
        self._plant.servo(self._controller.play(time_ns, now_ns))
        self._k += 1
        self._publish_state(time_ns)
        if self._k % self._per_frame == 0:
            self._publish_frame(time_ns)
            self._publish_report()
        self._obey()

    def _receive(self, now_ns: int) -> None:
        records, self._cursor, lost = self._setpoints.since(self._cursor)
        self._lost += lost
        for record in records:
            self._controller.receive(record, now_ns)
            self._trace.append(record)

    def _obey(self) -> None:
        while self._done < self._commands.newest:
            self._done += 1
            order = self._commands.read(self._done)
            if order is None:
                continue
            kind = bytes(order["kind"]).decode()
            self._save_trace()
            if kind == "reset":
                self._reset(bytes(order["split"]).decode(), int(order["index"]))
            elif kind == "recover":
                self._controller.recover()
            self._publish_report()

    def _reset(self, split: str, index: int) -> None:
        self._failure = ""
        try:
            self._plant.reset(split, index)
        except (ValueError, RuntimeError, LookupError) as error:
            self._failure = f"reset failed: {error}"
            return
        self._scene, self._split, self._index = self._scene + 1, split, index
        self._controller.reset(self._plant.measure()[0])
        self._cursor = self._setpoints.newest
        self._trace = []
        self._lost = self._slips = self._behind_ns = 0
        self.anchor(monotonic_ns())

    def _publish_state(self, time_ns: int) -> None:
        ring = self._bus.ring("robot")
        record = np.zeros((), ring.dtype)
        record["time_ns"], record["fault"] = time_ns, self._controller.fault
        record["position"], record["velocity"] = self._plant.measure()
        record["target"], record["target_velocity"] = self._controller.target, self._controller.velocity
        ring.write(record)
        self._bus.heartbeat.beat("robot")

    def _publish_frame(self, time_ns: int) -> None:
        write_frame(
            self._bus.ring("frames"),
            self._plant.sense(),
            time_ns=time_ns,
            scene=self._scene,
            step=self._k // self._per_frame,
            split=self._split,
            index=self._index,
        )

    def _publish_report(self) -> None:
        controller, ring = self._controller, self._bus.ring("report")
        record = np.zeros((), ring.dtype)
        record["time_ns"], record["done"], record["scene"], record["ticks"] = (
            monotonic_ns(),
            self._done,
            self._scene,
            self._k,
        )
        for name in ("received", "running", "missing", "gaps", "late", "watchdog_stops"):
            record[name] = getattr(controller, name)
        record["lost"], record["slips"], record["behind_ms"] = self._lost, self._slips, self._behind_ns / 1e6
        record["setpoint_hz"] = _rate(self._trace)
        record["violations"] = [controller.check.violations[kind] for kind in VIOLATIONS]
        record["worst"] = [controller.check.worst[kind] for kind in VIOLATIONS]
        record["at_rest"] = bool(np.abs(controller.velocity).max() < 1e-6)
        drawn = self._plant.initial_state
        record["horizon"], record["initial_width"] = self._plant.horizon, len(drawn)
        record["initial_state"][: len(drawn)] = drawn
        record["failed"], record["message"] = bool(self._failure), self._failure.encode()[:TEXT_BYTES]
        ring.write(record)

    def _save_trace(self) -> None:
        """Every setpoint of the scene, as it came over the wire, into ``setpoints/<split>-<index>.npy``."""
        if self._run_dir is None or not self._trace:
            return
        folder = self._run_dir / "setpoints"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{self._split or 'start'}-{self._index:05d}.npy", np.array(self._trace), allow_pickle=False)


def _rate(trace: list[np.void]) -> float:
    """Setpoints per second over the wire, by the sender's times, over at most the last two seconds."""
    tail = trace[-200:]
    span = int(tail[-1]["sent_ns"]) - int(tail[0]["sent_ns"]) if len(tail) > 1 else 0
    return (len(tail) - 1) / (span / 1e9) if span > 0 else 0.0


def main(argv: list[str] | None = None) -> int:
    """Run until the supervisor ends this process, or is gone."""
    arguments: list[Any] = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    card = config.card
    bus = Bus.attach({"robot", "report", "frames"})
    plant = load_target(config.robot.plant)(
        card, cameras=config.cameras, task=config.robot.task, **config.robot.options
    )
    controller = RobotController(card, watchdog_s=config.deploy.robot_watchdog_s)
    controller.reset(plant.measure()[0])
    robot = SimRobot(bus, plant, controller, card, run_dir if config.deploy.record_setpoints else None)
    for note in become_realtime(config.deploy.robot_priority):
        print(f"robot: {note}", file=sys.stderr)
    clock = MonotonicClock()
    robot.anchor(clock.now_ns())
    orphan_ns = 0
    try:
        while not orphan_ns or clock.now_ns() < orphan_ns:
            clock.sleep_until_ns(robot.next_ns)
            robot.tick(clock.now_ns())
            if not orphan_ns and parent.lost:
                orphan_ns = clock.now_ns() + round(ORPHAN_S * 1e9)
    finally:
        plant.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
