"""Writes replay buffers as the published scripts do: zarr v2, a folder or a zip, with their codecs and chunks."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from imagecodecs import numcodecs as image_codecs

from robopolicy.data.convert.source import Format, Reading, Source
from robopolicy.data.convert.zarr_v2 import register_image_codecs
from robopolicy.data.store import EpisodeStore
from robopolicy.schema import build

JPEG2K_KEYS = {
    *("id", "level", "codecformat", "colorspace", "tile", "reversible", "bitspersample", "resolutions"),
    *("numthreads", "verbose"),
}
"""Configuration that the codec class inside diffusion_policy accepts; it is built with these as keyword arguments."""
JPEGXL_KEYS = {
    *("id", "level", "effort", "distance", "lossless", "decodingspeed", "photometric", "planar", "usecontainer"),
    *("index", "keeporientation", "numthreads"),
}


def write_buffer(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    ends: Sequence[int],
    *,
    codecs: Mapping[str, Any] | None = None,
    chunks: Mapping[str, tuple[int, ...]] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A replay buffer at ``path``; images one frame per chunk, everything else in one chunk unless told otherwise."""
    register_image_codecs()
    zipped = path.suffix == ".zip"
    store = zarr.storage.ZipStore(path, mode="w") if zipped else zarr.storage.LocalStore(path)
    with zarr.config.set({"array.write_empty_chunks": True}):
        root = zarr.create_group(store, zarr_format=2)
        groups = {name: root.create_group(name) for name in ("data", "meta")}
        for name, values in {**arrays, "episode_ends": np.asarray(ends, np.int64)}.items():
            group = groups["meta" if name == "episode_ends" else "data"]
            chunk = (1, *values.shape[1:]) if values.ndim == 4 else values.shape
            array = group.create_array(
                name,
                shape=values.shape,
                chunks=(chunks or {}).get(name, tuple(max(n, 1) for n in chunk)),
                dtype=values.dtype,
                compressors=(codecs or {}).get(name),
                filters=None,
                attributes=(attributes or {}).get(name),
            )
            array[...] = values
    store.close()
    return path


def old_codecs(path: Path) -> None:
    """Leave in the metadata of a zip only the codec options that the published classes write."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if name.endswith(".zarray"):
                meta = json.loads(content)
                keys = {"imagecodecs_jpeg2k": JPEG2K_KEYS, "imagecodecs_jpegxl": JPEGXL_KEYS}
                if (codec := meta["compressor"]) and codec["id"] in keys:
                    meta["compressor"] = {k: v for k, v in codec.items() if k in keys[codec["id"]]}
                content = json.dumps(meta).encode()
            archive.writestr(name, content)


def jpeg2k() -> Any:
    return image_codecs.Jpeg2k(level=50)


def jpegxl() -> Any:
    return image_codecs.Jpegxl(level=99, numthreads=1, lossless=True)


def smooth_frames(rows: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [rows, H, W, 3] that lossy codecs keep within a few levels; no two channels or rows alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([127 + 100 * np.sin(x / width * a + y / height * b + c) for a, b, c in rng.uniform(1, 5, (3, 3))], -1)
        for _ in range(rows)
    ]
    return np.round(frames).astype(np.uint8)


def open_source(form: Format, path: Path, **options: Any) -> Source:
    return form.open(path, build(form.options, options))


def store_all(source: Source, path: Path, codec: str = "raw") -> tuple[EpisodeStore, list[Reading]]:
    """A store made from ``info``, and every episode of the source in it, checked by the store itself."""
    info = source.info
    store = EpisodeStore.create(
        path,
        info.embodiment,
        task=info.task,
        cameras=info.cameras,
        environment_state=info.environment_state,
        joints=info.joints,
        extra=info.extra,
        codec=codec,
        fps=info.fps,
        provenance=info.provenance,
    )
    readings = [source.read(name) for name in info.episodes]
    for reading in readings:
        assert reading.episode is not None, reading.findings
        store.append(reading.episode)
    return store, readings
