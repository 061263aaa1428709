"""The trajectory clock: path time, on which chunks are scheduled and the executor is ticked.

::

    wall time   |----|----|----|----|----|----|----|----|
    path time   |----|----|---|---|--|--|    |    |----|     rate 1 ... slower before running dry ... 0 for missed ticks

Path time advances by ``tick * rate`` per tick and never faster than the wall clock, so nothing is ever caught up with.
A chunk is made from an observation, and its actions follow the *path* as it was at that moment; so the times of a chunk
are mapped by :meth:`Pace.path_ns` of its observation, however slowly the path has gone since.
"""

from __future__ import annotations

import bisect
from collections import deque

from robopolicy.errors import ConfigError, explain

__all__ = ["Arrivals", "Pace"]

SLOWEST = 0.3
CREEP = 0.02
"""Rate beside a robot that has slowed itself down to nothing: time has to go on, if only to brake."""
SLEW_PER_S = 2.0
"""Change of the rate per second: from full speed to the slowest in a third of a second."""
MOST_KNOTS = 4096


class Pace:
    """Path time as a function of wall time.

    Args:
        tick_s: Nominal tick.
        slowest: Least rate while anything is scheduled.

    Attributes:
        rate: Of the last tick.
        lag_ns: Wall time minus path time; never falls.
    """

    def __init__(self, tick_s: float, *, slowest: float = SLOWEST):
        if not (tick_s > 0 and 0 < slowest <= 1):
            raise ConfigError(
                explain("pace out of range", given=(tick_s, slowest), allowed="tick > 0, 0 < slowest <= 1")
            )
        self._tick_s, self._tick_ns, self._slowest = tick_s, round(tick_s * 1e9), slowest
        self.begin()

    def begin(self) -> None:
        """A new stream: path time is wall time."""
        self.rate, self.lag_ns, self._forgotten_ns = 1.0, 0, 0
        self._wall: deque[int] = deque(maxlen=MOST_KNOTS)
        self._lag: deque[int] = deque(maxlen=MOST_KNOTS)

    def advance(self, wall_ns: int, wanted: float = 1.0, scale: float = 1.0) -> int:
        """One tick later. -> path time [ns] of the wall time ``wall_ns``.

        Args:
            wall_ns: Time of the tick, one nominal tick after that of the last call.
            wanted: Rate asked for, kept between ``slowest`` and 1 and approached smoothly.
            scale: What the controller does of it, 0..1 (:class:`robopolicy.protocols.SpeedScaled`).
        """
        goal = min(max(wanted, self._slowest), 1.0) * min(max(scale, CREEP), 1.0)
        step = SLEW_PER_S * self._tick_s
        self.rate += min(max(goal - self.rate, -step), step)
        if self.rate < 1.0:
            self._later(wall_ns, round((1.0 - self.rate) * self._tick_ns))
        return wall_ns - self.lag_ns

    def wait(self, wall_ns: int, missed_ns: int) -> None:
        """The robot was told nothing for ``missed_ns`` until ``wall_ns``: the path stood still."""
        if missed_ns > 0:
            self._later(wall_ns, missed_ns)

    def path_ns(self, wall_ns: int) -> int:
        """Path time at a wall time, of now or of the past."""
        if not self._wall or wall_ns >= self._wall[-1]:
            return wall_ns - self.lag_ns
        at = bisect.bisect_right(self._wall, wall_ns)
        lag_ns = self._lag[at - 1] if at else self._forgotten_ns
        # of a wait only the end is noted: during it the path stood where it went on from
        return min(wall_ns - lag_ns, self._wall[at] - self._lag[at])

    def _later(self, wall_ns: int, more_ns: int) -> None:
        if len(self._lag) == MOST_KNOTS:
            self._forgotten_ns = self._lag[0]
        self.lag_ns += more_ns
        self._wall.append(wall_ns)
        self._lag.append(self.lag_ns)


class Arrivals:
    """How fast the path may go if it is not to run dry before the next chunk comes.

    Expects the next chunk as long after the last one as nineteen of the last twenty came, and when that has passed, in
    as much time again as it is overdue. Forgets: a slow first inference is gone after twenty chunks.

    Args:
        margin_s: Path time that should be left when a chunk comes.
    """

    def __init__(self, margin_s: float):
        self._margin_s = margin_s
        self._gaps_s: deque[float] = deque(maxlen=20)
        self.begin()

    def begin(self) -> None:
        """A new stream: the time to its first chunk says nothing."""
        self._last_ns = 0

    def arrived(self, now_ns: int) -> None:
        """A chunk was accepted."""
        if self._last_ns:
            self._gaps_s.append((now_ns - self._last_ns) / 1e9)
        self._last_ns = now_ns

    @property
    def expected_gap_s(self) -> float:
        """Time from one chunk to the next; 0 before two have come."""
        ordered = sorted(self._gaps_s)
        return ordered[int(0.95 * (len(ordered) - 1) + 0.5)] if ordered else 0.0

    def wanted_rate(self, now_ns: int, remaining_s: float) -> float:
        """Rate at which what is scheduled lasts until the next chunk.

        Args:
            now_ns: Now.
            remaining_s: Path time left in the schedule; 0 when nothing is scheduled.
        """
        expected_s = self.expected_gap_s
        if not self._last_ns or expected_s == 0.0 or remaining_s <= 0.0:
            return 1.0
        waited_s = (now_ns - self._last_ns) / 1e9
        wait_s = expected_s - waited_s if waited_s < expected_s else waited_s - expected_s
        return min(remaining_s / (wait_s + self._margin_s), 1.0)
