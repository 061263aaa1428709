"""Statistics as tables and histograms, and descriptions as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.contents import StoreContents
from robopolicy.data.statistics import RunningMoments, Statistics
from robopolicy.data.tools.describe import channel_units
from robopolicy.data.tools.reading import RowReader
from robopolicy.errors import DataError

__all__ = ["bytes_text", "description_text", "histograms", "recomputed", "statistics_rows", "text_table"]

_BLOCK_ROWS = 65_536


def statistics_rows(store: StoreContents, *, recompute: bool = False) -> list[dict[str, Any]]:
    """One entry per float32 stream and channel: stream, channel, unit, count, min, max, mean, std, q01, q99.

    Args:
        store: Open for reading.
        recompute: Compute them from the data instead of taking the stored ones; nothing is written.

    Raises:
        DataError: nothing is stored, or a damaged file.
    """
    rows: list[dict[str, Any]] = []
    for name, spec in store.streams.items():
        if spec.dtype != "float32":
            continue
        found = recomputed(store, name) if recompute else store.statistics(name)
        for i, (channel, unit) in enumerate(channel_units(store, name, spec)):
            numbers = {k: float(getattr(found, k)[i]) for k in ("min", "max", "mean", "std", "q01", "q99")}
            rows.append({"stream": name, "channel": channel, "unit": unit, "count": found.count, **numbers})
    return rows


def recomputed(store: StoreContents, stream: str) -> Statistics:
    """Statistics of a stream over the live rows, from the data; quantiles over all of them, not over a sample.

    Raises:
        DataError: an empty store, or a damaged file.
    """
    if not store.num_steps:
        raise DataError(f"{store.path} has no episodes yet")
    merged, parts = RunningMoments.empty(store.streams[stream].shape[0]), []
    for block in _blocks(store, stream):
        merged = merged.merge(RunningMoments.of(block))
        parts.append(block)
    return merged.statistics(np.concatenate(parts))


def histograms(store: StoreContents, stream: str, *, bins: int = 24) -> list[tuple[NDArray[np.int64], NDArray[Any]]]:
    """(counts int64 [bins], edges [bins + 1]) of every channel of a stream, from its minimum to its maximum.

    Raises:
        DataError: an empty store, or a damaged file.
    """
    statistics = store.statistics(stream)
    edges = [
        np.linspace(a, b if b > a else a + 1, bins + 1) for a, b in zip(statistics.min, statistics.max, strict=True)
    ]
    counts = np.zeros((len(edges), bins), np.int64)
    for block in _blocks(store, stream):
        for i, edge in enumerate(edges):
            counts[i] += np.histogram(block[:, i], edge)[0]
    return list(zip(counts, edges, strict=True))


def _blocks(store: StoreContents, stream: str) -> Any:
    """The live rows of a stream, block by block."""
    rows, live = RowReader(store), store.live_rows
    spans = [(0, store.num_steps)] if live is None else live.spans(0, store.num_steps)
    for start, stop in spans:
        for first in range(start, stop, _BLOCK_ROWS):
            yield rows.read(f"data/{stream}", first, min(first + _BLOCK_ROWS, stop))


def text_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of text; numbers are set right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(str(h)), *(len(row[i]) for row in cells), 0) for i, h in enumerate(head)]
    right = [bool(rows) and isinstance(rows[0][i], (int, float)) for i in range(len(head))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(
            v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)
        ).rstrip()

    return "\n".join([line([str(h) for h in head]), *map(line, cells)])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def bytes_text(count: int) -> str:
    """A size for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def description_text(about: Mapping[str, Any]) -> str:
    """What :func:`robopolicy.data.tools.describe.describe` returns, for people."""
    robot, episodes, disk = about["robot"], about["episodes"], about["disk"]
    length = episodes["length"]
    lines = [
        f"{about['store']}: {episodes['count']} episodes, {episodes['steps']} steps at {about['fps']:g} Hz "
        f"({episodes['duration_s'] / 60:.1f} min), {bytes_text(disk['bytes'])} in {disk['files']} files",
        f"robot    {robot['name']} {robot['hash']}, state {robot['state_space']}, action {robot['action_space']} "
        f"({robot['action_reference']})",
        f"task     {about['task'] or '(none)'}",
    ]
    if episodes["count"]:
        lines.append(
            f"lengths  {length['min']} to {length['p100']} rows, half below {length['p50']:g}; "
            f"success {_success(episodes)}"
        )
        shown = [f"'{text}' {count}" if text else f"(no text) {count}" for text, count in episodes["languages"].items()]
        more = episodes["num_languages"] - len(shown)
        lines.append("language " + ", ".join(shown) + (f", and {more} more" if more else ""))
    if episodes["from_stores"]:
        lines.append("from     " + ", ".join(f"{name} {count}" for name, count in episodes["from_stores"].items()))
    lines += _notes(about)
    lines += ["", text_table(("stream", "dtype", "shape", "bytes", "channels"), [_stream(s) for s in about["streams"]])]
    return "\n".join(lines)


def _notes(about: Mapping[str, Any]) -> list[str]:
    notes, audit = [], about["audit"]
    if about["episodes"]["deleted"]:
        deleted = about["episodes"]["deleted"]
        notes.append(f"deleted  {len(deleted)} episodes are hidden until compact (stored indices {deleted[:20]})")
    if about["unfinished"] is not None:
        notes.append(f"UNFINISHED: a copy of {about['unfinished']} episodes was interrupted; repeat its command")
    edits = about["provenance"].get("edits", [])
    if edits:
        notes.append("edits    " + ", ".join(str(e.get("operation")) for e in edits))
    if audit is not None and "counts" in audit:
        kinds = [f"{kind} {'/'.join(f'{n} {s}' for s, n in c.items())}" for kind, c in audit["counts"].items()]
        notes.append("audit    " + (", ".join(kinds) or "nothing found"))
    return notes


def _stream(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    channels = [
        c["name"]
        + (f" [{c['min']:.3g}, {c['max']:.3g}]" if "min" in c else "")
        + (f" {c['unit']}" if c["unit"] else "")
        for c in entry.get("channels", [])
    ]
    shown = ", ".join(channels[:4]) + (f", ... {len(channels)} in all" if len(channels) > 4 else "")
    shape = "x".join(map(str, entry["shape"])) or "-"
    return entry["name"], entry["dtype"], shape, bytes_text(entry["bytes"]), shown


def _channel(entry: Mapping[str, Any]) -> str:
    span = f" [{entry['min']:.3g}, {entry['max']:.3g}]" if "min" in entry else ""
    return entry["name"] + span + (f" {entry['unit']}" if entry["unit"] else "")


def _success(episodes: Mapping[str, Any]) -> str:
    if not episodes["success_stated"]:
        return "not stated"
    silent = episodes["count"] - episodes["success_stated"]
    rest = f", not stated of {silent}" if silent else ""
    return f"{episodes['successes']} of {episodes['success_stated']} ({episodes['success_rate']:.1%}){rest}"
