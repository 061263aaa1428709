"""Tests that may be looked at after every episode, and stopped at any time, without losing their level.

A gambler who stakes a fixed fraction of the wealth on every episode cannot expect to gain where the hypothesis is true,
so by Ville's inequality the wealth ever reaches 1/alpha with probability at most alpha, however often one looks
(Waudby-Smith and Ramdas 2024, JRSS-B 86:1, betting confidence sequences; fractions are mixed as in Cover's universal
portfolio). For outcomes ``x`` in [a, b] and a hypothetical mean ``m``, staking the fraction ``f`` on "more than m"::

    wealth_f(m) = prod_i (1 - f + f (x_i - a) / (m - a)),     evidence(m) = mean over f of wealth_f(m)

and likewise with ``(b - x_i) / (b - m)`` for "less than m". Each wealth falls (rises) with m, so the means that are not
refuted form an interval; each side gets alpha / 2. The wealth depends on how often each outcome occurred, not on the
order, but the *stopping* does: episodes count in the order of their indices, because short episodes, which arrive
first, are mostly successes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.errors import ConfigError, DataError, explain
from robopolicy.evaluation.paired import same_start
from robopolicy.evaluation.result import EpisodeResult

__all__ = ["DIFFERENCES", "OUTCOMES", "StopRule", "confidence_sequence", "decide", "log_evidence", "verdict"]

OUTCOMES = (0.0, 1.0)
"""Failure and success of an episode."""

DIFFERENCES = (-1.0, 0.0, 1.0)
"""Success of A minus success of B on one episode: only B, both or neither, only A."""

_Key = tuple[str, str, str, int]
_FRACTIONS = (np.arange(64) + 0.5) / 64
_SOURCE = "Waudby-Smith and Ramdas 2024, JRSS-B 86:1"


def log_evidence(
    values: Sequence[float], counts: ArrayLike, mean: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of the evidence that the true mean is above ``mean``, and that it is below.

    Args:
        values: [K] possible outcomes, rising; the first and the last bound them.
        counts: [..., K] how often each occurred.
        mean: The hypothesis, inside the bounds.

    Returns:
        Two arrays [...]; reject "at most ``mean``" once the first ever reaches ``log(1 / alpha)``.

    Raises:
        DataError: a mean out of bounds.
    """
    outcome, n = np.asarray(values, float), np.asarray(counts, float)
    lower, upper = outcome[0], outcome[-1]
    if not lower <= mean <= upper:
        raise DataError(explain("no such mean", given=mean, allowed=f"{lower:g} to {upper:g}"))
    return _log_wealth(outcome - lower, n, mean - lower), _log_wealth(upper - outcome, n, upper - mean)


def confidence_sequence(values: Sequence[float], counts: ArrayLike, alpha: float = 0.05) -> tuple[float, float]:
    """Interval for the mean that holds at all sample sizes at once with probability 1 - ``alpha``.

    Args:
        values: [K] possible outcomes, rising.
        counts: [K] how often each occurred.
        alpha: Probability that it ever misses the mean.

    Raises:
        DataError: ``alpha`` outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise DataError(explain("alpha must lie inside (0, 1)", given=alpha, mend="use 0.05"))
    outcome, n = np.asarray(values, float), np.asarray(counts, float)
    lower, upper = float(outcome[0]), float(outcome[-1])
    if n.sum() == 0:
        return lower, upper
    mean, limit = float(outcome @ n / n.sum()), math.log(2 / alpha)
    low = _bisect(lower, mean, lambda m: bool(log_evidence(values, n, m)[0] < limit))
    high = _bisect(upper, mean, lambda m: bool(log_evidence(values, n, m)[1] < limit))
    return low, high


def decide(
    values: Sequence[float], counts: Sequence[int], null: float, *, alpha: float = 0.05, margin: float | None = None
) -> str | None:
    """``above``, ``below``, ``equal`` or None; arguments as of :func:`verdict`."""
    limit = math.log(2 / alpha)
    above, below = log_evidence(values, counts, null)
    if max(above, below) >= limit:
        return "above" if above >= limit else "below"
    if margin is None:
        return None
    # the interval lies within the margin exactly if both of its ends are refuted
    lower, upper = max(null - margin, values[0]), min(null + margin, values[-1])
    inside = log_evidence(values, counts, lower)[0] >= limit and log_evidence(values, counts, upper)[1] >= limit
    return "equal" if inside else None


def verdict(
    values: Sequence[float], counts: Sequence[int], null: float, *, alpha: float = 0.05, margin: float | None = None
) -> dict[str, Any]:
    """Where things stand after these outcomes.

    Args:
        values: [K] possible outcomes, rising.
        counts: [K] how often each occurred.
        null: Mean that is to be told from the true one.
        alpha: Probability of any wrong decision, at all looks together.
        margin: Also decide ``equal`` once the whole interval is within this distance of ``null``; None: never.

    Returns:
        ``{decision, n, estimate, interval, alpha, margin, null, e_above, e_below, source}``; the decision is
        ``above``, ``below``, ``equal`` or None.
    """
    above, below = (float(value) for value in log_evidence(values, counts, null))
    low, high = confidence_sequence(values, counts, alpha)
    n = int(sum(counts))
    return {
        "decision": decide(values, counts, null, alpha=alpha, margin=margin),
        "n": n,
        "estimate": float(np.dot(values, counts)) / n if n else None,
        "interval": [low, high],
        "alpha": alpha,
        "margin": margin,
        "null": null,
        "e_above": math.exp(min(above, 600.0)),
        "e_below": math.exp(min(below, 600.0)),
        "source": _SOURCE,
    }


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """When an evaluation has seen enough; asked with the first n results, by index, for n = 1, 2, ...

    Attributes:
        against: Results of the other side by episode key: compare with it on the same episodes.
        target: Or a success rate to be told from.
        alpha: See :func:`verdict`.
        margin: See :func:`verdict`.
        source: Where ``against`` is from.

    Raises:
        ConfigError: neither or both of ``against`` and ``target``, or a number out of range.
    """

    against: Mapping[_Key, EpisodeResult] | None = None
    target: float | None = None
    alpha: float = 0.05
    margin: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if (self.against is None) == (self.target is None):
            mend = "give against=REPORT or target=RATE"
            raise ConfigError(explain("a sequential test needs another report, or a rate, and not both", mend=mend))
        numbers = {"target": self.target, "alpha": self.alpha, "margin": self.margin}
        wrong = {name: value for name, value in numbers.items() if value is not None and not 0 < value < 1}
        if wrong:
            raise ConfigError(explain("out of range", given=wrong, allowed="numbers inside (0, 1)"))

    def require(self, keys: Iterable[_Key]) -> None:
        """Refuse, before any rollout, episodes that the other side does not have.

        Raises:
            DataError: naming them.
        """
        absent = [key for key in keys if self.against is not None and key not in self.against]
        if absent:
            mend = "evaluate the other side on the same task, embodiment, split and episodes first"
            raise DataError(explain("the other report lacks episodes", given=f"{len(absent)}: {absent[:3]}", mend=mend))

    def __call__(self, results: Sequence[EpisodeResult]) -> bool:
        """Whether these results decide."""
        values, counts, null = self._counted(results)
        return decide(values, counts, null, alpha=self.alpha, margin=self.margin) is not None

    def state(self, results: Sequence[EpisodeResult]) -> dict[str, Any]:
        """What :func:`verdict` says of the results, with ``kind`` ``paired`` or ``target``.

        Raises:
            DataError: an episode that the other side does not have.
        """
        values, counts, null = self._counted(results)
        kind = "target" if self.against is None else "paired"
        return {"kind": kind, **verdict(values, counts, null, alpha=self.alpha, margin=self.margin)}

    def _counted(self, results: Sequence[EpisodeResult]) -> tuple[tuple[float, ...], list[int], float]:
        results = [result for result in results if not result.lost]
        if self.against is None:
            assert self.target is not None
            won = sum(result.success_at_end for result in results)
            return OUTCOMES, [len(results) - won, won], self.target
        counts = [0, 0, 0]
        for result in results:
            self.require([result.key])
            other = self.against[result.key]
            if not same_start(result.initial_state, other.initial_state):
                what = "an episode began from another state than in the other report, so the two are no pair"
                raise DataError(explain(what, given=result.key, mend="evaluate both with one version"))
            counts[1 + result.success_at_end - other.success_at_end] += 1
        return DIFFERENCES, counts, 0.0


def _log_wealth(gain: NDArray[np.float64], n: NDArray[np.float64], fair: float) -> NDArray[np.float64]:
    """log of the mean over fractions of prod (1 - f + f gain / fair) ** n. [..., K] -> [...]."""
    if fair <= 0:
        return np.where((n * (gain > 0)).sum(-1) > 0, np.inf, (n * np.log1p(-_FRACTIONS.mean())).sum(-1))
    factors = np.log1p(_FRACTIONS[:, None] * (gain / fair - 1))  # [F, K]
    wealth = n @ factors.T
    top = wealth.max(-1, keepdims=True)
    return (top + np.log(np.exp(wealth - top).mean(-1, keepdims=True)))[..., 0]


def _bisect(outside: float, inside: float, accepted: Any) -> float:
    """The end of the accepted interval between a bound and a point inside."""
    if accepted(outside):
        return outside
    for _ in range(50):
        middle = (outside + inside) / 2
        if accepted(middle):
            inside = middle
        else:
            outside = middle
    return outside
