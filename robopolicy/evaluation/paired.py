"""Two policies on the same episodes of one or several tasks: bootstrap, sample size, many comparisons at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robopolicy.errors import DataError, explain
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe

__all__ = [
    "CELLS",
    "INITIAL_STATE_TOLERANCE",
    "cells",
    "holm",
    "paired_bootstrap",
    "pairs_needed",
    "same_start",
    "stratified",
]

CELLS = ("both", "only_a", "only_b", "neither")
"""How an episode can end for A and B."""

INITIAL_STATE_TOLERANCE = 1e-6
"""Largest difference of an initial-state value (m, rad) that still counts as the same episode."""

Interval = tuple[float, float]


def same_start(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two episodes began from the same state, up to rounding."""
    return len(a) == len(b) and all(abs(x - y) <= INITIAL_STATE_TOLERANCE for x, y in zip(a, b, strict=True))


def cells(won_a: Sequence[bool], won_b: Sequence[bool]) -> dict[str, int]:
    """Counts of :data:`CELLS` over paired outcomes."""
    pairs = list(zip(won_a, won_b, strict=True))
    outcomes = ((True, True), (True, False), (False, True), (False, False))
    return {name: pairs.count(outcome) for name, outcome in zip(CELLS, outcomes, strict=True)}


def paired_bootstrap(
    strata: Sequence[Mapping[str, int]], *, confidence: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval of the mean over strata of the difference of success rates, A minus B.

    Episodes are drawn anew within each stratum, as pairs, so that what makes an episode hard for both cancels (Efron
    and Tibshirani 1993, chapters 8 and 13). A function of its arguments. Without discordant episodes it is (0, 0),
    which says nothing about the next ones: use an exact interval there.

    Args:
        strata: Counts of :data:`CELLS` for each task, each of at least one episode.
        confidence: Two-sided level.
        draws: Resamples.
        seed: Of the resampling.

    Raises:
        DataError: no stratum, or an empty one.
    """
    totals = [sum(stratum[name] for name in CELLS) for stratum in strata]
    if not totals or min(totals) < 1:
        raise DataError(explain("a bootstrap needs at least one episode in every task", given=totals))
    draw = np.random.default_rng(seed)
    mean = np.zeros(draws)
    for stratum, n in zip(strata, totals, strict=True):
        share = np.array([stratum["only_a"], stratum["only_b"], n - stratum["only_a"] - stratum["only_b"]]) / n
        counts = draw.multinomial(n, share, size=draws)
        mean += (counts[:, 0] - counts[:, 1]) / n / len(totals)
    low, high = np.quantile(mean, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return float(low), float(high)


def stratified(strata: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Several tasks together: every task weighs the same in the difference, every discordant episode in the test.

    Under "equally good on every task" each discordant episode of whatever task is a fair coin, so the exact McNemar
    test of the summed counts is the exact stratified test. The interval joins those of the tasks by their distances to
    the estimates (Zou and Donner 2008, Stat. Med. 27:1693); unlike the bootstrap's it does not collapse where no
    episode is discordant.

    Args:
        strata: Task -> counts of :data:`CELLS`.

    Returns:
        ``{difference, interval_95, bootstrap_95, mcnemar_p, tasks}`` with, for each task, ``{n, <cells>, difference,
        newcombe_95, mcnemar_p, holm_p}``; ``holm_p`` is corrected for the number of tasks.
    """
    p_values = {name: mcnemar_exact(s["only_a"], s["only_b"]) for name, s in strata.items()}
    corrected = holm(p_values)
    tasks: dict[str, dict[str, Any]] = {}
    for name, stratum in strata.items():
        difference, low, high = paired_newcombe(*(stratum[cell] for cell in CELLS))
        tasks[name] = {
            "n": sum(stratum[cell] for cell in CELLS),
            **{cell: stratum[cell] for cell in CELLS},
            "difference": difference,
            "newcombe_95": [low, high],
            "mcnemar_p": p_values[name],
            "holm_p": corrected[name],
        }
    mean = math.fsum(task["difference"] for task in tasks.values()) / len(tasks)
    below, above = (
        math.sqrt(math.fsum((task["difference"] - task["newcombe_95"][end]) ** 2 for task in tasks.values()))
        / len(tasks)
        for end in (0, 1)
    )
    return {
        "difference": mean,
        "interval_95": [max(-1.0, mean - below), min(1.0, mean + above)],
        "bootstrap_95": list(paired_bootstrap(list(strata.values()))),
        "mcnemar_p": mcnemar_exact(*(sum(s[cell] for s in strata.values()) for cell in ("only_a", "only_b"))),
        "tasks": tasks,
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected so that any false rejection among them all has probability at most the level.

    Holm 1979, Scand. J. Stat. 6:65: the k-th smallest of m is multiplied by m - k + 1, then made monotone.
    """
    ranked = sorted(p_values, key=lambda name: p_values[name])
    found, worst = {}, 0.0
    for position, name in enumerate(ranked):
        worst = max(worst, min(1.0, (len(ranked) - position) * p_values[name]))
        found[name] = worst
    return {name: found[name] for name in p_values}


def pairs_needed(difference: float, discordant: float, *, power: float = 0.8, level: float = 0.05) -> int | None:
    """Episodes needed for McNemar's test to show a difference of success rates.

    Connor 1987, Biometrics 43:207: ``n = (z_level sqrt(d) + z_power sqrt(d - delta^2))^2 / delta^2``.

    Args:
        difference: delta, success rate of A minus that of B.
        discordant: d, share of the episodes that only one of them solves; at least ``abs(difference)``.
        power: Probability to show it.
        level: Two-sided level of the test.

    Returns:
        None for a difference of 0, which no number of episodes shows.

    Raises:
        DataError: shares that contradict each other.
    """
    delta = abs(difference)
    if not delta <= discordant <= 1:
        mend = "discordant is at least the difference, and at most 1"
        raise DataError(explain("impossible shares", given=f"{difference:g} and {discordant:g}", mend=mend))
    if delta == 0:
        return None
    normal = statistics.NormalDist()
    root = normal.inv_cdf(1 - level / 2) * math.sqrt(discordant)
    root += normal.inv_cdf(power) * math.sqrt(max(discordant - delta * delta, 0.0))
    return math.ceil(root * root / (delta * delta))
