"""Intervals and exact tests for success counts; each function names its formula's source.

Wilson intervals are for display (mean coverage near the nominal level), Clopper-Pearson for claims (coverage never
below it), the exact McNemar test with Newcombe's paired interval for two policies on the same episodes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import betaincinv

from robopolicy.errors import DataError, explain

__all__ = [
    "clopper_pearson",
    "mcnemar_exact",
    "paired_conditional",
    "paired_newcombe",
    "percentile",
    "rate",
    "summary",
    "wilson",
]

Interval = tuple[float, float]


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion.

    Wilson 1927, JASA 22:209; the form of Newcombe 1998, Stat. Med. 17:857, method 3::

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Args:
        successes: 0 <= successes <= n.
        n: Trials. With none nothing is known: (0, 1).
        confidence: Two-sided level inside (0, 1).

    Raises:
        DataError: counts or level out of range.
    """
    successes, n = _counts(successes=successes, n=n)
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the formula gives 0 and 1 only up to rounding.
    lower = 0.0 if successes == 0 else (centre - half) / scale
    upper = 1.0 if successes == n else (centre + half) / scale
    return lower, upper


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a proportion: its coverage is never below ``confidence``.

    Clopper and Pearson 1934, Biometrika 26:404, as beta quantiles: lower ``B(a/2; k, n-k+1)``, upper
    ``B(1-a/2; k+1, n-k)``.

    Args:
        successes: 0 <= successes <= n.
        n: Trials. With none nothing is known: (0, 1).
        confidence: Two-sided level inside (0, 1).

    Raises:
        DataError: counts or level out of range.
    """
    k, n = _counts(successes=successes, n=n)
    _z(confidence)
    tail = (1 - confidence) / 2
    lower = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    upper = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return lower, upper


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that A and B succeed equally often on the same episodes.

    McNemar 1947, Psychometrika 12:153, in the exact conditional form: under the null the episodes that only A
    solves are Binomial(only_a + only_b, 1/2), and ``p = min(1, 2 P(X <= min(only_a, only_b)))``. Computed in integers.

    Args:
        only_a: Episodes that A solves and B does not.
        only_b: Episodes that B solves and A does not. With no such episode on either side p is 1.

    Raises:
        DataError: a negative or fractional count.
    """
    only_a, only_b = _counts(only_a=only_a, only_b=only_b)
    n = only_a + only_b
    term = total = 1
    for k in range(min(only_a, only_b)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def paired_newcombe(
    both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Difference of success rates A - B on the same episodes. -> (difference, lower, upper).

    Newcombe 1998, Stat. Med. 17:2635, method 10: the two Wilson intervals are joined by square-and-add with the
    correlation ``phi``, whose numerator is corrected towards zero by n/2 when it is positive.

    Args:
        both: Episodes that A and B both solve.
        only_a: Episodes that only A solves.
        only_b: Episodes that only B solves.
        neither: Episodes that neither solves. With no episode at all: (0, -1, 1).
        confidence: Two-sided level inside (0, 1).

    Raises:
        DataError: a negative or fractional count, or a level out of range.
    """
    both, only_a, only_b, neither = _counts(both=both, only_a=only_a, only_b=only_b, neither=neither)
    n = both + only_a + only_b + neither
    if n == 0:
        return 0.0, -1.0, 1.0
    a, b = both + only_a, both + only_b
    lower_a, upper_a = wilson(a, n, confidence)
    lower_b, upper_b = wilson(b, n, confidence)
    margins = a * (n - a) * b * (n - b)
    cross = both * neither - only_a * only_b
    phi = (max(cross - n / 2, 0.0) if cross > 0 else cross) / math.sqrt(margins) if margins else 0.0
    difference = (only_a - only_b) / n
    below = _square_and_add(a / n - lower_a, upper_b - b / n, phi)
    above = _square_and_add(upper_a - a / n, b / n - lower_b, phi)
    return difference, max(-1.0, difference - below), min(1.0, difference + above)


def paired_conditional(
    both: int, only_a: int, only_b: int, neither: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Difference A - B with the exact conditional interval. -> (difference, lower, upper).

    Clopper-Pearson on the share of A among the discordant episodes, scaled by their fraction d/n: ``d/n (2 s - 1)``. It
    excludes 0 exactly when :func:`mcnemar_exact` is below ``1 - confidence``, so interval and test cannot disagree; it
    treats d as fixed (Newcombe 1998, Stat. Med. 17:2635, method 3), so prefer :func:`paired_newcombe` for the size.

    Raises:
        DataError: a negative or fractional count, or a level out of range.
    """
    both, only_a, only_b, neither = _counts(both=both, only_a=only_a, only_b=only_b, neither=neither)
    n, discordant = both + only_a + only_b + neither, only_a + only_b
    lower, upper = clopper_pearson(only_a, discordant, confidence)
    if n == 0:
        return 0.0, -1.0, 1.0
    share = discordant / n
    return (only_a - only_b) / n, share * (2 * lower - 1), share * (2 * upper - 1)


def rate(successes: int, n: int) -> dict[str, Any]:
    """Counts with both intervals: ``{successes, n, rate, wilson_95, clopper_pearson_95}``; rate is None when n is 0."""
    return {
        "successes": int(successes),
        "n": int(n),
        "rate": successes / n if n else None,
        "wilson_95": list(wilson(successes, n)),
        "clopper_pearson_95": list(clopper_pearson(successes, n)),
    }


def percentile(values: Sequence[float], q: float) -> float:
    """Nearest-rank percentile: the smallest value with at least q percent of all at or below it.

    Always a value that was observed, never an interpolation (Hyndman and Fan 1996, Am. Stat. 50:361, definition 1).
    With n values it equals the maximum for every q > 100 (1 - 1/n): a p95 says no more than the maximum below n = 20.

    Args:
        values: [n], finite, n >= 1.
        q: 0 to 100.

    Raises:
        DataError: no values, a value that is not finite, or q out of range.
    """
    array = np.asarray(list(values), dtype=float)
    if not array.size or not np.isfinite(array).all() or not 0 <= q <= 100:
        raise DataError(
            explain("no percentile", given=f"{array.size} values, q={q}", allowed="at least one, all finite, q 0..100")
        )
    return float(np.percentile(array, q, method="inverted_cdf"))


def summary(values: Iterable[float]) -> dict[str, Any]:
    """``{n, mean, min, p50, p95, max}`` with nearest-rank percentiles; all but n are None when there are no values.

    Raises:
        DataError: a value is not finite.
    """
    found = [float(value) for value in values]
    if not found:
        return {"n": 0, **dict.fromkeys(("mean", "min", "p50", "p95", "max"))}
    return {
        "n": len(found),
        "mean": math.fsum(found) / len(found),
        "min": min(found),
        "p50": percentile(found, 50),
        "p95": percentile(found, 95),
        "max": max(found),
    }


def _square_and_add(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise DataError(explain("the confidence level must lie inside (0, 1)", given=confidence, mend="use 0.95"))
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def _counts(**named: Any) -> list[int]:
    """The arguments as Python integers; numpy integers would overflow in the products above."""
    found = []
    for name, value in named.items():
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = -1
        if isinstance(value, bool) or number != value or number < 0:
            raise DataError(explain(f"{name} must be a whole number >= 0", given=value))
        found.append(number)
    if "n" in named and found[0] > found[1]:
        raise DataError(explain("more successes than trials", given=f"{found[0]} of {found[1]}"))
    return found
