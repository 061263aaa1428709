"""What the demo's page looks like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.evaluation.html import Markup, Section, columns, facts, table, tiles
from robopolicy.evaluation.page import report_plots, sweep_blocks, video_grid
from robopolicy.evaluation.report import episodes_of, read_report

__all__ = ["demo_sections"]


def demo_sections(report: Mapping[str, Any], out: Path) -> list[Section]:
    """The sections of the demo's report.

    Args:
        report: Content of its report.json.
        out: Folder of the demo, which holds the reports of the single stages.
    """
    evaluation = read_report(out / "eval")
    sections = [
        Section("Result", [_headlines(report), report_plots(evaluation)]),
        Section("Videos", [video_grid(episodes_of(evaluation), out / "eval")]),
        Section("Demonstrations and training", [columns(facts(_collected(report)), facts(_trained(report)))]),
    ]
    if evaluation["sweep"]:
        sections.append(Section("Success against latency", sweep_blocks(evaluation["sweep"])))
    sections.append(Section("Through the daemon, in real time", _deployed(report["deploy"])))
    made = columns(facts(report["seconds"]), facts(report["versions"]))
    sections.append(Section("How it was made", ["Seconds of each stage, and versions.", made]))
    return sections


def _headlines(report: Mapping[str, Any]) -> Markup:
    names = {
        "expert": "scripted expert",
        "eval": "trained policy",
        "deploy": "through the daemon",
        "null": "null policy",
    }
    items = []
    for name, label in names.items():
        block = report[name]
        low, high = block["wilson_95"]
        note = f"{block['successes']} of {block['n']}, 95 % interval {low * 100:.0f} to {high * 100:.0f}"
        items.append((label, f"{block['success_rate'] * 100:.1f} %", note, ""))
    return tiles(items)


def _collected(report: Mapping[str, Any]) -> dict[str, Any]:
    block = report["collect"]
    return {"demonstrations": block["episodes"], "rows": block["steps"], "content": block["content_hash"]}


def _trained(report: Mapping[str, Any]) -> dict[str, Any]:
    block = report["train"]
    last = list(block["stages"].values())[-1]
    return {
        "optimiser steps": block["steps"],
        "loss": last.get("loss"),
        "validation loss": last.get("validation_loss"),
        "seconds": block["wall_s"],
        "samples per second": last.get("samples_per_s"),
        "device": block["device"],
        "threads": block["threads"],
    }


def _deployed(block: Mapping[str, Any]) -> list[Markup | str]:
    kill, seam = block["kill_test"], block["max_seam_velocity_step"]
    violations, tone = sum(block["violations"].values()), "good" if seam <= 1.000001 else "bad"
    head = tiles(
        [
            ("missing setpoints", str(block["missing_setpoints"]), f"of {block['running_ticks']} ticks", ""),
            ("out of limits", str(violations), "counted by the robot", "bad" if violations else "good"),
            (
                "largest seam step",
                f"{seam:.2f} \u00d7",
                "of what one tick allows",
                tone,
            ),
            ("setpoints", f"{block['setpoint_hz']:.1f} Hz", f"late p99 {block['lateness_ms']['p99']:.2f} ms", ""),
            ("policy killed in motion", *_kill_words(kill)),
        ]
    )
    rows = [
        (e["index"], e["success_at_end"], e["length"], e["chunks"], e["missing_setpoints"], e["latency_ms"])
        for e in block["episodes"]
    ]
    names = ("episode", "at the end", "steps", "chunks", "missing", "latency (ms)")
    return [head, table(names, rows, tones=["" if row[1] else "bad" for row in rows])]


def _kill_words(kill: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if kill is None:
        return "\u2013", "not run", "warn"
    note = f"{kill['state']} after {kill['seconds_to_hold']:.2f} s"
    return ("stopped", note, "good") if kill["passed"] else ("failed", note, "bad")
