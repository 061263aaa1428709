"""The page of a store: inline style, script, pictures and data; opens without a network and asks for none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from robopolicy.data.contents import StoreContents
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.describe import describe
from robopolicy.data.tools.records import check_indices
from robopolicy.data.tools.tables import bytes_text, histograms, statistics_rows
from robopolicy.data.view.document import audit_findings, chosen_episodes, episode_document, stream_documents
from robopolicy.data.view.pictures import MAX_SIDE, QUALITY
from robopolicy.data.view.script import SCRIPT
from robopolicy.data.view.sheet import STYLE
from robopolicy.errors import DataError, explain
from robopolicy.evaluation.files import write_text
from robopolicy.evaluation.html import Markup, facts, tiles
from robopolicy.evaluation.style import CSS

__all__ = ["DEFAULT_MEGABYTES", "write_view"]

DEFAULT_MEGABYTES = 24.0
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'"


def write_view(
    store: str | Path | StoreContents,
    out: str | Path,
    episodes: Sequence[int] | None = None,
    *,
    megabytes: float = DEFAULT_MEGABYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a page that shows episodes: frames, curves, labels, findings, statistics.

    Args:
        store: Path, or a store that is open for reading.
        out: File to write.
        episodes: Live indices; a dozen evenly spaced ones when None.
        megabytes: Budget of the pictures, see :mod:`robopolicy.data.view.pictures`. The numbers come on top.
        progress: Called after every episode.

    Raises:
        CommandError: no such episode.
        DataError: an empty store, or a damaged file.
        StorageError: the page cannot be written; an earlier one is intact.
    """
    opened = store if isinstance(store, StoreContents) else EpisodeStore.open(store)
    if not opened.num_episodes:
        raise DataError(explain(f"{opened.path} has no episodes to show", mend="collect or convert some first"))
    chosen = chosen_episodes(opened) if episodes is None else check_indices(opened, list(episodes))
    found, shown = audit_findings(opened), []
    for number, index in enumerate(chosen):
        budget = int(megabytes * 1e6 / len(chosen))
        shown.append(episode_document(opened, index, budget, found(opened.info(index))))
        if progress is not None:
            progress(number + 1, len(chosen))
    document = {"streams": stream_documents(opened), "episodes": shown, "fps": opened.fps}
    write_text(out, _html(opened, describe(opened), document))
    return Path(out)


def _html(store: StoreContents, about: dict[str, Any], document: dict[str, Any]) -> str:
    title = Path(str(store.path)).name
    count, shown = about["episodes"]["count"], len(document["episodes"])
    note = "" if shown == count else f", {shown} of them here; choose others with episodes=[...]"
    robot = f"{about['robot']['name']}, {about['task'] or 'no task'}, {count} episodes at {about['fps']:g} Hz{note}"
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY, quote=True)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{CSS}{STYLE}</style></head>\n"
        f'<body><header><h1>{escape(title)}</h1><p class="sub">{escape(robot)}</p>{_tiles(about)}</header>\n'
        f"<main><noscript><p>The episodes are shown by a script inside this page; allow it to run.</p></noscript>"
        f"{_PLAYER}{_statistics(store)}{_origin(about)}</main>\n"
        f'<script type="application/json" id="document">{data}</script>\n<script>{SCRIPT}</script></body></html>\n'
    )


_PLAYER = f"""
<section class="player" id="player"><div class="list" id="list" role="listbox" aria-label="episodes" tabindex="0"></div>
<div class="stage"><div class="head"><h2 id="what"></h2><div class="badges" id="badges"></div></div>
<p class="said" id="language"></p><div class="cameras" id="cameras"></div>
<div class="bar"><button id="play" type="button" aria-label="play or pause">&#9654;</button>
<input id="cursor" type="range" min="0" value="0" step="1" aria-label="time">
<select id="speed" aria-label="speed"><option value="0.25">&#188;&#215;</option>
<option value="0.5">&#189;&#215;</option>
<option value="1" selected>1&#215;</option><option value="2">2&#215;</option><option value="4">4&#215;</option></select>
<output id="now"></output></div>
<div class="choices" id="choices" role="group" aria-label="streams"></div><div class="plots" id="plots"></div>
<div id="findings"></div><details><summary>metadata</summary><pre><code id="metadata"></code></pre></details>
<p class="muted small" id="rule">Pictures are scaled down to {MAX_SIDE} pixels, JPEG quality {QUALITY}.
Keys: space plays, left and right step, up and down change the episode.</p></div></section>
"""


def _tiles(about: dict[str, Any]) -> Markup:
    episodes, length = about["episodes"], about["episodes"]["length"]
    rate = episodes["success_rate"]
    share = "not stated" if rate is None else f"{rate * 100:.0f} %"
    minutes = episodes["duration_s"] / 60
    hidden = len(episodes["deleted"])
    deleted = f"{hidden} deleted ones are hidden" if hidden else f"{minutes:.1f} minutes"
    return tiles(
        [
            ("episodes", str(episodes["count"]), deleted, ""),
            ("success", share, f"{episodes['successes']} of {episodes['success_stated']} that say so", ""),
            ("length", f"{length['p50']:g}", f"rows, median; {length['min']} to {length['p100']}", ""),
            ("steps", str(episodes["steps"]), f"at {about['fps']:g} Hz", ""),
            ("cameras", str(len(about["cameras"])), ", ".join(c["name"] for c in about["cameras"]) or "none", ""),
            ("size", bytes_text(about["disk"]["bytes"]), f"{about['disk']['files']} files", ""),
        ]
    )


def _statistics(store: StoreContents) -> str:
    rows = statistics_rows(store)
    bars: dict[str, list[str]] = {
        name: [_bars(counts.tolist()) for counts, _ in histograms(store, name)]
        for name in dict.fromkeys(row["stream"] for row in rows)
    }
    head = "".join(f"<th>{escape(name)}</th>" for name in ("stream", "channel", "unit"))
    head += "".join(f"<th class=num>{name}</th>" for name in ("min", "q01", "mean", "q99", "max", "std"))
    body = []
    for row in rows:
        picture = bars[row["stream"]].pop(0)
        numbers = "".join(f"<td class=num>{row[k]:.4g}</td>" for k in ("min", "q01", "mean", "q99", "max", "std"))
        names = "".join(f"<td>{escape(row[k])}</td>" for k in ("stream", "channel", "unit"))
        body.append(f"<tr>{names}{numbers}<td>{picture}</td></tr>")
    return (
        "<section><h2>Statistics</h2><p class=muted>Over all rows of the store. Bars: how often, from min to max.</p>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}<th>distribution</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _bars(counts: list[int]) -> str:
    tallest = max([*counts, 1])
    parts = "".join(
        f'<rect x="{4 * i}" y="{22 - 22 * c / tallest:.1f}" width="3.4" height="{22 * c / tallest:.1f}" class="s1"/>'
        for i, c in enumerate(counts)
        if c
    )
    label = f"histogram with {len(counts)} bins"
    return f'<svg class="mini" viewBox="0 0 {4 * len(counts)} 22" role="img" aria-label="{label}">{parts}</svg>'


def _origin(about: dict[str, Any]) -> str:
    robot, provenance = about["robot"], dict(about["provenance"])
    named = {
        "robot": f"{robot['name']} ({robot['hash']}): {robot['description']}",
        "action": f"{robot['action_space']}, {robot['action_reference']}",
        "content hash": about["content_hash"],
        "made by": provenance.get("software"),
        "created": provenance.get("created"),
    }
    text = escape(json.dumps(provenance, indent=1, ensure_ascii=False))
    details = f"<details><summary>provenance</summary><pre><code>{text}</code></pre></details>"
    return f"<section><h2>Origin</h2>{facts(named)}{details}</section>"
