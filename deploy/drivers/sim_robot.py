"""Driver of a simulated robot: the real-time side of the wire to :mod:`robopolicy.deploy.drivers.sim_process`.

Imports no simulator. It knows the robot as it would know a real one: states come with the controller's own time stamp,
setpoints go out with the time at which they are to be reached, and nothing is acknowledged.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.records import FLAG_END, FLAG_MOVING, FLAG_RUNNING
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["SimRobotDriver"]


class SimRobotDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` over shared memory.

    Args:
        card: Embodiment of the robot.
        bus: Shared memory of the daemon.
        tick_s: Time between two setpoints; the robot takes any.
        timeout_s: How long the controller's clock may stand still.

    Attributes:
        flags: Flags of the next setpoints, set by the real-time loop.
    """

    on_bus = True
    buffered = True

    def __init__(self, card: Embodiment, *, bus: Bus, timeout_s: float, tick_s: float = 0.0):
        self._card, self._bus, self._timeout_s = card, bus, timeout_s
        self._ring, self._setpoints = bus.ring("robot"), bus.ring("setpoints")
        self._seen_ns = self._advanced_ns = 0
        self._record: np.void | None = None
        self._streaming = False
        self._last: Setpoint | None = None
        self.flags = 0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    def connect(self) -> None:
        """Nothing to do: the memory is shared from the beginning."""

    def enable(self) -> None:
        """Nothing to do: its motors are always on."""

    def read(self) -> RobotState:
        """Newest measured state.

        Raises:
            DeployError: nothing was ever received, or the controller's time stamp stopped advancing.
        """
        now_ns = monotonic_ns()
        found = self._ring.latest()
        if found is not None:
            self._record = found[1]
            if int(self._record["time_ns"]) != self._seen_ns:
                self._seen_ns, self._advanced_ns = int(self._record["time_ns"]), now_ns
        if self._record is None:
            raise DeployError(explain("the robot has not answered yet", mend="wait, or look into robot.log of the run"))
        # An acknowledged packet proves nothing; only a clock that advances shows that the controller is alive.
        silent_s = (now_ns - self._advanced_ns) / 1e9
        if silent_s > self._timeout_s:
            raise DeployError(
                explain("the robot's clock stands still", given=f"{silent_s:.3f} s", allowed=f"{self._timeout_s} s")
            )
        record = self._record
        return RobotState(
            int(record["time_ns"]),
            np.array(record["position"]),
            np.array(record["velocity"]),
            bool(record["fault"]),
        )

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one limited setpoint."""
        self._send(setpoint, t_ns, self.flags & (FLAG_RUNNING | FLAG_MOVING))
        self._streaming, self._last = True, setpoint

    def hold(self) -> None:
        """End the stream on purpose after its last setpoint; the robot keeps it, powered."""
        if self._streaming and self._last is not None:
            self._send(self._last, monotonic_ns(), FLAG_END)
        self._streaming = False

    def stop(self) -> None:
        """Have the robot forget what is under way, brake by its own means, and hold."""
        if self._streaming and self._last is not None:
            self._send(Setpoint(0, self._last.position), monotonic_ns(), FLAG_END)
        self._streaming = False

    def close(self) -> None:
        """Brake and hold."""
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, setpoint: Setpoint, t_ns: int, flags: int) -> None:
        record = np.zeros((), self._setpoints.dtype)
        record["time_ns"], record["sent_ns"], record["flags"] = setpoint.time_ns, t_ns, flags
        record["position"] = setpoint.position
        self._setpoints.write(record)
