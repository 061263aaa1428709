"""What a suite looks like: its content as sections for :func:`robopolicy.evaluation.html.write_html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from robopolicy.evaluation import svg
from robopolicy.evaluation.html import Markup, Section, code, columns, facts, figure, table
from robopolicy.evaluation.page import sweep_blocks, variant_blocks

__all__ = ["suite_sections"]

_CHOICES = {
    "last": "last of its training",
    "best": "lowest validation loss",
    "named": "named by the caller",
}


def suite_sections(summary: Mapping[str, Any]) -> list[Section]:
    """The sections of one suite.

    Args:
        summary: What :func:`robopolicy.evaluation.suite.summarise_suite` returned.
    """
    cells = {(cell["policy"], cell["column"]): cell for cell in summary["cells"]}
    sections = [Section("Success", [_matrix(summary, cells), *(f"Note: {note}." for note in summary["notes"])])]
    if summary["differences"]:
        sections.append(Section(f"Against {summary['base']}", _differences(summary)))
    swept = [cell for cell in summary["cells"] if cell["sweep"]]
    if swept:
        sections.append(Section("Success against latency", [_curves(swept)]))
    varied = [cell for cell in summary["cells"] if cell["variants"]]
    if varied:
        sections.append(Section("Robustness", _robustness(varied)))
    if summary["left_out"]:
        rows = [(row["policy"], row["column"], row["why"]) for row in summary["left_out"]]
        sections.append(Section("Left out", [table(("policy", "task", "why"), rows)]))
    sections.append(Section("How it was made", _provenance(summary)))
    return sections


def _matrix(summary: Mapping[str, Any], cells: Mapping[tuple[str, str], Mapping[str, Any]]) -> Markup:
    rows = []
    for policy in summary["policies"]:
        own = [cells.get((policy["name"], column)) for column in summary["columns"]]
        rates = [cell["success_rate"] for cell in own if cell]
        mean = f"{100 * sum(rates) / len(rates):.1f} % over {len(rates)}" if rates else None
        rows.append((policy["name"], *(None if cell is None else _rate(cell) for cell in own), mean))
    words = "Success at the end, Wilson 95 % interval, successes of episodes; each cell leads to its report."
    note = f"<p class=muted>{words}</p>"
    return Markup(table(("policy", *summary["columns"], "mean of tasks"), rows) + note)


def _rate(cell: Mapping[str, Any]) -> Markup:
    low, high = cell["wilson_95"]
    value = cell["success_rate"] * 100
    span = f"{low * 100:.0f} to {high * 100:.0f}, {cell['successes']}/{cell['n']}"
    words = f"{value:.1f} % <span class=muted>{span}</span>"
    link = escape(quote(f"{cell['folder']}/report.html"), quote=True)
    return Markup(f'<a class="meter" style="--v:{value:.0f}%" href="{link}">{words}</a>')


def _differences(summary: Mapping[str, Any]) -> list[Markup | str]:
    head = ("policy", "task", "pairs", "only it", "only base", "difference (points)", "95 %", "p", "p (Holm)")
    rows = [
        (
            *(row["policy"], row["column"], row["n"], row["only_a"], row["only_b"]),
            *(f"{row['difference'] * 100:+.1f}", _points(row["newcombe_95"])),
            *(f"{row['mcnemar_p']:.2g}", f"{row['holm_p']:.2g}"),
        )
        for row in summary["differences"]
    ]
    tones = [_tone(row) for row in summary["differences"]]
    overall = table(
        ("policy", "tasks", "mean difference (points)", "95 %", "p", "p (Holm)"),
        [
            (
                *(row["policy"], row["tasks"], f"{row['difference'] * 100:+.1f}", _points(row["interval_95"])),
                *(f"{row['mcnemar_p']:.2g}", f"{row['holm_p']:.2g}"),
            )
            for row in summary["overall"]
        ],
        tones=[_tone(row) for row in summary["overall"]],
    )
    bars = [
        figure(
            svg.difference_bar(row["difference"], *row["interval_95"], label_a=row["policy"], label_b=summary["base"]),
            f"{row['policy']} minus {summary['base']}, every task weighs the same.",
        )
        for row in summary["overall"]
    ]
    return [
        f"Policy minus {summary['base']} on the same episodes: exact McNemar test, Newcombe's paired interval. "
        "p (Holm) allows for the number of comparisons in its table; coloured rows are below 0.05 there.",
        overall,
        columns(*bars),
        table(head, rows, tones=tones),
    ]


def _curves(swept: Sequence[Mapping[str, Any]]) -> Markup:
    return columns(*(Markup(f"<div><h3>{_title(cell)}</h3>{sweep_blocks(cell['sweep'])[0]}</div>") for cell in swept))


def _robustness(varied: Sequence[Mapping[str, Any]]) -> list[Markup | str]:
    names = list(dict.fromkeys(row["variant"] for cell in varied for row in cell["variants"]))
    rows = []
    for cell in varied:
        found = {row["variant"]: row for row in cell["variants"]}
        rows.append((cell["policy"], cell["column"], *(_variant(found.get(name)) for name in names)))
    plots = [Markup(f"<div><h3>{_title(cell)}</h3>{variant_blocks(cell['variants'])[0]}</div>") for cell in varied]
    return [table(("policy", "task", *names), rows), columns(*plots)]


def _variant(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return None
    low, high = row["wilson_95"]
    change = "" if row["change"] is None else f", {row['change'] * 100:+.1f} points"
    return f"{row['rate'] * 100:.1f} % ({low * 100:.0f} to {high * 100:.0f}){change}"


def _provenance(summary: Mapping[str, Any]) -> list[Markup | str]:
    rows = [
        (
            *(policy["name"], policy["policy"], policy["checkpoint"]),
            _CHOICES.get(policy["choice"] or "", policy["choice"]),
            *(policy["weights"], policy["checkpoint_hash"]),
        )
        for policy in summary["policies"]
    ]
    blocks: list[Markup | str] = [] if not summary["command"] else [code(summary["command"])]
    return [
        *blocks,
        "A suite never picks the best of several checkpoints by these episodes: that would overstate it. Each row says "
        "which checkpoint it is.",
        table(("policy", "kind", "checkpoint", "which", "weights", "hash"), rows),
        facts(summary["versions"]),
    ]


def _tone(row: Mapping[str, Any]) -> str:
    return "" if row["holm_p"] >= 0.05 else "good" if row["difference"] > 0 else "bad"


def _title(cell: Mapping[str, Any]) -> str:
    return escape(f"{cell['policy']}: {cell['column']}")


def _points(interval: Sequence[float]) -> str:
    return f"{interval[0] * 100:+.1f} to {interval[1] * 100:+.1f}"
