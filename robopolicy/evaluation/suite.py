"""Many policies on many tasks: one table from single reports, paired differences against one of the policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.errors import ConfigError, explain
from robopolicy.evaluation.compare import paired_keys
from robopolicy.evaluation.files import plain
from robopolicy.evaluation.header import versions
from robopolicy.evaluation.paired import cells, holm, stratified
from robopolicy.evaluation.report import episodes_of
from robopolicy.evaluation.result import EpisodeResult

__all__ = ["SuiteCell", "summarise_suite"]

SCHEMA_VERSION = 1
_SHOWN = ("successes", "n", "success_rate", "wilson_95", "clopper_pearson_95", "success_once", "lost", "lost_attempts")


@dataclass(frozen=True, kw_only=True)
class SuiteCell:
    """One policy on one task with one robot.

    Attributes:
        policy: Label of the policy.
        task: Name of the task.
        embodiment: Name of the robot.
        report: Content of its report.json, None if it was left out.
        folder: Where that stands, relative to the suite.
        left_out: Why there is none.
    """

    policy: str
    task: str
    embodiment: str
    report: Mapping[str, Any] | None = None
    folder: str | None = None
    left_out: str | None = None

    @property
    def column(self) -> str:
        """``task on embodiment``."""
        return f"{self.task} on {self.embodiment}"


def summarise_suite(found: Sequence[SuiteCell], *, base: str, command: str | None = None) -> dict[str, Any]:
    """The content of suite.json.

    Differences are policy minus base on the same episodes. Their p-values are corrected together (Holm), because a
    table of many comparisons finds some difference by chance; every task weighs the same in a policy's overall one.

    Args:
        found: Each policy on each task and robot once.
        base: Label of the policy that the others are compared with.
        command: Command line that makes the suite again.

    Returns:
        ``{schema_version, base, command, policies, columns, cells, left_out, differences, overall, notes, versions}``.

    Raises:
        ConfigError: no such base.
        DataError: reports of one task that are not on the same episodes.
    """
    names = list(dict.fromkeys(cell.policy for cell in found))
    if base not in names:
        raise ConfigError(explain("no such policy to compare with", given=base, allowed=names, mend="base=NAME"))
    there = [cell for cell in found if cell.report is not None]
    differences, overall = _differences(there, names, base)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "base": base,
        "command": command,
        "policies": [_policy(name, [cell for cell in there if cell.policy == name]) for name in names],
        "columns": list(dict.fromkeys(cell.column for cell in there)),
        "cells": [_cell(cell) for cell in there],
        "left_out": [
            {"policy": cell.policy, "column": cell.column, "why": cell.left_out}
            for cell in found
            if cell.report is None
        ],
        "differences": differences,
        "overall": overall,
        "versions": versions(),
    }
    summary["notes"] = _notes(summary, there)
    return plain(summary)


def _policy(name: str, own: Sequence[SuiteCell]) -> dict[str, Any]:
    heads = [cell.report["header"] for cell in own if cell.report is not None]
    first = heads[0] if heads else {}
    extra = first.get("extra", {})
    described = {key: first.get(key) for key in ("policy", "checkpoint", "checkpoint_hash")}
    return {"name": name, **described, "choice": extra.get("checkpoint_choice"), "weights": extra.get("weights")}


def _cell(cell: SuiteCell) -> dict[str, Any]:
    assert cell.report is not None
    own = {key: cell.report.get(key) for key in (*_SHOWN, "sweep", "variants", "missing_episodes")}
    return {"policy": cell.policy, "column": cell.column, "folder": cell.folder, **own, "lost": len(own["lost"] or ())}


def _differences(
    there: Sequence[SuiteCell], names: Sequence[str], base: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of every cell against the base's, and of every policy over all tasks that it shares with the base."""
    reports = {(cell.policy, cell.column): cell for cell in there}
    single: list[dict[str, Any]] = []
    overall: list[dict[str, Any]] = []
    for name in names:
        shared = [c for c in there if c.policy == name and name != base and (base, c.column) in reports]
        strata = {cell.column: _paired(cell, reports[base, cell.column]) for cell in shared}
        if not strata:
            continue
        together = stratified(strata)
        for column, task in together.pop("tasks").items():
            single.append({"policy": name, "column": column, **{k: v for k, v in task.items() if k != "holm_p"}})
        overall.append({"policy": name, "tasks": len(strata), **together})
    for rows in (single, overall):
        corrected = holm({str(number): row["mcnemar_p"] for number, row in enumerate(rows)})
        for number, row in enumerate(rows):
            row["holm_p"] = corrected[str(number)]
    return single, overall


def _paired(cell: SuiteCell, other: SuiteCell) -> dict[str, int]:
    mine, theirs = _by_key(cell), _by_key(other)
    keys = paired_keys(mine, theirs, cell.policy, other.policy)
    return cells([mine[key].success_at_end for key in keys], [theirs[key].success_at_end for key in keys])


def _by_key(cell: SuiteCell) -> dict[tuple[str, str, str, int], EpisodeResult]:
    assert cell.report is not None
    return {episode.key: episode for episode in episodes_of(cell.report)}


def _notes(summary: Mapping[str, Any], there: Sequence[SuiteCell]) -> list[str]:
    notes = []
    lost = sum(cell["lost"] for cell in summary["cells"])
    if lost:
        notes.append(f"{lost} episodes were lost with their simulation and are in no rate")
    hashes: dict[str, str] = {}
    for policy in summary["policies"]:
        same = policy["checkpoint_hash"] and hashes.setdefault(policy["checkpoint_hash"], policy["name"])
        if same and same != policy["name"]:
            notes.append(f"{policy['name']} and {same} are the same checkpoint")
    for package in sorted({name for cell in there if cell.report for name in cell.report["versions"]}):
        seen = {cell.report["versions"].get(package) for cell in there if cell.report} - {None}
        if len(seen) > 1:
            notes.append(
                f"the reports were made with several versions of {package}: {', '.join(sorted(map(str, seen)))}"
            )
    if len({cell["n"] for cell in summary["cells"]}) > 1:
        notes.append("not every cell has the same number of episodes")
    return notes
