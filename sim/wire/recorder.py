"""Keeps and judges every setpoint that arrived at a simulated controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.setpoint_check import VIOLATIONS, SetpointCheck
from robopolicy.embodiment import Embodiment

__all__ = ["WireRecorder"]

Vector = NDArray[np.float64]
MOST_KEPT = 200_000


class WireRecorder:
    """Judges the sequence of setpoints at the nominal period, whenever they arrive.

    A robot that carries each setpoint out at once shows what a late one means: it waits. So two consecutive setpoints
    may differ by what one period allows, however long the second took.

    Args:
        card: Whose limits.
        period_s: Nominal time between two setpoints.
        resolution: [J] smallest step that the wire can say, channel units.

    Attributes:
        received: Setpoints that arrived.
        cycles, running, missing: Controller cycles; those between the first and the last setpoint of a stream; and of
            these the ones without a new setpoint for longer than three periods.
        trace: (arrival time ns, position [J]) of every setpoint, the first ``200,000``.
    """

    def __init__(self, card: Embodiment, period_s: float, resolution: ArrayLike = 0.0):
        self.period_s, self._period_ns = period_s, round(period_s * 1e9)
        self.check = SetpointCheck(card, tick_s=period_s, resolution=resolution)
        self.reset(card.home_position)

    def reset(self, standing: ArrayLike) -> None:
        """A new scene: all counts begin again, the robot stands at ``standing`` [J]."""
        self.received = self.cycles = self.running = self.missing = self.streams = self.watchdog_stops = 0
        self.trace: list[tuple[int, Vector]] = []
        self.first_violation = ""
        self._last_ns, self._streaming = 0, False
        self.check.reset_counts()
        self.restart(standing)

    def restart(self, standing: ArrayLike | None) -> None:
        """A stream ends here; the next one has to begin where the robot stands ([J])."""
        self._streaming = False
        self.check.restart(None if standing is None else np.array(standing, float))

    def setpoint(self, position: ArrayLike, now_ns: int) -> list[str]:
        """Take one setpoint [J], channel units. -> kinds of limits that it violates."""
        value = np.array(position, float)
        self.streams += not self._streaming
        self._streaming, self._last_ns = True, now_ns
        self.received += 1
        if len(self.trace) < MOST_KEPT:
            self.trace.append((now_ns, value))
        found = self.check.check(self.received * self._period_ns, value)
        if found and not self.first_violation:
            self.first_violation = f"{', '.join(found)} at setpoint {self.received}: {np.round(value, 5).tolist()}"
        return found

    def cycle(self, now_ns: int) -> None:
        """Count one controller cycle."""
        self.cycles += 1
        if self._streaming:
            self.running += 1
            self.missing += now_ns - self._last_ns > 3 * self._period_ns

    def silent_s(self, now_ns: int) -> float:
        """Seconds since the last setpoint of the present stream; 0 between streams."""
        return (now_ns - self._last_ns) / 1e9 if self._streaming else 0.0

    @property
    def violated(self) -> int:
        """Violations of any kind."""
        return sum(self.check.violations.values())

    def report(self) -> dict[str, Any]:
        """Counts as plain values."""
        counted = ("received", "streams", "cycles", "running", "missing", "watchdog_stops")
        return {
            **{name: int(getattr(self, name)) for name in counted},
            "violations": dict(self.check.violations),
            "worst": {kind: float(self.check.worst[kind]) for kind in VIOLATIONS},
            "violated": self.violated,
            "first_violation": self.first_violation,
            "last_setpoint_ns": self._last_ns,
        }

    def save(self, path: Path) -> None:
        """Write the trace: ``time_ns`` [N] and ``position`` [N, J] in an npz."""
        times = np.array([t for t, _ in self.trace], np.int64)
        values = np.array([q for _, q in self.trace], float)
        np.savez(path, time_ns=times, position=values)
