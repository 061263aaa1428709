"""What a sweep has found so far: ``sweep.json`` for programs, ``sweep.md`` for people, written after every job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.cli.sweep_grid import Job
from robopolicy.evaluation.files import write_json, write_text
from robopolicy.evaluation.statistics import wilson

__all__ = ["pooled", "write_table"]


def write_table(out: Path, jobs: Sequence[Job], outcomes: Sequence[Mapping[str, Any]], command: str) -> str:
    """Write both files and return the markdown.

    Args:
        out: Folder of the sweep.
        jobs: In their order.
        outcomes: Of each job, from :func:`robopolicy.cli.sweep_job.read_outcome`, with ``why`` where it failed.
        command: Shown at the head.
    """
    rows = [{"name": j.name, "swept": dict(j.swept), **o} for j, o in zip(jobs, outcomes, strict=True)]
    groups = pooled(jobs, outcomes)
    write_json(out / "sweep.json", {"schema_version": 1, "command": command, "jobs": rows, "pooled": groups})
    text = _markdown(rows, groups, command)
    write_text(out / "sweep.md", text)
    return text


def pooled(jobs: Sequence[Job], outcomes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for jobs that differ by their seed only; of those that are finished.

    Returns:
        ``swept``, ``seeds``, ``jobs`` (finished, all), ``validation_loss`` (mean), ``successes``, ``n``, ``wilson_95``
        of all their episodes together, ``success_by_seed``, ``cpu_s`` (sum).
    """
    members: dict[tuple[tuple[str, str], ...], list[tuple[Job, Mapping[str, Any]]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        members.setdefault(job.group, []).append((job, outcome))
    rows = []
    for group, entries in members.items():
        done = [(job, outcome) for job, outcome in entries if outcome["status"] == "finished"]
        losses = [o["validation_loss"] for _, o in done if o["validation_loss"] is not None]
        rated = [(job, o) for job, o in done if o["n"]]
        successes, n = (sum(o[key] for _, o in rated) for key in ("successes", "n"))
        rows.append(
            {
                "swept": dict(group),
                "seeds": [job.seed for job, _ in done if job.seed is not None],
                "jobs": [len(done), len(entries)],
                "validation_loss": sum(losses) / len(losses) if losses else None,
                "successes": successes if rated else None,
                "n": n if rated else None,
                "wilson_95": list(wilson(successes, n)) if rated else None,
                "success_by_seed": {job.seed or job.name: o["successes"] / o["n"] for job, o in rated},
                "cpu_s": sum(o["cpu_s"] for _, o in done),
            }
        )
    return rows


def _markdown(rows: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]], command: str) -> str:
    lines = ["# Sweep", "", f"`{command}`", ""]
    if any(len(group["seeds"]) > 1 for group in groups):
        lines += [
            "Seeds pooled:",
            "",
            "| settings | seeds | validation loss | success | CPU s |",
            "|---|---|---|---|---|",
        ]
        for group in groups:
            settings = ", ".join(f"{key}={value}" for key, value in group["swept"].items()) or "as the recipe"
            seeds = ", ".join(group["seeds"]) or "none yet"
            lines.append(f"| {settings} | {seeds} | {_loss(group)} | {_success(group)} | {group['cpu_s']:.0f} |")
        lines.append("")
    lines += ["| job | state | validation loss | success | CPU s |", "|---|---|---|---|---|"]
    for row in rows:
        cpu = "" if row["cpu_s"] is None else f"{row['cpu_s']:.0f}"
        lines.append(f"| {row['name']} | {row['status']} | {_loss(row)} | {_success(row)} | {cpu} |")
    failed = [row for row in rows if row.get("why")]
    if failed:
        lines += ["", *(f"- {row['name']}: {row['why']}" for row in failed)]
    return "\n".join(lines) + "\n"


def _loss(row: Mapping[str, Any]) -> str:
    return "" if row["validation_loss"] is None else f"{row['validation_loss']:.5f}"


def _success(row: Mapping[str, Any]) -> str:
    if not row["n"]:
        return ""
    low, high = row["wilson_95"]
    return f"{row['successes'] / row['n']:.3f} ({low:.3f} to {high:.3f}), {row['successes']} of {row['n']}"
