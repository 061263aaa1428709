"""Success against inference latency and under variants of the simulation, every point on the same episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robopolicy.errors import DataError, explain
from robopolicy.evaluation.paired import cells
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.evaluation.statistics import paired_newcombe, rate, summary

__all__ = ["latency_sweep", "variant_table"]


def latency_sweep(points: Mapping[float, Sequence[EpisodeResult]]) -> list[dict[str, Any]]:
    """Condense the results of a latency sweep.

    Args:
        points: Injected latency (ms) -> results of that run. Each run must hold the same episodes from the same initial
            states, else a difference between points could come from the episodes. One that was lost at some latency is
            left out of all.

    Returns:
        By rising latency: ``{latency_ms, successes, n, rate, wilson_95, clopper_pearson_95, applied_ms,
        missing_setpoints, max_seam_velocity_step, seam_jump_m}``; success is ``success_at_end``.

    Raises:
        DataError: an empty run, or runs over different episodes.
    """
    lost = {result.key for results in points.values() for result in results if result.lost}
    runs = {
        float(latency): sorted((r for r in results if r.key not in lost), key=lambda r: r.key)
        for latency, results in sorted(points.items())
    }
    reference: list[tuple[Any, ...]] | None = None
    for latency, results in runs.items():
        episodes = [(*result.key, result.initial_state) for result in results]
        if not episodes:
            raise DataError(explain("a sweep point has no episodes", given=f"latency_ms={latency:g}"))
        if reference is not None and episodes != reference:
            raise DataError(
                explain(
                    "sweep points must run the same episodes from the same initial states",
                    given=f"latency_ms={latency:g} has {len(episodes)} episodes, the first point {len(reference)}",
                    mend="evaluate every latency with the same task, embodiment, split and episodes",
                )
            )
        reference = episodes
    return [
        {
            "latency_ms": latency,
            **rate(sum(result.success_at_end for result in results), len(results)),
            "applied_ms": summary(result.latency_ms for result in results),
            "missing_setpoints": sum(result.missing_setpoints for result in results),
            "max_seam_velocity_step": max(result.max_seam_velocity_step for result in results),
            "seam_jump_m": summary(r.seam_jump_m for r in results if r.seam_jump_m is not None),
        }
        for latency, results in runs.items()
    ]


def variant_table(runs: Mapping[str, Sequence[EpisodeResult]]) -> list[dict[str, Any]]:
    """Success under each variant of the simulation, and the loss against the first on the same episodes.

    Args:
        runs: Variant -> results, the first being what the others are measured against. A variant may begin an episode
            elsewhere, so only the indices have to agree.

    Returns:
        In the order given: ``{variant, successes, n, rate, wilson_95, clopper_pearson_95, change, change_95}``; the
        change is paired by index (:func:`~robopolicy.evaluation.statistics.paired_newcombe`), None for the first.

    Raises:
        DataError: variants over different episodes.
    """
    lost = {result.index for results in runs.values() for result in results if result.lost}
    tables = {name: {r.index: r.success_at_end for r in rs if r.index not in lost} for name, rs in runs.items()}
    base = next(iter(tables.values()))
    rows = []
    for number, (name, won) in enumerate(tables.items()):
        if won.keys() != base.keys():
            mend = "evaluate every variant on the same episodes"
            raise DataError(explain("variants ran different episodes", given=name, mend=mend))
        counts = cells([won[index] for index in base], [base[index] for index in base])
        change, low, high = paired_newcombe(**counts)
        row = {"variant": name, **rate(sum(won.values()), len(won))}
        rows.append(row | {"change": change if number else None, "change_95": [low, high] if number else None})
    return rows
