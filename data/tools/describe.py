"""What a store holds, from its commit record, its episode records and the sizes of its files. Reads no stream."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.audit import read_audit
from robopolicy.data.contents import StoreContents
from robopolicy.data.episode import StreamSpec, channel_names
from robopolicy.data.tools.copying import planned_episodes
from robopolicy.data.tools.records import source_id
from robopolicy.embodiment import ChannelGroup
from robopolicy.errors import DataError, RobopolicyError

__all__ = ["channel_units", "describe", "describe_episodes", "file_sizes", "length_summary"]

MAX_LANGUAGES = 10


def describe(store: StoreContents) -> dict[str, Any]:
    """A store in plain JSON.

    Returns:
        ``store``, ``robot`` {name, hash, description, state_space, action_space, action_reference}, ``task``, ``fps``,
        ``content_hash``, ``episodes`` {count, steps, deleted, length {min, p50, p100, ...}, success, languages ...},
        ``streams`` [{name, dtype, shape, channels [{name, unit, min, max}], ...}], ``cameras`` [{name, size, codec,
        bytes}], ``disk`` {bytes, files}, ``provenance``, ``audit`` (counts by kind, or None), ``unfinished``.

    Raises:
        DataError: damaged records.
    """
    sizes = file_sizes(store)
    card = store.embodiment
    return {
        "store": str(store.path),
        "robot": {
            "name": card.name,
            "hash": card.hash,
            "description": card.description,
            "state_space": card.state_space,
            "action_space": card.action_space,
            "action_reference": card.action_reference,
            "control_hz": card.control_hz,
        },
        "task": store.task,
        "fps": store.fps,
        "content_hash": store.content_hash,
        "episodes": _episodes(store),
        "streams": [_stream(store, name, spec, sizes) for name, spec in store.streams.items()],
        "cameras": [
            {"name": name, **entry, "bytes": sizes.get(f"data/image/{name}", (0, 0))[0]}
            for name, entry in store.attributes["cameras"].items()
        ],
        "disk": {"bytes": sum(b for b, _ in sizes.values()), "files": sum(n for _, n in sizes.values())},
        "provenance": store.attributes.get("provenance", {}),
        "audit": _audit(store),
        "unfinished": planned_episodes(store),
    }


def describe_episodes(store: StoreContents) -> list[dict[str, Any]]:
    """One entry per episode: index, length, seconds, success, language, source id, metadata."""
    rows = []
    for i in range(store.num_episodes):
        info = store.info(i)
        entry = {"episode": i, "length": info["length"], "duration_s": info["length"] / store.fps}
        entry |= {"success": info["success"], "language": info["language"], "id": source_id(info["metadata"])}
        rows.append({**entry, "metadata": info["metadata"]})
    return rows


def channel_units(store: StoreContents, name: str, spec: StreamSpec) -> list[tuple[str, str]]:
    """(name, unit) of every channel of a low-dimensional stream; empty text where it is not known."""
    if spec.image or not spec.shape:
        return []
    width = spec.shape[0]
    names = list(channel_names(name, store.embodiment, store.environment_state_names, spec))
    group = _group(store, name)
    units = list(spec.units) or ([c.unit for c in group.channels] if group is not None else [])
    names += [str(i) for i in range(len(names), width)]
    return list(zip(names[:width], [*units, *[""] * width][:width], strict=True))


def length_summary(lengths: np.ndarray) -> dict[str, Any]:
    """``min``, ``p50``, ``p95``, ``p100``, ``mean`` of episode lengths in rows; None where there are none."""
    if not len(lengths):
        return dict.fromkeys(("min", "p50", "p95", "p100", "mean"))
    p0, p50, p95, p100 = np.quantile(lengths, [0, 0.5, 0.95, 1])
    return {"min": int(p0), "p50": float(p50), "p95": float(p95), "p100": int(p100), "mean": float(lengths.mean())}


def file_sizes(store: StoreContents) -> dict[str, tuple[int, int]]:
    """Folder of an array -> (bytes, files); empty for a store that is not a folder."""
    root = Path(str(store.path))
    sizes: dict[str, tuple[int, int]] = {}
    if not root.is_dir():
        return {"": (root.stat().st_size, 1)} if root.is_file() else {}
    for folder, _, files in os.walk(root):
        total = sum(os.stat(os.path.join(folder, name)).st_size for name in files)
        sizes[os.path.relpath(folder, root)] = (total, len(files))
    return sizes


def _group(store: StoreContents, name: str) -> ChannelGroup | None:
    card = store.embodiment
    if name == "action":
        try:
            return card.action
        except RobopolicyError:
            return None
    return {"state": card.state, "joint_position": card.joints, "joint_command": card.joints}.get(name)


def _stream(store: StoreContents, name: str, spec: StreamSpec, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, **spec.to_dict(), "bytes": sizes.get(f"data/{name}", (0, 0))[0]}
    channels = channel_units(store, name, spec)
    if channels:
        ranges: list[dict[str, float]] = [{} for _ in channels]
        try:
            statistics = store.statistics(name)
            ranges = [
                {"min": a, "max": b} for a, b in zip(statistics.min.tolist(), statistics.max.tolist(), strict=True)
            ]
        except DataError:
            pass  # an empty store, or numbers that no statistics are kept of
        entry["channels"] = [{"name": n, "unit": u, **r} for (n, u), r in zip(channels, ranges, strict=True)]
        entry.pop("units", None)
    return entry


def _episodes(store: StoreContents) -> dict[str, Any]:
    lengths = np.diff(store.episode_ends, prepend=0)
    successes, stated, languages, sources = 0, 0, Counter[str](), Counter[str]()
    for i in range(store.num_episodes):
        info = store.info(i)
        successes += bool(info["success"])
        stated += info["success"] is not None
        languages[info["language"]] += 1
        source = info["metadata"].get("source")
        if isinstance(source, Mapping) and "store" in source:
            sources[str(source["store"])] += 1
    count = store.num_episodes
    return {
        "count": count,
        "steps": store.num_steps,
        "duration_s": store.num_steps / store.fps,
        "deleted": list(store.tombstones),
        "length": length_summary(lengths),
        "successes": successes,
        "success_stated": stated,
        "success_rate": successes / stated if stated else None,
        "num_languages": len(languages),
        "languages": dict(languages.most_common(MAX_LANGUAGES)),
        "from_stores": dict(sources),
    }


def _audit(store: StoreContents) -> dict[str, Any] | None:
    """What the conversion found, by kind, and whether it was about what the store holds now."""
    try:
        document = read_audit(Path(str(store.path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DataError as error:
        return {"damaged": str(error)}
    same = document.get("content_hash") == store.content_hash
    return {"counts": document.get("counts", {}), "skipped": len(document.get("skipped", {})), "of_this_content": same}
