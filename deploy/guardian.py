"""The second tiny process: when the real-time loop falls silent in motion, it stops the robot by the vendor's own way.

``python -m robopolicy.deploy.guardian RUN_DIR PARENT_PID`` is started by the supervisor. It holds a
:class:`~robopolicy.protocols.StopChannel` of the driver's class, opened before anything moves, and never a driver: it
can stop the robot and nothing else. A robot without such a channel is left to the watchdog inside its controller.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from robopolicy.control.clock import MonotonicClock
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, read_daemon
from robopolicy.deploy.process import ParentWatch, become_realtime, ignore_terminal_signals
from robopolicy.deploy.state_machine import State
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded, StopChannel
from robopolicy.registry import load_target

__all__ = ["Guardian", "main", "open_channel"]

POLL_S = 0.004
RETRY_S = 0.02
OPEN_AGAIN_S = 1.0
AFTER_PARENT_S = 3.0
"""It outlives the supervisor by as much as the real-time loop may need to brake."""


def open_channel(config: DaemonConfig) -> StopChannel | None:
    """The robot's independent way to stop, or None where it has none.

    Raises:
        DeployError: it has one and it cannot be opened.
    """
    kind = load_target(config.robot.target)
    return kind.stop_channel(config.card, dict(config.robot.driver)) if isinstance(kind, Guarded) else None


class Guardian:
    """Watches one word of shared memory.

    Args:
        bus: Shared memory.
        channel: The way to stop; None watches only.
        timeout_s: Silence of the real-time loop that is one too many.

    Attributes:
        stops: Stops sent.
        failed: Attempts that did not reach the robot.
    """

    def __init__(self, bus: Bus, channel: StopChannel | None, timeout_s: float):
        self._bus, self._channel, self._timeout_s = bus, channel, timeout_s
        self._stopped_for: int | None = None
        self._again_ns = 0
        self.stops = self.failed = 0

    @property
    def channel(self) -> StopChannel | None:
        """The way to stop."""
        return self._channel

    @channel.setter
    def channel(self, channel: StopChannel | None) -> None:
        self._channel = channel

    def poll(self, now_ns: int) -> bool:
        """Look once. -> whether a stop was sent now."""
        self._bus.heartbeat.beat("guardian", now_ns)
        age_s = self._bus.heartbeat.age_s("realtime", now_ns)
        found = self._bus.ring("state").latest()
        if age_s is None or found is None or age_s <= self._timeout_s or now_ns < self._again_ns:
            return False
        tick, state = int(found[1]["tick"]), State(int(found[1]["state"]))
        if not state.streaming or tick == self._stopped_for or self._channel is None:
            return False
        try:
            self._channel.stop()
        except DeployError as error:
            self.failed += 1
            self._again_ns = now_ns + round(RETRY_S * 1e9)
            print(f"guardian: {error}", file=sys.stderr, flush=True)
            return False
        # one stop per silence: a loop that comes back has a new tick
        self._stopped_for = tick
        self.stops += 1
        print(
            f"guardian: the loop was silent for {age_s * 1e3:.1f} ms; the robot was stopped",
            file=sys.stderr,
            flush=True,
        )
        return True


def main(argv: list[str] | None = None) -> int:
    """Watch until the supervisor ends this process, or is gone."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    run_dir, parent = Path(arguments[0]), ParentWatch(int(arguments[1]))
    ignore_terminal_signals()
    config = read_daemon(run_dir)
    guardian = Guardian(Bus.attach(set()), None, config.deploy.guardian_timeout_s)
    clock, opened_ns, refused = MonotonicClock(), 0, False
    kind = load_target(config.robot.target)
    guards = isinstance(kind, Guarded)
    print(f"guardian: {'' if guards else 'no '}stop channel of {config.robot.target}", file=sys.stderr, flush=True)
    for note in become_realtime(config.deploy.guardian_priority):
        print(f"guardian: {note}", file=sys.stderr)
    end_ns = 0
    while not end_ns or clock.now_ns() < end_ns:
        now_ns = clock.now_ns()
        if guards and guardian.channel is None and now_ns - opened_ns > OPEN_AGAIN_S * 1e9:
            opened_ns = now_ns
            try:
                guardian.channel = open_channel(config)
            except DeployError as error:
                if not refused:
                    print(f"guardian: {error}", file=sys.stderr, flush=True)
                refused = True
        guardian.poll(now_ns)
        if not end_ns and parent.lost:
            end_ns = now_ns + round(AFTER_PARENT_S * 1e9)
        time.sleep(POLL_S)
    if guardian.channel is not None:
        guardian.channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
