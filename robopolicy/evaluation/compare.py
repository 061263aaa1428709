"""Two evaluations on the same episodes: exact paired test, difference with its interval, verdict in words.

A side is one report, or a folder with the reports of several tasks: then every task weighs the same in the difference,
and episodes are only ever compared within their task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, explain
from robopolicy.evaluation.compare_page import compare_sections
from robopolicy.evaluation.files import write_json
from robopolicy.evaluation.html import write_html
from robopolicy.evaluation.paired import (
    CELLS,
    INITIAL_STATE_TOLERANCE,
    cells,
    paired_bootstrap,
    pairs_needed,
    same_start,
    stratified,
)
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.evaluation.sequential import DIFFERENCES, decide, verdict
from robopolicy.evaluation.statistics import mcnemar_exact, paired_conditional, paired_newcombe, rate

__all__ = ["INITIAL_STATE_TOLERANCE", "SIGNIFICANCE", "compare", "paired_keys", "reports_below"]

SIGNIFICANCE = 0.05
"""Two-sided level of the verdict."""

_ENOUGH = 200  # pairs with power 0.85 to tell 0.70 from 0.80; 100 pairs have about 0.5
_Key = tuple[str, str, str, int]


def compare(
    dir_a: str | os.PathLike[str], dir_b: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Compare two evaluations episode by episode; success is ``success_at_end``.

    Args:
        dir_a: Folder of the first report (or its report.json), or a folder with one report for each of several tasks.
        dir_b: Folder of the second.
        out: Folder for compare.json and compare.html.

    Returns:
        ``{schema_version, n, both, only_a, only_b, neither, difference, interval_95, interval_method, newcombe_95,
        bootstrap_95, conditional_95, mcnemar_p, tasks, anytime, pairs_needed, verdict, notes, a, b, episodes_only_a,
        episodes_only_b, unpaired_a, unpaired_b}``. ``a`` and ``b`` describe the sides on the paired episodes; ``tasks``
        has the figures of each task where there are several (newcombe_95 is then None); ``anytime`` holds however
        often one looks, see :mod:`robopolicy.evaluation.sequential`.

    Raises:
        ReportNotFoundError: a report is missing.
        DataError: a report is broken, no episode is in both, or an episode began from different states.
        StorageError: ``out`` cannot be written.
    """
    reports = reports_below(dir_a), reports_below(dir_b)
    sides = _episodes(reports[0], dir_a), _episodes(reports[1], dir_b)
    keys = paired_keys(sides[0], sides[1], dir_a, dir_b)
    won = [[side[key].success_at_end for key in keys] for side in sides]
    result: dict[str, Any] = {
        "schema_version": 1,
        "n": len(keys),
        **_figures(keys, won),
        "a": _side(dir_a, reports[0], won[0]),
        "b": _side(dir_b, reports[1], won[1]),
        "episodes_only_a": [key[3] for key, a, b in zip(keys, *won, strict=True) if a and not b],
        "episodes_only_b": [key[3] for key, a, b in zip(keys, *won, strict=True) if b and not a],
        "unpaired_a": sorted(key[3] for key in sides[0] if key not in sides[1]),
        "unpaired_b": sorted(key[3] for key in sides[1] if key not in sides[0]),
        "stopped_early": any(report.get("sequential") for side in reports for report in side),
    }
    result["verdict"] = _verdict(result)
    result["notes"] = _notes(result, reports)
    if out is not None:
        result = write_json(Path(out) / "compare.json", result)
        write_html(Path(out) / "compare.html", "Comparison on the same episodes", compare_sections(result))
    return result


def reports_below(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The report of a folder, or else those of the folders below it, each task on each robot once.

    Raises:
        ReportNotFoundError: there is none at all.
        DataError: two reports of the same task, robot and split.
    """
    found = [] if (Path(path) / "report.json").is_file() else sorted(Path(path).rglob("report.json"))
    if not found:
        return [read_report(path)]
    reports = [read_report(file) for file in found]
    seen: dict[tuple[str, ...], Path] = {}
    for file, report in zip(found, reports, strict=True):
        key = tuple(report["header"][name] for name in ("task", "embodiment", "split"))
        if key in seen:
            raise DataError(
                explain(
                    "two reports of the same task",
                    given=f"{seen[key]} and {file}",
                    mend="give the folder of one policy and one variant",
                )
            )
        seen[key] = file
    return reports


def _episodes(reports: Sequence[Mapping[str, Any]], path: object) -> dict[_Key, EpisodeResult]:
    return {episode.key: episode for report in reports for episode in episodes_of(report)}


def _figures(keys: Sequence[_Key], won: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Everything that is computed from the paired outcomes."""
    names = [f"{key[0]} on {key[1]}" for key in keys]
    strata = {}
    for name in dict.fromkeys(names):
        rows = [i for i, other in enumerate(names) if other == name]
        strata[name] = cells(*([side[i] for i in rows] for side in won))
    total = {cell: sum(stratum[cell] for stratum in strata.values()) for cell in CELLS}
    several = stratified(strata) if len(strata) > 1 else None
    difference, *newcombe = paired_newcombe(**total)
    if several is not None:
        difference = several["difference"]
    bootstrap = list(paired_bootstrap(list(strata.values())))
    discordant = (total["only_a"] + total["only_b"]) / len(keys)
    return {
        **total,
        "difference": difference,
        "interval_95": newcombe if several is None else several["interval_95"],
        "interval_method": "Newcombe, paired" if several is None else "Newcombe within tasks, joined",
        "newcombe_95": newcombe if several is None else None,
        "bootstrap_95": bootstrap,
        "conditional_95": list(paired_conditional(**total)[1:]),
        "mcnemar_p": mcnemar_exact(total["only_a"], total["only_b"]),
        "tasks": None if several is None else several["tasks"],
        "anytime": _anytime(*won),
        "pairs_needed": {
            "power": 0.8,
            "this_difference": pairs_needed(difference, max(discordant, abs(difference))),
            "ten_points": pairs_needed(0.1, max(discordant, 0.1)),
        },
    }


def _anytime(a: Sequence[bool], b: Sequence[bool]) -> dict[str, Any]:
    """The sequential test over the pairs in their order, and after how many of them it would have been decided."""
    counts, decided_at = [0, 0, 0], None
    for n, (first, second) in enumerate(zip(a, b, strict=True), 1):
        counts[1 + first - second] += 1
        if decided_at is None and first != second and decide(DIFFERENCES, counts, 0.0) is not None:
            decided_at = n
    return {**verdict(DIFFERENCES, counts, 0.0), "decided_at": decided_at}


def paired_keys(
    a: Mapping[_Key, EpisodeResult], b: Mapping[_Key, EpisodeResult], dir_a: object, dir_b: object
) -> list[_Key]:
    """Keys of the episodes that both sides have, sorted.

    Args:
        a: Episodes of one side by key.
        b: Of the other.
        dir_a: Where they are from, for messages.
        dir_b: The same.

    Raises:
        DataError: no common episode, or one that began from different states.
    """
    keys = sorted(a.keys() & b.keys())
    if not keys:
        raise DataError(
            explain(
                "the two reports share no episode",
                given=f"{dir_a}: {_span(a)}; {dir_b}: {_span(b)}",
                allowed="reports with episodes of the same task, embodiment, split and index",
                mend="evaluate both on the same task, embodiment, split and episodes",
            )
        )
    strangers = [key[3] for key in keys if not same_start(a[key].initial_state, b[key].initial_state)]
    if strangers:
        raise DataError(
            explain(
                "episodes of one index began from different states, so they are not pairs",
                given=f"{len(strangers)} of {len(keys)}, first: {strangers[:5]}",
                allowed=f"a difference of at most {INITIAL_STATE_TOLERANCE:g}",
                mend="evaluate both again with one version of robopolicy and mujoco",
            )
        )
    return keys


def _span(side: Mapping[_Key, EpisodeResult]) -> str:
    key, indices = next(iter(side)), sorted(key[3] for key in side)
    return f"{key[0]}, {key[1]}, {key[2]}, episodes {indices[0]} to {indices[-1]}"


def _side(path: str | os.PathLike[str], reports: Sequence[Mapping[str, Any]], won: Sequence[bool]) -> dict[str, Any]:
    headers = [report["header"] for report in reports]
    known = ("policy", "checkpoint", "checkpoint_hash", "task", "embodiment", "split", "variant")
    described = {}
    for name in known:
        values = list(dict.fromkeys(header.get(name) for header in headers))
        described[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return {"path": os.fspath(path), **described, **rate(sum(won), len(won))}


def _verdict(result: Mapping[str, Any]) -> str:
    low, high = result["interval_95"]
    figures = (
        f"{result['a']['rate'] * 100:.1f} % for A, {result['b']['rate'] * 100:.1f} % for B, difference "
        f"{result['difference'] * 100:+.1f} points, 95 % interval {low * 100:+.1f} to {high * 100:+.1f}, "
        f"exact p = {result['mcnemar_p']:.2g}"
    )
    shown, better = result["mcnemar_p"] < SIGNIFICANCE, "A" if result["only_a"] > result["only_b"] else "B"
    if result["stopped_early"]:
        anytime = result["anytime"]
        low, high = anytime["interval"]
        shown, better = anytime["decision"] is not None, "A" if anytime["decision"] == "above" else "B"
        figures = (
            f"difference {anytime['estimate'] * 100:+.1f} points, 95 % confidence sequence {low * 100:+.1f} to "
            f"{high * 100:+.1f}; the run was ended by looking at it, so a p-value would not be valid"
        )
    if not shown:
        return f"no difference shown at n={result['n']}: {figures}"
    worse = "B" if better == "A" else "A"
    return f"{better} succeeds more often than {worse} at n={result['n']}: {figures}"


def _notes(result: Mapping[str, Any], reports: tuple[Sequence[Mapping[str, Any]], ...]) -> list[str]:
    notes = []
    undecided = result["mcnemar_p"] >= SIGNIFICANCE
    if result["n"] < _ENOUGH and undecided:
        notes.append(f"a difference of 10 points is often missed with fewer than {_ENOUGH} pairs")
    needed = result["pairs_needed"]["this_difference"]
    if undecided and needed is not None and needed > result["n"]:
        notes.append(f"if the true difference is the one seen here, about {needed} pairs show it (power 0.8)")
    low, high = result["interval_95"]
    if (low > 0 or high < 0) == undecided and not result["stopped_early"]:
        notes.append("interval and exact test disagree at this sample size; the verdict follows the exact test")
    for side in ("a", "b"):
        if result[f"unpaired_{side}"]:
            notes.append(f"{len(result[f'unpaired_{side}'])} episodes are only in {side.upper()} and were left out")
    pairs = [(a, b) for a in reports[0] for b in reports[1] if _of(a) == _of(b)]
    return notes + list(dict.fromkeys(note for a, b in pairs for note in _unlike(a, b)))


def _of(report: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(report["header"][name] for name in ("task", "embodiment", "split"))


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between two reports of one task beside the policy."""
    notes = []
    first, second = a["header"], b["header"]
    if first.get("checkpoint_hash") and first.get("checkpoint_hash") == second.get("checkpoint_hash"):
        notes.append("both reports are of the same checkpoint")
    if first.get("control") != second.get("control"):
        notes.append("the two runs used different control or latency settings")
    variants = [header.get("variant") or "nominal" for header in (first, second)]
    if variants[0] != variants[1]:
        notes.append(f"the two runs are of different variants: {variants[0]} for A, {variants[1]} for B")
    for package in sorted(a["versions"].keys() & b["versions"].keys()):
        ours, theirs = a["versions"][package], b["versions"][package]
        if ours != theirs:
            notes.append(f"{package} differs: {ours} for A, {theirs} for B")
    return notes
