"""What a report looks like: its content as sections for :func:`robopolicy.evaluation.html.write_html`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from robopolicy.evaluation import svg
from robopolicy.evaluation.html import Markup, Section, code, columns, details, facts, figure, table, tiles, video
from robopolicy.evaluation.result import EpisodeResult

__all__ = [
    "MAX_VIDEOS",
    "headline_tiles",
    "lost_notice",
    "report_plots",
    "report_sections",
    "sweep_blocks",
    "variant_blocks",
    "video_grid",
]

MAX_VIDEOS = 12
"""Videos carried inside a page; the others stay beside it."""


def report_sections(report: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[Section]:
    """The sections of one report.

    Args:
        report: Content of report.json.
        folder: Where the report's videos are relative to.
    """
    episodes = [EpisodeResult.from_dict(row) for row in report["episodes"]]
    result: list[Markup | str] = [headline_tiles(report)]
    if report.get("lost"):
        result.insert(0, lost_notice(report))
    if report.get("missing_episodes"):
        result.append(f"Episodes without a result: {', '.join(map(str, report['missing_episodes']))}.")
    between = (report["header"].get("control") or {}).get("between")
    if between:
        result.append(_between(between))
    sections = [Section("Result", [*result, report_plots(report)])]
    if report.get("sweep"):
        sections.append(Section("Success against latency", sweep_blocks(report["sweep"])))
    if report.get("variants"):
        sections.append(Section("Robustness", variant_blocks(report["variants"])))
    if report.get("sequential"):
        sections.insert(1, Section("Stopped early", _sequential(report["sequential"])))
    if any(episode.video for episode in episodes):
        sections.append(Section("Videos", [*_films(report.get("films")), video_grid(episodes, folder)]))
    if report.get("metrics"):
        sections.append(Section("Figures of the task", [_metrics(report["metrics"])]))
    sections.append(Section("Episodes", [_episode_table(episodes)]))
    sections.append(Section("How it was made", _provenance(report)))
    return sections


def lost_notice(report: Mapping[str, Any]) -> str:
    """Loud words about episodes that were not evaluated; empty if there are none."""
    lost = report.get("lost") or ()
    if not lost:
        return ""
    counts: dict[str, int] = {}
    for row in lost:
        counts[row["termination"]] = counts.get(row["termination"], 0) + 1
    why = ", ".join(f"{word.replace('_', ' ')} {count}" for word, count in sorted(counts.items()))
    return (
        f"NOT EVALUATED: {len(lost)} of {len(lost) + report['n']} episodes were lost ({why}); "
        f"every rate is over the other {report['n']}. Lost: {', '.join(str(row['index']) for row in lost)}."
    )


def headline_tiles(report: Mapping[str, Any]) -> Markup:
    """Success, lengths, latency and safety in one row of figures."""
    lower, upper = report["wilson_95"]
    safety, inference = report["safety"], report["latency"]["inference_ms"]
    lengths, seam = report["lengths"]["successes"], safety["max_seam_velocity_step"]
    missing = safety["missing_setpoints"]
    p50 = "\u2013" if inference["p50"] is None else f"{inference['p50']:.3g} ms"
    note = "not measured" if inference["p95"] is None else f"p95 {inference['p95']:.3g} ms, n = {inference['n']}"
    return tiles(
        [
            ("success", f"{report['success_rate'] * 100:.1f} %", f"{report['successes']} of {report['n']}", ""),
            ("95 % interval", f"{lower * 100:.0f} to {upper * 100:.0f}", _exact_note(report), ""),
            ("steps to success", _or_dash(lengths["p50"]), f"median, longest {_or_dash(lengths['max'])}", ""),
            ("inference", p50, note, ""),
            ("missing setpoints", str(missing), f"of {safety['ticks']} ticks", "bad" if missing else "good"),
            *_force_tile(safety.get("peak_force_n")),
            *_jump_tile(safety),
            (
                "largest seam step",
                f"{seam:.2f} \u00d7",
                "of what one tick allows",
                "good" if seam <= 1 + 1e-6 else "bad",
            ),
        ]
    )


def _exact_note(report: Mapping[str, Any]) -> str:
    low, high = report["success_at_end"]["clopper_pearson_95"]
    return f"percent, Wilson; exact {low * 100:.0f} to {high * 100:.0f}"


def _force_tile(force: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    if not force or not force["n"]:
        return []
    return [("peak contact force", f"{force['max']:.3g} N", f"median over episodes {force['p50']:.3g} N", "")]


def _jump_tile(safety: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    mean = _millimetres(safety.get("seam_jump_m"))
    if mean is None:
        return []
    largest = safety["max_seam_jump_m"] * 1e3
    return [("seam jump", f"{mean:.3g} mm", f"mean over episodes, largest {largest:.3g} mm", "")]


def _millimetres(found: Mapping[str, Any] | None) -> float | None:
    return None if not found or not found["n"] else found["mean"] * 1e3


def _between(between: Mapping[str, Any]) -> str:
    """Which way from chunk to chunk the episodes were run with."""
    own = {
        "ensemble": ("every", "decay", "oldest_first"),
        "rtc": ("every", "strongest", "mask", "jacobian", "recent"),
    }.get(between["kind"], ("every",))
    told = ", ".join(f"{name} {between[name]}" for name in own if between[name] is not None)
    return f"Between chunks: {between['kind']}" + (f" ({told})." if told else ".")


def variant_blocks(variants: Sequence[Mapping[str, Any]]) -> list[Markup | str]:
    """Bars and table of success under variants, see :func:`robopolicy.evaluation.sweep.variant_table`."""
    bars = svg.proportion_bars([(row["variant"], row["successes"], row["n"], row["wilson_95"]) for row in variants])
    head = ("variant", "successes", "n", "rate", "Wilson 95 %", "change (points)", "paired 95 %")
    rows = [
        (
            *(row["variant"], row["successes"], row["n"], f"{row['rate'] * 100:.1f} %", _interval(row["wilson_95"])),
            None if row["change"] is None else f"{row['change'] * 100:+.1f}",
            None if row["change_95"] is None else " to ".join(f"{end * 100:+.1f}" for end in row["change_95"]),
        )
        for row in variants
    ]
    caption = f"The same episodes under every variant; change against {variants[0]['variant']}."
    return [figure(bars, caption), table(head, rows)]


def _sequential(found: Mapping[str, Any]) -> list[Markup | str]:
    low, high = found["interval"]
    what = f"the rate {found['null']:g}" if found["kind"] == "target" else f"the run {found['against']}"
    decision = {"above": f"better than {what}", "below": f"worse than {what}", "equal": f"as good as {what}"}
    said = decision.get(found["decision"] or "", f"not told from {what}")
    return [
        f"After {found['used']} of at most {found['planned']} episodes: {said}. The test may be looked at after every "
        f"episode; any wrong decision has probability at most {found['alpha']:g}.",
        facts(
            {
                "estimate": None if found["estimate"] is None else f"{found['estimate']:+.3f}",
                "confidence sequence": f"{low:+.3f} to {high:+.3f}",
                "evidence for better": f"{found['e_above']:.3g}",
                "evidence for worse": f"{found['e_below']:.3g} (decides at {2 / found['alpha']:g})",
                "method": found["source"],
            }
        ),
        "The other intervals of this page suppose that the number of episodes was fixed beforehand.",
    ]


def _films(films: Mapping[str, Any] | None) -> list[Markup | str]:
    if not films:
        return []
    shown = ", ".join(map(str, films["episodes"]))
    said = f"Filmed by running these episodes once more: {shown}."
    if films["differing"]:
        other = ", ".join(map(str, films["differing"]))
        said += f" WARNING: episodes {other} ended otherwise the second time, so their films show another run."
    return [said]


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> Markup:
    keys = ("n", "mean", "min", "p50", "p95", "max")
    return table(("figure", *keys), [(name, *(found[key] for key in keys)) for name, found in metrics.items()])


def report_plots(report: Mapping[str, Any]) -> Markup:
    """Success bars with intervals, episode lengths and inference times."""
    episodes = report["episodes"]
    bars = svg.proportion_bars(
        [
            (label, block["successes"], block["n"], block["wilson_95"])
            for label, block in (
                ("success at the end", report["success_at_end"]),
                ("success at some time", report["success_once"]),
            )
        ]
    )
    lengths = svg.histogram(
        {
            "success": [row["length"] for row in episodes if row["success_at_end"]],
            "failure": [row["length"] for row in episodes if not row["success_at_end"]],
        },
        xlabel="episode length (control steps)",
    )
    latency = svg.histogram(
        {"policy call": [ms for row in episodes for ms in row["inference_ms"]]}, xlabel="inference time (ms)"
    )
    return columns(
        figure(bars, "Bars: share of episodes. Whiskers: Wilson 95 % interval."),
        figure(lengths, "How long the episodes were."),
        figure(latency, "Measured time of every policy call."),
    )


def video_grid(episodes: Sequence[EpisodeResult], folder: str | os.PathLike[str], limit: int = MAX_VIDEOS) -> Markup:
    """Up to ``limit`` videos, failures first for at most half of them, each with its verdict."""
    with_video = [episode for episode in episodes if episode.video]
    failures = [episode for episode in with_video if not episode.success_at_end]
    successes = [episode for episode in with_video if episode.success_at_end]
    kept = failures[: max(limit // 2, limit - len(successes))]
    kept += successes[: limit - len(kept)]
    shown = [
        video(
            _inside(Path(folder), episode.video or ""),
            f"episode {episode.index}, {episode.length} steps, {episode.termination}",
            success=episode.success_at_end,
        )
        for episode in kept
    ]
    left = len(with_video) - len(kept)
    note = f"<p class=muted>{left} more videos are beside this page.</p>" if left else ""
    return Markup(f'<div class="videos">{columns(*shown)}{note}</div>')


def _inside(folder: Path, relative: str) -> Path:
    """The video's path; one that leads out of the report's folder is treated as missing."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts:
        return folder / "outside-of-the-report"
    return folder / parts


def sweep_blocks(sweep: Sequence[Mapping[str, Any]]) -> list[Markup | str]:
    """Curve and table of a latency sweep, see :func:`robopolicy.evaluation.sweep.latency_sweep`."""
    points = [{"x": point["latency_ms"], "y": point["rate"], "interval": point["wilson_95"]} for point in sweep]
    words = ("latency (ms)", "successes", "n", "rate", "Wilson 95 %", "missing setpoints", "largest seam step (\u00d7)")
    head = (*words, "mean seam jump (mm)")
    rows = [
        (
            point["latency_ms"],
            point["successes"],
            point["n"],
            f"{point['rate'] * 100:.1f} %",
            _interval(point["wilson_95"]),
            point["missing_setpoints"],
            point["max_seam_velocity_step"],
            _millimetres(point.get("seam_jump_m")),
        )
        for point in sweep
    ]
    plot = svg.curve(points, xlabel="added latency (ms)", ylabel="success at the end")
    return [figure(plot, "The same episodes at every latency. Band: Wilson 95 % interval."), table(head, rows)]


def _episode_table(episodes: Sequence[EpisodeResult]) -> Markup:
    head: tuple[str, ...] = ("episode", "at the end", "once", "steps", "seconds", "ended by", "calls")
    head += ("slowest call (ms)", "latency (ms)", "missing", "clipped", "seam (\u00d7)", "force (N)", "CPU (s)")
    rows = [
        (
            *(e.index, e.success_at_end, e.success_once, e.length, e.duration_s, e.termination, len(e.inference_ms)),
            *(max(e.inference_ms, default=None), e.latency_ms, e.missing_setpoints, e.clipped_ticks),
            *(e.max_seam_velocity_step, e.peak_force_n, e.cpu_s),
        )
        for e in episodes
    ]
    return table(head, rows, tones=["" if episode.success_at_end else "bad" for episode in episodes])


def _provenance(report: Mapping[str, Any]) -> list[Markup | str]:
    head = dict(report["header"])
    command, asked = head.pop("command", None), head.pop("episodes", [])
    structured = {name: head.pop(name) for name in ("control", "seeds", "extra") if name in head}
    blocks: list[Markup | str] = []
    if command:
        blocks.append(code(command if isinstance(command, str) else " ".join(map(str, command))))
    span = f"{len(asked)}, {min(asked)} to {max(asked)}" if asked else "0"
    made = facts({**{name.replace("_", " "): value for name, value in head.items()}, "episodes": span})
    blocks.append(columns(made, facts(report["versions"])))
    blocks += [
        details(f"{name}", code(json.dumps(value, indent=2, ensure_ascii=False)))
        for name, value in structured.items()
        if value
    ]
    return blocks


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def _or_dash(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:g}"
