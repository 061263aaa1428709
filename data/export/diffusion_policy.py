"""Episode store -> replay buffer of diffusion_policy: zarr v2, a folder or, by its ending, a ``.zip`` file.

::

    data/state, data/action ...     float32 [N, C], one chunk up to 65,536 rows, uncompressed as there
    data/timestamp, data/time_ns    float64 s and int64 ns
    data/<camera>                   uint8 [N, H, W, 3], one frame per chunk: raw, or JPEG 2000 as its loaders expect
    meta/episode_ends               int64 [E], cumulative
    .zattrs                         card and labels of every episode, for which the layout has no place

Layout: https://github.com/real-stanford/diffusion_policy, ``diffusion_policy/common/replay_buffer.py``, whose
constructor demands that every array below ``data`` ends where ``episode_ends`` does. Numbers are those of the store:
rotations are the first two *columns* of the matrix, where diffusion_policy's own robomimic data hold the
first two rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.zarr_v2 import register_image_codecs
from robopolicy.data.durable import storage_errors
from robopolicy.data.episode import StreamSpec, channel_names
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, explain

__all__ = ["write"]

CHUNK_ROWS = 65_536
FRAMES = 64
"""Frames in memory at once."""
JPEG2K_OPTIONS = (
    *("level", "codecformat", "colorspace", "tile", "reversible", "bitspersample", "resolutions"),
    *("numthreads", "verbose"),
)
"""What the codec class of diffusion_policy takes; it is called with whatever stands in the metadata, and hands some of
it to functions that want numbers, so that what was not chosen must not stand there as null."""


def write(
    store: EpisodeStore, path: Path, *, images: Literal["raw", "jpeg2k"] = "raw", level: int = 50, extra: bool = True
) -> Iterable[Finding]:
    """Write the store at ``path``, episode by episode.

    Args:
        store: Open, with episodes.
        path: Does not exist yet; ``.zip`` makes one file.
        images: ``raw`` (exact, readable without further packages) or ``jpeg2k``.
        level: Quality of JPEG 2000 in dB; diffusion_policy uses 50.
        extra: Also write the streams that the card does not know.

    Returns:
        What the layout has no place for.

    Raises:
        DataError: two streams would get one name, or a damaged store.
        MissingDependencyError: JPEG 2000 without imagecodecs.
        StorageError: the disk refused.
    """
    import zarr

    keys = _keys(store, extra)
    compressor = _jpeg2k(level) if images == "jpeg2k" else None
    with storage_errors(path), zarr.config.set({"array.write_empty_chunks": True}):
        zipped = path.suffix == ".zip"
        target: Any = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
        try:
            root = zarr.create_group(target, zarr_format=2, attributes={"robopolicy": _labels(store)})
            data, meta = root.create_group("data"), root.create_group("meta")
            ends = store.episode_ends.astype(np.int64)
            _array(meta, "episode_ends", ends.shape, "int64", len(ends))[...] = ends
            for stream, key in keys.items():
                spec = store.streams[stream]
                if spec.image:
                    _frames(data, store, stream, key, spec, compressor)
                else:
                    _column(data, store, stream, key, spec)
            seconds = store.read("time_ns") / 1e9
            _array(data, "timestamp", seconds.shape, "float64", len(seconds))[...] = seconds
        finally:
            target.close()
    return [Finding("labels", "instructions, labels and the card are in .zattrs, where loaders do not look", "note")]


def _keys(store: EpisodeStore, extra: bool) -> dict[str, str]:
    """Stream -> key below ``data``."""
    own = {"state", "action", "time_ns", "joint_position", "joint_command", "environment_state"}
    kept = [s for s in store.streams if extra or s in own or s.startswith("image/")]
    keys = {stream: stream.removeprefix("image/").replace("/", "_") for stream in kept}
    names = [*keys.values(), "timestamp"]
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if names.count(n) > 1})
        raise DataError(explain("two streams would get one name", given=twice, mend="options.extra=false"))
    return keys


def _labels(store: EpisodeStore) -> dict[str, Any]:
    episodes = [store.info(i) for i in range(store.num_episodes)]
    return {
        "fps": store.fps,
        "task": store.task,
        "embodiment": store.embodiment.to_dict(),
        "environment_state": list(store.environment_state_names),
        "episodes": [{k: e[k] for k in ("language", "success", "metadata")} for e in episodes],
    }


def _array(group: Any, name: str, shape: tuple[int, ...], dtype: str, rows: int, **options: Any) -> Any:
    chunks = (max(rows, 1), *shape[1:])
    settings = {"compressors": None, "filters": None, **options}
    return group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **settings)


def _column(data: Any, store: EpisodeStore, stream: str, key: str, spec: StreamSpec) -> None:
    values = store.read(stream)
    names = channel_names(stream, store.embodiment, store.environment_state_names, spec)
    attributes = {"stream": stream, "spec": spec.to_dict(), "channels": list(names)}
    attributes["units"] = list(_units(store, stream, spec))
    rows = min(len(values), CHUNK_ROWS)
    array = _array(data, key, values.shape, spec.dtype, rows, attributes=attributes)
    for start in range(0, len(values), CHUNK_ROWS):
        array[start : start + CHUNK_ROWS] = values[start : start + CHUNK_ROWS]


def _units(store: EpisodeStore, stream: str, spec: StreamSpec) -> tuple[str, ...]:
    card = store.embodiment
    groups = {"state": card.state, "action": card.action, "joint_position": card.joints, "joint_command": card.joints}
    return tuple(c.unit for c in groups[stream].channels) if stream in groups else spec.units


def _frames(data: Any, store: EpisodeStore, stream: str, key: str, spec: StreamSpec, compressor: Any) -> None:
    colour = (spec.dtype, spec.shape[-1]) == ("uint8", 3)
    array = _array(
        data,
        key,
        (store.num_steps, *spec.shape),
        spec.dtype,
        1,
        compressors=compressor if colour else None,
        attributes={"stream": stream, "spec": spec.to_dict()},
    )
    for start in range(0, store.num_steps, FRAMES):
        stop = min(start + FRAMES, store.num_steps)
        array[start:stop] = store.read(stream, start, stop)


def _jpeg2k(level: int) -> Any:
    """JPEG 2000 whose metadata hold only what diffusion_policy's own codec class takes.

    Raises:
        MissingDependencyError: imagecodecs is not installed.
    """
    register_image_codecs()
    from imagecodecs.numcodecs import Jpeg2k

    class PlainJpeg2k(Jpeg2k):  # type: ignore[misc]
        def get_config(self) -> dict[str, Any]:
            config = super().get_config()
            return {k: v for k, v in config.items() if v is not None and (k == "id" or k in JPEG2K_OPTIONS)}

    return PlainJpeg2k(level=level)
