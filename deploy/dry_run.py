"""Everything but sending: the real robot is read, the policy decides, the limiter judges, and nothing is commanded.

The driver below stands between arm and robot. What the arm wanted to send is in the black box, tick by tick. Two things
differ from a run in earnest, and cannot be otherwise: the arm's observations do not answer to what was decided, and a
comparison of commanded with measured positions says nothing, for which reason following errors are not judged.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from robopolicy.embodiment import Embodiment
from robopolicy.types import RobotState, Setpoint

__all__ = ["DryDriver"]


class DryDriver:
    """A driver that reads and never sends.

    Connecting and letting go of the connection are the real driver's own; they move and power nothing.

    Args:
        inner: The real driver.

    Attributes:
        unsent: Setpoints that were not sent.
    """

    def __init__(self, inner: Any):
        self._inner = inner
        self.flags = 0
        self.unsent = 0
        self.buffered = getattr(inner, "buffered", True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        card: Embodiment = self._inner.embodiment
        return card

    def read(self) -> RobotState:
        """Newest measured state of the real robot."""
        state: RobotState = self._inner.read()
        return state

    def enable(self) -> None:
        """Power nothing on."""

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Count the setpoint and let it go."""
        self.unsent += 1

    def hold(self) -> None:
        """There is no stream to end."""

    def stop(self) -> None:
        """There is no motion to stop."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if hasattr(self._inner, "close"):
            self._inner.close()
