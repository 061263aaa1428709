"""A driver in front of another: what the black box and the dry run have in common.

Capabilities (:class:`~robopolicy.protocols.SpeedScaled`, :class:`~robopolicy.protocols.ForceSensing`) are part of a
driver's class, so a proxy has exactly those of the driver behind it; :func:`in_front_of` sees to it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.types import RobotState, Setpoint

__all__ = ["CAPABILITIES", "DriverProxy", "in_front_of", "with_capabilities"]


class DriverProxy:
    """Hands everything on.

    Args:
        inner: The driver behind it.

    Attributes:
        buffered: Whether the robot keeps setpoints until their time.
    """

    def __init__(self, inner: Any):
        self._inner = inner
        self.buffered: bool = inner.buffered
        self._flags = 0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot."""
        card: Embodiment = self._inner.embodiment
        return card

    @property
    def flags(self) -> int:
        """Flags of the next setpoints."""
        return self._flags

    @flags.setter
    def flags(self, flags: int) -> None:
        self._flags = self._inner.flags = flags

    def connect(self) -> None:
        """Connect."""
        self._inner.connect()

    def enable(self) -> None:
        """Power on under the present pose."""
        self._inner.enable()

    def read(self) -> RobotState:
        """Newest measured state."""
        state: RobotState = self._inner.read()
        return state

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one limited setpoint."""
        self._inner.command(setpoint, t_ns)

    def hold(self) -> None:
        """End the stream on purpose."""
        self._inner.hold()

    def stop(self) -> None:
        """Stop by the robot's own means."""
        self._inner.stop()

    def close(self) -> None:
        """Let go of the connection."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _scale(self) -> float:
        return float(self._inner.speed_scale)

    def _force(self) -> NDArray[np.float64]:
        return np.asarray(self._inner.wrench(), float)


CAPABILITIES: dict[str, Any] = {
    "speed_scale": property(lambda self: self._scale()),
    "wrench": lambda self: self._force(),
}
"""Name of a capability -> the member that a proxy then has."""


def in_front_of(kind: type[Any], inner: Any, *arguments: Any) -> Any:
    """A proxy ``kind(inner, *arguments)`` with the capabilities that ``inner`` has."""
    has = [name for name in CAPABILITIES if hasattr(type(inner), name)]
    return with_capabilities(kind, has)(inner, *arguments)


def with_capabilities(kind: type[Any], names: list[str]) -> type[Any]:
    """The class with the members of the capabilities named."""
    return type(kind.__name__, (kind,), {name: CAPABILITIES[name] for name in names}) if names else kind
