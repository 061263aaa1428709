"""A comparison of two ways to do the same, measured in turns, with a control that must miss the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.errors import DataError, explain

__all__ = ["Comparison", "Contender", "cpu_rate", "interleaved"]

Contender = Callable[[int], float]
"""Runs one round, given its number, and returns its rate (samples per second of CPU or of the clock)."""


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        name: File name of the entry.
        claim: One falsifiable sentence.
        target: Least ratio of ours to theirs.
        ours, theirs: Names among ``rates``.
        control: Name of the contender that takes our place in the control, and what it is.
        unit: Of the rates.
        rates: Contender -> rate of every round, in the order measured.
        facts: Further figures worth keeping.
    """

    name: str
    claim: str
    target: float
    ours: str
    theirs: str
    control: tuple[str, str]
    unit: str
    rates: Mapping[str, list[float]]
    facts: dict[str, Any] = field(default_factory=dict)

    def ratio(self, ours: str | None = None, theirs: str | None = None) -> float:
        """Median over the rounds of the ratio within a round."""
        return float(np.median(self._ratios(ours or self.ours, theirs or self.theirs)))

    @property
    def interval(self) -> tuple[float, float]:
        """Range that holds 95 % of the rounds' ratios."""
        low, high = np.percentile(self._ratios(self.ours, self.theirs), [2.5, 97.5])
        return float(low), float(high)

    @property
    def control_ratio(self) -> float:
        """What the control reaches; the comparison can fail only if this is below the target."""
        name = self.control[0]
        if name == self.theirs:  # against itself: the luckiest round against the unluckiest
            rates = self.rates[name]
            return float(max(rates) / min(rates))
        return self.ratio(name)

    @property
    def reached(self) -> bool:
        """Target reached, and the control missed it."""
        return self.ratio() >= self.target > self.control_ratio

    def _ratios(self, ours: str, theirs: str) -> np.ndarray:
        return np.array(self.rates[ours]) / np.array(self.rates[theirs])


def interleaved(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Rates of every contender, one round of each after the other, so that a busy moment meets all of them.

    The first round warms caches and is dropped. Every other round goes backwards through the contenders.
    """
    if rounds < 1:
        raise DataError(explain("nothing to measure", given=f"{rounds} rounds", allowed=">= 1"))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        names = list(contenders)
        for name in names if number % 2 else reversed(names):
            rate = contenders[name](number)
            if number:
                rates[name].append(rate)
    return rates


def cpu_rate(work: Callable[[Any], Any], parts: list[Any], samples: int) -> float:
    """Samples per CPU-second of this process while ``work`` runs over ``parts``."""
    start = time.process_time()
    for part in parts:
        work(part)
    return samples / max(time.process_time() - start, 1e-9)
