"""What the page shows of a store, as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.audit import read_audit
from robopolicy.data.contents import StoreContents
from robopolicy.data.tools.describe import channel_units
from robopolicy.data.tools.records import source_id
from robopolicy.data.view.pictures import sheets
from robopolicy.errors import DataError

__all__ = ["MAX_CHANNELS", "MAX_POINTS", "chosen_episodes", "episode_document"]

MAX_POINTS = 600
"""Points of a curve; of longer episodes evenly spaced rows are drawn."""
MAX_CHANNELS = 64
"""Wider streams (embeddings) are left out of the curves."""
DEFAULT_EPISODES = 12


def chosen_episodes(store: StoreContents, limit: int = DEFAULT_EPISODES) -> list[int]:
    """Evenly spaced episodes, the first and the last among them."""
    count = store.num_episodes
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist() if count else []


def episode_document(
    store: StoreContents, index: int, budget: int, findings: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One episode: labels, curves, pictures.

    Args:
        store: Open for reading.
        index: Live index.
        budget: Bytes for the pictures of all its cameras.
        findings: Of the audit, about this episode.

    Raises:
        DataError: a damaged frame or column, named.
    """
    info = store.info(index)
    start, stop = info["start"], info["stop"]
    time_s = (store.column("time_ns")[start:stop] - store.column("time_ns")[start]) * 1e-9
    rows = _points(stop - start)
    frames = [name for name, spec in store.streams.items() if spec.image]
    return {
        "index": index,
        "length": info["length"],
        "language": info["language"],
        "success": info["success"],
        "id": source_id(info["metadata"]),
        "metadata": info["metadata"],
        "findings": list(findings),
        "rows": rows.tolist(),
        "time": [round(float(t), 4) for t in time_s],
        "streams": {
            name: _curves(store.column(name)[start:stop][rows])
            for name, spec in store.streams.items()
            if _drawn(spec.dtype, spec.shape)
        },
        "cameras": [sheets(store, n, start, stop, budget // max(len(frames), 1)).to_dict() for n in frames],
    }


def stream_documents(store: StoreContents) -> list[dict[str, Any]]:
    """Names and units of the channels of every stream that is drawn."""
    return [
        {"name": name, "channels": [{"name": n, "unit": u} for n, u in channel_units(store, name, spec)]}
        for name, spec in store.streams.items()
        if _drawn(spec.dtype, spec.shape)
    ]


def audit_findings(store: StoreContents) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """A function from an episode's record to what the audit says of it."""
    try:
        episodes = read_audit(Path(str(store.path))).get("episodes", {})
    except (FileNotFoundError, NotADirectoryError, DataError):
        episodes = {}

    def found(info: dict[str, Any]) -> list[dict[str, Any]]:
        return list(episodes.get(source_id(info["metadata"]), {}).get("findings", []))

    return found


def _drawn(dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype == "float32" and len(shape) == 1 and 0 < shape[0] <= MAX_CHANNELS


def _points(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(np.int64))


def _curves(values: NDArray[Any]) -> list[list[float | None]]:
    """[n, C] -> C lists of n numbers with five digits; what is not finite becomes a gap."""
    return [[_number(float(v)) for v in column] for column in values.T]


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
