"""Limits of one command channel: position, velocity, acceleration and jerk, whatever is requested."""

from __future__ import annotations

from robopolicy.control.braking import brake, brake_extent, ramp_inverse, ramp_rest, reach_bound, toward
from robopolicy.control.verdict import Limit

__all__ = ["ChannelLimiter"]

_SHRINK = 1.0 - 1e-6
"""Working limits are smaller than the stated ones by this, so that rounding of the sent positions (third differences
amplify it by 8 / dt^3) cannot show as a breach."""
_HALVINGS = 8


class ChannelLimiter:
    """State and limits of one channel in tick units (see :mod:`robopolicy.control.braking`).

    Invariant: braking from (p, v, a) breaks no limit. :meth:`propose` returns an acceleration that keeps it, the
    request's own when that does; :meth:`commit` takes the step. The request is untouched when it is within the limits.

    Args:
        lower, upper: Position range in channel units.
        velocity, acceleration, jerk: Limits in channel units per second, second^2, second^3; may be infinite.
        tick_s: Seconds between two commands.
    """

    __slots__ = (
        *("A", "J", "V", "a", "high", "low", "lower", "p", "request", "tolerance", "travel", "upper", "v"),
        *("_passes", "_rate", "_rate_before"),
    )

    def __init__(
        self, lower: float, upper: float, velocity: float, acceleration: float, jerk: float, tick_s: float
    ) -> None:
        self.lower, self.upper = float(lower), float(upper)
        # An infinite limit becomes the smallest finite one that never binds.
        self.V = min(float(velocity) * tick_s, self.upper - self.lower) * _SHRINK
        self.A = min(float(acceleration) * tick_s**2 * _SHRINK, 2.0 * self.V)
        self.J = min(float(jerk) * tick_s**3 * _SHRINK, 2.0 * self.A)
        self.tolerance = 1e-7 * self.J
        self.reset(0.5 * (self.lower + self.upper))

    def reset(self, p: float, v: float = 0.0, a: float = 0.0) -> bool:
        """Begin at (p, v, a), in tick units. A start outside the range widens the range until the channel is back.

        Returns:
            Whether that state is viable.
        """
        self.p, self.v, self.a = float(p), float(v), float(a)
        self.low, self.high = min(self.lower, self.p), max(self.upper, self.p)
        self.request = self.p
        self._rate = self._rate_before = 0.0
        self.travel = 0.0
        self._passes = False
        within = abs(self.v) <= self.V and abs(self.a) <= self.A
        return within and self._keeps_velocity(self.v, self.a) and self._keeps_position(self.p, self.v, self.a)

    @property
    def braking(self) -> float:
        """Acceleration of the next tick on the way to rest; always admissible."""
        return brake(self.v, self.a, self.A, self.J)

    def propose(self, request: float) -> tuple[float, int]:
        """Admissible acceleration for the next tick that serves ``request`` best, and the limits the request met.

        Args:
            request: Position asked for at the next tick; finite.
        """
        bits = 0
        if request < self.lower:
            request, bits = self.lower, int(Limit.POSITION)
        elif request > self.upper:
            request, bits = self.upper, int(Limit.POSITION)
        locked = self.request == self.p
        self._rate_before, self._rate = self._rate, request - self.request
        self.request = request
        v = request - self.p
        a = v - self.v
        met = 0
        if not -self.V <= v <= self.V:
            met |= Limit.VELOCITY
        if not -self.A <= a <= self.A:
            met |= Limit.ACCELERATION
        if not -self.J <= a - self.a <= self.J:
            met |= Limit.JERK
        if not met:
            if not self._keeps_velocity(v, a):
                met = Limit.VELOCITY
            elif not (locked or self._can_stay(v, a)):
                met = Limit.JERK
            elif not self._keeps_position(request, v, a):
                met = Limit.POSITION
            else:
                self._passes = True
                return a, bits
        self._passes = False
        return self._chase(request), bits | int(met)

    def viable(self, x: float) -> bool:
        """Whether the step with acceleration ``x`` leads to a viable state; also measures ``travel``."""
        v = self.v + x
        return self._keeps_velocity(v, x) and self._keeps_position(self.p + v, v, x)

    def after(self, x: float) -> tuple[float, float, float]:
        """The state (p, v, a) that acceleration ``x`` leads to."""
        if self._passes and x == self.request - self.p - self.v:
            return self.request, self.request - self.p, x
        v = self.v + x
        return min(max(self.p + v, self.low), self.high), v, x

    def commit(self, x: float) -> float:
        """Take the step and return the new position."""
        self.p, self.v, self.a = self.after(x)
        if self.low < self.lower or self.high > self.upper:
            self._settle()
        return self.p

    def commit_braking(self) -> float:
        """Take one tick of braking and forget the request."""
        position = self.commit(self.braking)
        self.request, self._rate, self._rate_before = position, 0.0, 0.0
        self._passes = False
        return position

    def _settle(self) -> None:
        low, high = self.low, self.high
        self.low, self.high = self.lower, self.upper
        if not (self.low <= self.p <= self.high and self._keeps_position(self.p, self.v, self.a)):
            self.low, self.high = low, high

    def _keeps_velocity(self, v: float, a: float) -> bool:
        if a > 0:
            return v + ramp_rest(a, self.J) <= self.V
        return v - ramp_rest(-a, self.J) >= -self.V

    def _keeps_position(self, p: float, v: float, a: float) -> bool:
        up = reach_bound(v, a, self.A, self.J)
        down = reach_bound(-v, -a, self.A, self.J)
        self.travel = up if up > down else down
        if p + up <= self.high and p - down >= self.low:
            return True
        low, high, _ = brake_extent(v, a, self.A, self.J)
        self.travel = max(high, -low)
        return p + high <= self.high and p + low >= self.low

    def _can_stay(self, v: float, a: float) -> bool:
        """Whether the request can still be followed one tick on, if it keeps its rate or its change of rate."""
        for rate in (self._rate, 2.0 * self._rate - self._rate_before):
            following = rate - v
            if -self.A <= following <= self.A and -self.J <= following - a <= self.J:
                return True
        return False

    def _chase(self, request: float) -> float:
        v, a, A, J = self.v, self.a, self.A, self.J
        highest = min(A, a + J, ramp_inverse(max(self.V - v, 0.0), J))
        lowest = max(-A, a - J, -ramp_inverse(max(self.V + v, 0.0), J))
        rate = min(max(self._rate, -self.V), self.V)
        x = toward(self.p - request, v, a, rate, A, J, lowest, highest, self.tolerance)
        if self.viable(x):
            return x
        # Braking is known to be viable; find what can be had between it and the wish.
        safe, wish = self.braking, x
        for _ in range(_HALVINGS):
            x = 0.5 * (safe + wish)
            if self.viable(x):
                safe = x
            else:
                wish = x
        self.viable(safe)
        return safe
