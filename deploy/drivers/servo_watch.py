"""Whether a bus of servos is still there, lives, and takes what it is told."""

from __future__ import annotations

from collections import deque

from numpy.typing import NDArray

from robopolicy.errors import DeployError, explain

__all__ = ["BusWatch"]

WINDOW, MOST_MISSES = 50, 25
MOST_UNTAKEN = 5


class BusWatch:
    """Counts answers and compares the goals that servos believe in with those that were written.

    Args:
        make: Of the servos, for messages.
        timeout_s: How long there may be no state that is new.

    Attributes:
        seen_ns: When the newest answer that showed living servos was asked for.
        misses: Requests without a whole answer.
    """

    def __init__(self, make: str, timeout_s: float):
        self._make, self._timeout_s = make, timeout_s
        self.seen_ns = self.misses = self._untaken = 0
        self._lives = True
        self._recent: deque[bool] = deque(maxlen=WINDOW)

    def restart(self, asked_ns: int) -> None:
        """The servos have just answered."""
        self._recent.clear()
        self.seen_ns, self._untaken, self._lives = asked_ns, 0, True

    def missed(self) -> None:
        """A request without a whole answer."""
        self._recent.append(True)
        self.misses += 1

    def answered(self, asked_ns: int, lives: bool) -> None:
        """A whole answer; ``lives``: it shows servos that have advanced."""
        self._recent.append(False)
        self._lives = lives
        if lives:
            self.seen_ns = asked_ns

    def untaken(self, wrong: NDArray) -> bool:
        """Whether goals have not been taken for several answers; ``wrong`` [J]: of this answer."""
        self._untaken = self._untaken + 1 if wrong.any() else 0
        return self._untaken >= MOST_UNTAKEN

    def check(self, now_ns: int) -> float:
        """-> age of the newest state in seconds.

        Raises:
            DeployError: it is older than the timeout, or too many answers are missing.
        """
        age_s, missing = (now_ns - self.seen_ns) / 1e9, sum(self._recent)
        if age_s > self._timeout_s:
            why = "no answers" if self._lives else "the servos answer, but their measurements stand still"
            raise DeployError(
                explain(
                    f"the {self._make} bus stands: {why}",
                    given=f"{age_s:.3f} s",
                    allowed=f"{self._timeout_s} s",
                    mend="look at supply and cables, then connect again",
                )
            )
        if missing > MOST_MISSES:
            raise DeployError(
                explain(
                    f"too many answers of the {self._make} bus are missing",
                    given=f"{missing} of {len(self._recent)}",
                    allowed=MOST_MISSES,
                    mend="look at the cables; with FTDI adapters set latency_timer to 1",
                )
            )
        return age_s
