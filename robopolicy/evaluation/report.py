"""report.json: what was evaluated, how often it succeeded, how fast and how safely, with what versions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, RobopolicyError, StorageError, explain
from robopolicy.evaluation.files import plain, read_json, write_json
from robopolicy.evaluation.header import ReportHeader, plain_header, versions
from robopolicy.evaluation.html import write_html
from robopolicy.evaluation.page import report_sections
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.evaluation.statistics import rate, summary

__all__ = [
    "SCHEMA_VERSION",
    "ReportHeader",
    "ReportNotFoundError",
    "build_report",
    "check_out",
    "episodes_of",
    "read_report",
    "versions",
    "write_report",
]

SCHEMA_VERSION = 1
CRITERION = "success_at_end"
_IDENTITY = ("task", "embodiment", "embodiment_hash", "policy", "checkpoint_hash", "split", "variant")
_MORE = ("variants", "sequential", "films")
_SECTIONS = (
    *("header", "successes", "n", "success_rate", "wilson_95", "success_once", "success_at_end", "lengths"),
    *("latency", "safety", "terminations", "sweep", "versions", "episodes"),
)


class ReportNotFoundError(RobopolicyError, FileNotFoundError):
    """No report.json at the path given."""


def build_report(
    results: Sequence[EpisodeResult | Mapping[str, Any]],
    header: ReportHeader | Mapping[str, Any],
    *,
    sweep: Sequence[Mapping[str, Any]] | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of report.json, without writing it.

    Args:
        results: At least one, each episode once, all of the header's task, embodiment and split.
        header: :class:`ReportHeader` or a mapping with its fields.
        sweep: What :func:`robopolicy.evaluation.sweep.latency_sweep` returned.
        more: Further sections: ``variants`` (:func:`~robopolicy.evaluation.sweep.variant_table`), ``sequential`` (the
            state of a :class:`~robopolicy.evaluation.sequential.StopRule`), ``films`` (what was filmed again).

    Raises:
        DataError: no results, a duplicate, a stranger to the header, or a value that is not finite.

    Returns:
        Episodes that were lost (:data:`~robopolicy.evaluation.result.LOST`) are in ``lost``, not in ``episodes``: every
        rate is over the others, and ``lost_attempts`` counts the restarts behind all of them.
    """
    everything = _checked([_episode(item) for item in results], head := plain_header(header))
    episodes = [episode for episode in everything if not episode.lost]
    if not episodes:
        mend = "see why the simulation died; for a benchmark: robopolicy bench-env check NAME"
        raise DataError(explain("every episode was lost", given=f"{len(everything)} episodes", mend=mend))
    if unknown := set(more or ()) - set(_MORE):
        raise DataError(explain("unknown section of a report", given=sorted(unknown), allowed=_MORE))
    asked = head.pop("episodes")
    done = [episode.index for episode in episodes]
    at_end = rate(sum(episode.success_at_end for episode in episodes), len(episodes))
    ticks, clipped = (sum(getattr(episode, name) for episode in episodes) for name in ("ticks", "clipped_ticks"))
    report = {
        "schema_version": SCHEMA_VERSION,
        "header": {**head, "episodes": done if asked is None else asked},
        "missing_episodes": sorted(set(asked or ()) - set(done)),
        "lost": [episode.to_dict() for episode in everything if episode.lost],
        "lost_attempts": sum(episode.lost_attempts for episode in everything),
        "criterion": CRITERION,
        "successes": at_end["successes"],
        "n": at_end["n"],
        "success_rate": at_end["rate"],
        "wilson_95": at_end["wilson_95"],
        "clopper_pearson_95": at_end["clopper_pearson_95"],
        "success_once": rate(sum(episode.success_once for episode in episodes), len(episodes)),
        "success_at_end": at_end,
        "success_instant": _rate_where_known([episode.success_instant for episode in episodes]),
        "lengths": {
            "all": summary(episode.length for episode in episodes),
            "successes": summary(episode.length for episode in episodes if episode.success_at_end),
        },
        "latency": {
            "inference_ms": summary(ms for episode in episodes for ms in episode.inference_ms),
            "applied_ms": summary(episode.latency_ms for episode in episodes),
        },
        "safety": {
            "ticks": ticks,
            "tracking_ticks": sum(episode.tracking_ticks for episode in episodes),
            "missing_setpoints": sum(episode.missing_setpoints for episode in episodes),
            "clipped_ticks": clipped,
            "clipped_fraction": clipped / ticks if ticks else None,
            "max_seam_velocity_step": max(episode.max_seam_velocity_step for episode in episodes),
            "seam_jump_m": summary(e.seam_jump_m for e in episodes if e.seam_jump_m is not None),
            "max_seam_jump_m": max(episode.max_seam_jump_m or 0.0 for episode in episodes),
            "peak_force_n": summary(e.peak_force_n for e in episodes if e.peak_force_n is not None),
        },
        "metrics": {
            name: summary(episode.metrics[name] for episode in episodes if name in episode.metrics)
            for name in sorted({name for episode in episodes for name in episode.metrics})
        },
        "terminations": dict(sorted(Counter(episode.termination for episode in everything).items())),
        "cpu_s": sum(episode.cpu_s for episode in episodes),
        "sweep": None if sweep is None else list(sweep),
        **{name: (more or {}).get(name) for name in _MORE},
        "versions": {**versions(), **head["extra"].get("versions", {})},
        "episodes": [episode.to_dict() for episode in episodes],
    }
    return plain(report)


def write_report(
    out_dir: str | os.PathLike[str],
    results: Sequence[EpisodeResult | Mapping[str, Any]],
    header: ReportHeader | Mapping[str, Any],
    *,
    sweep: Sequence[Mapping[str, Any]] | None = None,
    more: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write report.json, then report.html beside it, and return the content of report.json.

    Args:
        out_dir: Folder, made if needed; the videos of the results are relative to it.
        results: See :func:`build_report`.
        header: See :func:`build_report`.
        sweep: See :func:`build_report`.
        more: See :func:`build_report`.
        overwrite: Replace the report of another policy, checkpoint, task, embodiment or split.

    Raises:
        DataError: unusable results, or ``out_dir`` holds a report of something else.
        StorageError: the disk is full or refuses; an earlier report.json is intact.
    """
    report = build_report(results, header, sweep=sweep, more=more)
    check_out(out_dir, report["header"], overwrite=overwrite)
    folder = Path(out_dir)
    # A page of the old results must not outlive them if the disk fills up between the two files.
    try:
        (folder / "report.html").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(explain(f"cannot replace {folder / 'report.html'}", given=error.strerror)) from error
    write_json(folder / "report.json", report)
    head = report["header"]
    title = f"{head['policy']} on {head['task']}, {head['embodiment']}"
    write_html(folder / "report.html", title, report_sections(report, folder))
    return report


def check_out(
    out_dir: str | os.PathLike[str], header: ReportHeader | Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Refuse a folder that holds a report of something else; call it before hours of rollouts.

    Raises:
        DataError: a report of another policy, checkpoint, task, embodiment or split, or one that cannot be read.
    """
    path = Path(out_dir) / "report.json"
    if overwrite or not path.exists():
        return
    mine, there = plain_header(header), read_report(out_dir)["header"]
    there = {"variant": "nominal"} | there  # reports from before there were variants
    differing = [name for name in _IDENTITY if mine[name] != there.get(name)]
    # Without a hash on either side the path is all there is to tell two checkpoints apart.
    if mine["checkpoint_hash"] is None and there.get("checkpoint_hash") is None:
        differing += ["checkpoint"] * (mine["checkpoint"] != there.get("checkpoint"))
    if differing:
        raise DataError(
            explain(
                f"{path} holds the results of something else",
                given="; ".join(f"{name}: there {there.get(name)}, now {mine[name]}" for name in differing),
                mend="choose another out=, or set overwrite=true",
            )
        )


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and verify a report.

    Args:
        path: The folder of a report, or its report.json.

    Raises:
        ReportNotFoundError: there is none.
        DataError: cut or altered, of another schema, or its counts contradict its episodes.
    """
    file = Path(path)
    file = file / "report.json" if file.suffix != ".json" else file
    try:
        report = read_json(file, "report")
    except FileNotFoundError as error:
        raise ReportNotFoundError(
            explain(f"no report at {file}", mend="run `robopolicy eval ... out=` there, or give the folder of a report")
        ) from error
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            explain(
                f"{file} has another schema",
                given=f"schema_version {version}",
                allowed=f"schema_version {SCHEMA_VERSION}",
                mend="evaluate again with this version of robopolicy",
            )
        )
    absent = [name for name in _SECTIONS if name not in report]
    if absent:
        raise DataError(explain(f"{file} is incomplete", given=f"without {', '.join(absent)}", mend="evaluate again"))
    episodes = episodes_of(report)
    counted = (len(episodes), sum(episode.success_at_end for episode in episodes))
    if counted != (report["n"], report["successes"]):
        raise DataError(
            explain(
                f"{file} contradicts itself",
                given=f"says {report['successes']} of {report['n']}, its episodes {counted[1]} of {counted[0]}",
                mend="evaluate again",
            )
        )
    return report


def episodes_of(report: Mapping[str, Any]) -> list[EpisodeResult]:
    """The per-episode records of a report, by index.

    Raises:
        DataError: the table is missing or a record of it is bad.
    """
    rows = report.get("episodes")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(explain("the report has no per-episode table", given=type(rows).__name__))
    return [EpisodeResult.from_dict(row) for row in rows]


def _episode(item: EpisodeResult | Mapping[str, Any]) -> EpisodeResult:
    return item if isinstance(item, EpisodeResult) else EpisodeResult.from_dict(item)


def _rate_where_known(values: Sequence[bool | None]) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    return rate(sum(known), len(known)) if known else None


def _checked(episodes: list[EpisodeResult], head: Mapping[str, Any]) -> list[EpisodeResult]:
    if not episodes:
        raise DataError(explain("a report needs at least one episode", given="no results"))
    strangers = [e.key for e in episodes if e.key[:3] != (head["task"], head["embodiment"], head["split"])]
    if strangers:
        raise DataError(
            explain(
                "episodes that the header does not describe",
                given=strangers[:3],
                allowed=[head["task"], head["embodiment"], head["split"]],
                mend="write one report per task, embodiment and split",
            )
        )
    twice = [index for index, count in Counter(episode.index for episode in episodes).items() if count > 1]
    if twice:
        raise DataError(explain("episodes that appear more than once", given=twice[:5]))
    return sorted(episodes, key=lambda episode: episode.index)
