"""What the limiter did to a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["CLEAR", "Limit", "Verdict"]


class Limit(enum.IntFlag):
    """Limits that a request can meet, in the order in which they are applied. Values are stable: they go into logs."""

    FINITE = 1
    POSITION = 2
    VELOCITY = 4
    ACCELERATION = 8
    JERK = 16
    WORKSPACE = 32
    STALENESS = 64
    CLEARANCE = 128
    FOLLOWING = 256
    FORCE = 512
    CLIPPING = 1024


@dataclass(frozen=True)
class Verdict:
    """Outcome of one tick of the limiter.

    Attributes:
        bits: Limits met, as the integer of :class:`Limit`; 0 when the request went through untouched.
        channels: Bit i is set when command channel i was changed.
        fault: Reason of the latched fault, or None.
    """

    bits: int = 0
    channels: int = 0
    fault: str | None = None

    @property
    def clipped(self) -> tuple[str, ...]:
        """Names of the limits met, lower case, in the order of application."""
        return tuple(str(limit.name).lower() for limit in Limit if self.bits & limit)

    @property
    def ok(self) -> bool:
        """Untouched and without fault."""
        return not self.bits and self.fault is None

    @property
    def finite(self) -> bool:
        """The request or the measured state was not finite."""
        return bool(self.bits & Limit.FINITE)

    @property
    def position(self) -> bool:
        """A position limit was met, or the braking distance to it."""
        return bool(self.bits & Limit.POSITION)

    @property
    def velocity(self) -> bool:
        """A velocity limit was met."""
        return bool(self.bits & Limit.VELOCITY)

    @property
    def acceleration(self) -> bool:
        """An acceleration limit was met."""
        return bool(self.bits & Limit.ACCELERATION)

    @property
    def jerk(self) -> bool:
        """A jerk limit was met."""
        return bool(self.bits & Limit.JERK)

    @property
    def workspace(self) -> bool:
        """The TCP, or its braking path, would have left the workspace box."""
        return bool(self.bits & Limit.WORKSPACE)

    @property
    def staleness(self) -> bool:
        """The measured state was too old, or the controller reported a stop."""
        return bool(self.bits & Limit.STALENESS)

    @property
    def clearance(self) -> bool:
        """A part of the robot, or its braking path, would have come too near a plane, a box or another part."""
        return bool(self.bits & Limit.CLEARANCE)


CLEAR = Verdict()
"""The verdict of an untouched request."""
