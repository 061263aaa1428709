"""From setpoints at a tick to positions at 1 kHz: a uniform cubic B-spline, and the clock that it is played by.

A B-spline with the setpoints as control points is twice continuously differentiable, and its velocity, acceleration and
jerk are averages of the setpoints' first, second and third differences (de Boor, A Practical Guide to Splines, chapter
X): what was limited as differences of the setpoints stays within the same limits at 1 kHz, and no limit is applied a
second time. The price is that corners are cut by a sixth of the second difference, below 0.1 mrad at 100 Hz.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["KnotSpline", "RobotClock"]

Vector = NDArray[np.float64]
MOST_KNOTS = 256
REST = 1e-9


class KnotSpline:
    """Setpoints by their time, played smoothly; brakes along its last velocity when they end.

    Args:
        tick_s: Time between two setpoints.
        max_acceleration: [J] with which it brakes.
        max_jerk: [J]; the brake is weaker where a tick is too short for it.

    Attributes:
        dry: Whether the setpoints ended in motion; they are ignored until :meth:`begin`.
        at_rest: Whether what was played last stands.
    """

    def __init__(self, tick_s: float, max_acceleration: Vector, max_jerk: Vector):
        self._tick_s = tick_s
        self._time_s = -math.inf
        self._drop = np.minimum(max_acceleration, max_jerk * tick_s) * tick_s**2
        self.begin(np.zeros_like(max_acceleration))

    def begin(self, standing: Vector) -> None:
        """Stand at ``standing`` [J] until a setpoint comes."""
        self._knots: dict[int, Vector] = {}
        self._standing = np.array(standing, float)
        self._zero_s: float | None = None
        # newest knot, newest of them that was sent, and newest that has been played with
        self._last = self._sent = self._used = -1
        self.dry = self._braking = False
        self.at_rest = True

    def put(self, time_s: float, position: Vector) -> bool:
        """Take the setpoint to be reached at ``time_s``. -> whether it is part of the stream."""
        if self.dry or self._braking or len(self._knots) >= MOST_KNOTS:
            return False
        if self._zero_s is None:
            if time_s < self._time_s + 2 * self._tick_s:
                return bool(np.abs(position - self._standing).max() < REST)
            self._zero_s, self._last, self._sent, self._used = time_s, -1, -1, -1
        number = round((time_s - self._zero_s) / self._tick_s)
        if number <= self._sent or number - self._sent > MOST_KNOTS:
            return False
        held = self._knot(self._last)
        if number != self._sent + 1 or number <= self._used:
            # late or after a hole: harmless only where the arm stands, and is to stand for as long as it has been late
            stands = np.abs(held - self._knot(self._last - 1)).max() < REST
            if not stands or (number <= self._used and np.abs(position - held).max() > REST):
                return False
        for missing in range(self._last + 1, number):
            self._knots[missing] = held
        self._knots[number], self._sent, self._last = position, number, max(self._last, number)
        return True

    def end(self) -> None:
        """The stream ends on purpose: brake from what must still be played, then stand."""
        self._braking = True

    def at(self, time_s: float) -> Vector:
        """[J] at a time that never goes back."""
        self._time_s = time_s
        if self._zero_s is None:
            return self._standing.copy()
        x = (time_s - self._zero_s) / self._tick_s
        if x < -2.0:
            if self._braking:
                self._settle(self._standing)
            return self._standing.copy()
        i = math.floor(x)
        self._used = i + 2
        if self._braking:
            # what lies beyond the present span is forgotten; the brake begins there
            for number in [n for n in self._knots if n > i + 2]:
                del self._knots[number]
            self._last = min(self._last, i + 2)
        while self._last < i + 2:
            self._brake()
        u = x - i
        p0, p1, p2, p3 = (self._knot(i + k) for k in (-1, 0, 1, 2))
        for number in [n for n in self._knots if n < i - 2]:
            self._standing = self._knots.pop(number)
        self.at_rest = bool(max(np.abs(p - p0).max() for p in (p1, p2, p3)) < REST)
        if self.at_rest and (i > self._sent + 1 or self._braking):
            self._settle(p3)
            return p3.copy()
        b0, b3 = (1 - u) ** 3, u**3
        b1, b2 = 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1
        value: Vector = (b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3) / 6.0
        return value

    def _knot(self, number: int) -> Vector:
        return self._knots.get(number, self._standing)

    def _brake(self) -> None:
        newest, before = self._knot(self._last), self._knot(self._last - 1)
        step = newest - before
        if np.abs(step).max() >= REST and not self._braking:
            self.dry = True
        slower = np.sign(step) * np.maximum(np.abs(step) - self._drop, 0.0)
        self._last += 1
        self._knots[self._last] = newest + slower

    def _settle(self, standing: Vector) -> None:
        """Stands: the next stream may begin at any time."""
        dry = self.dry
        self.begin(standing)
        self.dry = dry


class RobotClock:
    """Path time that follows the host's clock smoothly, in steps of the robot's cycles.

    The robot's cycle is exact but its clock is another one than the host's, by which setpoints are stamped; a process
    wakes up some hundred microseconds too early or late. Playing by the host's clock would turn that into velocity.

    Args:
        longest_ratio: Rate of path time per robot time at most, and its inverse at least; 1.02 for a real robot.
    """

    BANDWIDTH, SMOOTHING_S = 2.0, 0.05

    def __init__(self, longest_ratio: float = 1.02):
        self._longest = longest_ratio
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """Path time is ``now_s`` now."""
        self.time_s, self._rate, self._error = now_s, 1.0, 0.0

    def advance(self, cycle_s: float, now_s: float) -> float:
        """One robot cycle has passed. -> path time."""
        share = min(cycle_s / self.SMOOTHING_S, 1.0)
        self._error += share * (now_s - self.time_s - self._error)
        low, high = 1.0 / self._longest, self._longest
        self._rate = min(max(self._rate + self.BANDWIDTH**2 * self._error * cycle_s, low), high)
        rate = min(max(self._rate + 2.0 * self.BANDWIDTH * self._error, low), high)
        self.time_s += rate * cycle_s
        return self.time_s
