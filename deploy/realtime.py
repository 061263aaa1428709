"""The real-time process: one arm, its driver and its executor on an absolute time grid. Neither torch nor mujoco.

``python -m robopolicy.deploy.realtime RUN_DIR PARENT_PID`` is started by the supervisor.

The grid never slips: tick k is due at ``start + k * tick``. For a robot that keeps setpoints until their time, a tick
that begins late but still before its setpoint is due there is computed as if it had been in time, so the robot sees no
difference; a setpoint whose time has passed is computed but not sent, and when the arm has to stop for such an overrun,
the stop began when it should have. A robot that carries setpoints out at once has waited for a late one: the ticks that
it missed are left out, and the path waits with it. Nothing is ever sent in a burst.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from robopolicy.control.clock import Clock, MonotonicClock
from robopolicy.control.config import ControlConfig
from robopolicy.control.executor import Executor
from robopolicy.deploy.arm import Arm, StreamingDriver
from robopolicy.deploy.blackbox_tape import Tape, TapedArm
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.driver_proxy import in_front_of
from robopolicy.deploy.dry_run import DryDriver, watch_when_dry
from robopolicy.deploy.process import ParentWatch, become_realtime, ignore_terminal_signals
from robopolicy.deploy.records import PROCESSES
from robopolicy.deploy.watch import Watch
from robopolicy.embodiment import Embodiment
from robopolicy.registry import load_target
from robopolicy.schema import build

__all__ = ["assemble_arm", "build_arm", "control_config", "main", "run_loop"]

MOST_TICKS_BEHIND = 100
LEAVE_S = 3.0
"""A loop that is told to end gives up waiting for rest after this long."""


def control_config(config: DaemonConfig) -> ControlConfig:
    """The executor's configuration for the daemon: the state may be as old as the robot's timeout plus the lead.

    Raises:
        ConfigError: an override that ControlConfig does not have.
    """
    lead_s = config.deploy.lookahead_ticks * config.tick_s
    values = {"max_state_age_s": config.robot_timeout_s + lead_s} | dict(config.control)
    return build(ControlConfig, values, "control")


def build_arm(config: DaemonConfig, bus: Bus) -> Arm | TapedArm:
    """Executor, driver and arm of one daemon; what passes between them is noted for the black box."""
    kind = load_target(config.robot.target)
    shared = {"bus": bus} if getattr(kind, "on_bus", False) else {}
    driver = kind(config.card, tick_s=config.tick_s, timeout_s=config.robot_timeout_s, **shared, **config.robot.driver)
    if config.deploy.dry_run:
        driver = in_front_of(DryDriver, driver)
    if not config.deploy.blackbox:
        return assemble_arm(config, config.card, driver, bus)
    tape = Tape(bus.ring("tape"), PROCESSES)
    return tape.arm(assemble_arm(config, config.card, tape.driver(driver), tape.bus(bus)))


def assemble_arm(config: DaemonConfig, card: Embodiment, driver: StreamingDriver, bus: Bus) -> Arm:
    """An arm with its executor around a driver and a bus; the recomputation of a recording makes the same one."""
    executor = Executor(card, control_config(config), config.tick_s, config.robot.clearance)
    dry = config.deploy.dry_run
    watch = Watch(card, config.tick_s, watch_when_dry(config.deploy.watch) if dry else config.deploy.watch)
    return Arm(
        card, executor, driver, bus, config.deploy, tick_s=config.tick_s, watch=watch, sensors=config.has_sensors
    )


def run_loop(
    arm: Arm | TapedArm, clock: Clock, *, tick_ns: int, lookahead_ticks: int, should_leave: LeaveCondition
) -> None:
    """Tick on the absolute grid until ``should_leave`` says so and the arm rests.

    Args:
        arm: What is ticked.
        clock: Real or virtual.
        tick_ns: Grid.
        lookahead_ticks: How late a tick may begin and still count.
        should_leave: Asked before every tick.
    """
    due_ns = clock.now_ns() + tick_ns
    leave_ns = 0
    while True:
        clock.sleep_until_ns(due_ns)
        now_ns = clock.now_ns()
        late_ns = now_ns - due_ns
        if late_ns >= (lookahead_ticks if arm.buffered else 1) * tick_ns:
            arm.overrun(now_ns, late_ns)
        if late_ns > MOST_TICKS_BEHIND * tick_ns or (not arm.buffered and late_ns >= tick_ns):
            # Buffered: suspended or worse, the robot has long stopped by its own watchdog, and nothing is left.
            # Unbuffered: it has waited; what it missed is not sent after it.
            missed = late_ns // tick_ns
            due_ns += missed * tick_ns
            late_ns -= missed * tick_ns
            arm.missed(due_ns, missed)
        reason = should_leave(now_ns)
        if reason and not leave_ns:
            leave_ns = now_ns + round(LEAVE_S * 1e9)
            arm.event(reason, now_ns)
        arm.step(due_ns, late_ns)
        if leave_ns and (arm.at_rest or now_ns > leave_ns):
            return
        due_ns += tick_ns


class LeaveCondition:
    """Says why the loop has to end: it was told to, or the supervisor is gone.

    Args:
        bus: For the supervisor's heartbeat.
        parent: For its death.
        timeout_s: How long it may be silent.
    """

    def __init__(self, bus: Bus, parent: ParentWatch, timeout_s: float):
        self._bus, self._parent, self._timeout_s = bus, parent, timeout_s
        self.told = False

    def __call__(self, now_ns: int) -> str:
        if self.told:
            return "stop"
        age_s = self._bus.heartbeat.age_s("supervisor", now_ns)
        silent = age_s is not None and age_s > self._timeout_s
        return "supervisor_lost" if silent or self._parent.lost else ""


def main(argv: list[str] | None = None) -> int:
    """Run until told to end, or until the supervisor is gone."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    bus = Bus.attach({"state", "setpoints", "schedule", "tape"})
    arm = build_arm(config, bus)
    leave = LeaveCondition(bus, parent, config.deploy.supervisor_timeout_s)
    signal.signal(signal.SIGTERM, lambda *_: setattr(leave, "told", True))
    for note in become_realtime(config.deploy.realtime_priority):
        print(f"realtime: {note}", file=sys.stderr)
    heavy = sorted({"torch", "mujoco", "zarr"} & set(sys.modules))
    print(f"realtime: heavy modules loaded: {heavy}", file=sys.stderr)
    tick_ns = round(config.tick_s * 1e9)
    try:
        run_loop(
            arm, MonotonicClock(), tick_ns=tick_ns, lookahead_ticks=config.deploy.lookahead_ticks, should_leave=leave
        )
    finally:
        arm.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
