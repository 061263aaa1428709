"""What a comparison looks like: its content as sections for :func:`robopolicy.evaluation.html.write_html`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robopolicy.evaluation import svg
from robopolicy.evaluation.html import Markup, Section, columns, facts, figure, table, tiles

__all__ = ["compare_sections"]


def compare_sections(result: Mapping[str, Any]) -> list[Section]:
    """The sections of one comparison.

    Args:
        result: What :func:`robopolicy.evaluation.compare.compare` returned.
    """
    low, high = result["interval_95"]
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
                ("95 % interval", f"{low * 100:+.1f} to {high * 100:+.1f}", f"points, {result['interval_method']}", ""),
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
            "exact conditional 95 % interval": _points(strict),
            "bootstrap of the pairs, 95 %": _points(result["bootstrap_95"]),
            "confidence sequence (holds at every look), 95 %": _points(result["anytime"]["interval"]),
            "sequential test decided after": result["anytime"]["decided_at"],
            "pairs to show 10 points (power 0.8)": result["pairs_needed"]["ten_points"],
        }
    )
    shown = ("path", "policy", "checkpoint", "checkpoint_hash", "task", "embodiment", "split", "variant")
    return [
        Section("Verdict", body),
        *([Section("By task", [_tasks(result["tasks"])])] if result["tasks"] else []),
        Section("Where they differ", [differ]),
        Section(
            "The two sides", [table(("", "A", "B"), [(name.replace("_", " "), a[name], b[name]) for name in shown])]
        ),
    ]


def _tasks(tasks: Mapping[str, Mapping[str, Any]]) -> Markup:
    head = ("task", "pairs", "both", "only A", "only B", "neither", "A minus B (points)", "95 %", "p", "p (Holm)")
    rows = [
        (
            *(name, task["n"], task["both"], task["only_a"], task["only_b"], task["neither"]),
            *(f"{task['difference'] * 100:+.1f}", _points(task["newcombe_95"])),
            *(f"{task['mcnemar_p']:.2g}", f"{task['holm_p']:.2g}"),
        )
        for name, task in tasks.items()
    ]
    return table(head, rows)


def _points(interval: Any) -> str:
    return f"{interval[0] * 100:+.1f} to {interval[1] * 100:+.1f} points"
