"""Two reports on the same episodes: exact paired test, difference with its interval, verdict in words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, explain
from robopolicy.evaluation import svg
from robopolicy.evaluation.files import write_json
from robopolicy.evaluation.html import Markup, Section, columns, facts, figure, table, tiles, write_html
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.evaluation.statistics import mcnemar_exact, paired_conditional, paired_newcombe, rate

__all__ = ["INITIAL_STATE_TOLERANCE", "SIGNIFICANCE", "compare"]

INITIAL_STATE_TOLERANCE = 1e-6
"""Largest difference of an initial-state value (m, rad) that still counts as the same episode."""

SIGNIFICANCE = 0.05
"""Two-sided level of the verdict."""

_ENOUGH = 200  # pairs with power 0.85 to tell 0.70 from 0.80; 100 pairs have about 0.5
_Key = tuple[str, str, str, int]


def compare(
    dir_a: str | os.PathLike[str], dir_b: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Compare two evaluations episode by episode; success is ``success_at_end``.

    Args:
        dir_a: Folder of the first report (or its report.json).
        dir_b: Folder of the second.
        out: Folder for compare.json and compare.html.

    Returns:
        ``{schema_version, n, both, only_a, only_b, neither, difference, newcombe_95, conditional_95, mcnemar_p,
        verdict, notes, a, b, episodes_only_a, episodes_only_b, unpaired_a, unpaired_b}``; ``a`` and ``b`` describe
        the sides on the paired episodes.

    Raises:
        ReportNotFoundError: a report is missing.
        DataError: a report is broken, no episode is in both, or an episode began from different states.
        StorageError: ``out`` cannot be written.
    """
    reports = read_report(dir_a), read_report(dir_b)
    sides = [{episode.key: episode for episode in episodes_of(report)} for report in reports]
    keys = _paired_keys(sides[0], sides[1], dir_a, dir_b)
    won = [[side[key].success_at_end for key in keys] for side in sides]
    cells = _cells(won[0], won[1])
    difference, low, high = paired_newcombe(**cells)
    _, strict_low, strict_high = paired_conditional(**cells)
    result: dict[str, Any] = {
        "schema_version": 1,
        "n": len(keys),
        **cells,
        "difference": difference,
        "newcombe_95": [low, high],
        "conditional_95": [strict_low, strict_high],
        "mcnemar_p": mcnemar_exact(cells["only_a"], cells["only_b"]),
        "a": _side(dir_a, reports[0], won[0]),
        "b": _side(dir_b, reports[1], won[1]),
        "episodes_only_a": [key[3] for key, a, b in zip(keys, *won, strict=True) if a and not b],
        "episodes_only_b": [key[3] for key, a, b in zip(keys, *won, strict=True) if b and not a],
        "unpaired_a": sorted(key[3] for key in sides[0] if key not in sides[1]),
        "unpaired_b": sorted(key[3] for key in sides[1] if key not in sides[0]),
    }
    result["verdict"] = _verdict(result)
    result["notes"] = _notes(result, reports)
    if out is not None:
        result = write_json(Path(out) / "compare.json", result)
        write_html(Path(out) / "compare.html", "Comparison on the same episodes", _sections(result))
    return result


def _paired_keys(
    a: Mapping[_Key, EpisodeResult], b: Mapping[_Key, EpisodeResult], dir_a: object, dir_b: object
) -> list[_Key]:
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
    strangers = [key[3] for key in keys if not _same_start(a[key].initial_state, b[key].initial_state)]
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


def _same_start(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= INITIAL_STATE_TOLERANCE for x, y in zip(a, b, strict=True))


def _span(side: Mapping[_Key, EpisodeResult]) -> str:
    key, indices = next(iter(side)), sorted(key[3] for key in side)
    return f"{key[0]}, {key[1]}, {key[2]}, episodes {indices[0]} to {indices[-1]}"


def _cells(a: Sequence[bool], b: Sequence[bool]) -> dict[str, int]:
    pairs = list(zip(a, b, strict=True))
    return {
        "both": pairs.count((True, True)),
        "only_a": pairs.count((True, False)),
        "only_b": pairs.count((False, True)),
        "neither": pairs.count((False, False)),
    }


def _side(path: str | os.PathLike[str], report: Mapping[str, Any], won: Sequence[bool]) -> dict[str, Any]:
    header = report["header"]
    known = ("policy", "checkpoint", "checkpoint_hash", "task", "embodiment", "split")
    return {"path": os.fspath(path), **{name: header.get(name) for name in known}, **rate(sum(won), len(won))}


def _verdict(result: Mapping[str, Any]) -> str:
    low, high = result["newcombe_95"]
    figures = (
        f"{result['a']['rate'] * 100:.1f} % for A, {result['b']['rate'] * 100:.1f} % for B, difference "
        f"{result['difference'] * 100:+.1f} points, 95 % interval {low * 100:+.1f} to {high * 100:+.1f}, "
        f"exact p = {result['mcnemar_p']:.2g}"
    )
    if result["mcnemar_p"] >= SIGNIFICANCE:
        return f"no difference shown at n={result['n']}: {figures}"
    better, worse = ("A", "B") if result["difference"] > 0 else ("B", "A")
    return f"{better} succeeds more often than {worse} at n={result['n']}: {figures}"


def _notes(result: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if result["n"] < _ENOUGH and result["mcnemar_p"] >= SIGNIFICANCE:
        notes.append(f"a difference of 10 points is often missed with fewer than {_ENOUGH} pairs")
    low, high = result["newcombe_95"]
    if (low > 0 or high < 0) != (result["mcnemar_p"] < SIGNIFICANCE):
        notes.append("interval and exact test disagree at this sample size; the verdict follows the exact test")
    for side in ("a", "b"):
        if result[f"unpaired_{side}"]:
            notes.append(f"{len(result[f'unpaired_{side}'])} episodes are only in {side.upper()} and were left out")
    first, second = (report["header"] for report in reports)
    if first.get("checkpoint_hash") and first.get("checkpoint_hash") == second.get("checkpoint_hash"):
        notes.append("both reports are of the same checkpoint")
    if first.get("control") != second.get("control"):
        notes.append("the two runs used different control or latency settings")
    for package in sorted(reports[0]["versions"].keys() & reports[1]["versions"].keys()):
        ours, theirs = (report["versions"][package] for report in reports)
        if ours != theirs:
            notes.append(f"{package} differs: {ours} for A, {theirs} for B")
    return notes


def _sections(result: Mapping[str, Any]) -> list[Section]:
    low, high = result["newcombe_95"]
    a, b = result["a"], result["b"]
    strict = result["conditional_95"]
    bars = svg.proportion_bars(
        [
            (f"{name} {side['policy']}", side["successes"], side["n"], side["wilson_95"])
            for name, side in (("A", a), ("B", b))
        ]
    )
    forest = svg.difference_bar(result["difference"], low, high, label_a="A", label_b="B")
    crossed = table(
        ("", "B succeeds", "B fails"),
        [("A succeeds", result["both"], result["only_a"]), ("A fails", result["only_b"], result["neither"])],
    )
    body: list[Markup | str] = [
        result["verdict"][0].upper() + result["verdict"][1:] + ".",
        tiles(
            [
                ("A minus B", f"{result['difference'] * 100:+.1f}", "points", ""),
                ("95 % interval", f"{low * 100:+.1f} to {high * 100:+.1f}", "points, Newcombe, paired", ""),
                ("exact McNemar p", f"{result['mcnemar_p']:.2g}", f"{result['n']} pairs", ""),
            ]
        ),
        columns(
            figure(bars, "Each side with its Wilson 95 % interval."), figure(forest, "Difference on the same episodes.")
        ),
        crossed,
        *(f"Note: {note}." for note in result["notes"]),
    ]
    differ = facts(
        {
            "only A succeeds": ", ".join(map(str, result["episodes_only_a"])) or None,
            "only B succeeds": ", ".join(map(str, result["episodes_only_b"])) or None,
            "exact conditional 95 % interval": f"{strict[0] * 100:+.1f} to {strict[1] * 100:+.1f} points",
        }
    )
    shown = ("path", "policy", "checkpoint", "checkpoint_hash", "task", "embodiment", "split")
    return [
        Section("Verdict", body),
        Section("Where they differ", [differ]),
        Section(
            "The two sides", [table(("", "A", "B"), [(name.replace("_", " "), a[name], b[name]) for name in shown])]
        ),
    ]
