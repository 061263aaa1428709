"""Depth and masks: exact, read by zarr-python without this package, and refused when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import data_toy
import numpy as np
import pytest
import zarr

from robopolicy.data import layout
from robopolicy.data.depth_codec import decode_blosc, encode_blosc
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError

EXTRA = {"depth/front": StreamSpec("uint16", (12, 16, 1)), "mask/front": StreamSpec("uint8", (12, 16, 1))}


def frames(index: int, length: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([8, index])
    return {
        "depth/front": rng.integers(0, 65_536, (length, 12, 16, 1), dtype=np.uint16),
        "mask/front": rng.integers(0, 2, (length, 12, 16, 1), dtype=np.uint8),
        "image/front": rng.integers(0, 256, (length, 12, 16, 3), dtype=np.uint8),
    }


def episode(store: EpisodeStore, index: int, length: int = 30) -> Episode:
    """As the toy's, with depth in its full range."""
    rng = np.random.default_rng([9, index])
    low = {n: s.shape for n, s in store.streams.items() if s.dtype == "float32"}
    streams = {name: rng.normal(size=(length, *shape)).astype(np.float32) for name, shape in low.items()}
    streams["time_ns"] = data_toy.PERIOD_NS * np.arange(length)
    return Episode({**streams, **frames(index, length)}, "push", True, {"index": index})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EpisodeStore:
    monkeypatch.setattr(layout, "SHARD_FRAMES", 16)
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, data_toy.embodiment(), cameras=("front",), extra=EXTRA, codec="jpeg") as made:
        for i in range(3):
            made.append(episode(made, i))
    return EpisodeStore.open(path)


def test_depth_and_masks_are_exact_in_a_jpeg_store(store: EpisodeStore) -> None:
    assert store.streams["depth/front"] == EXTRA["depth/front"]
    for name in EXTRA:
        given = np.concatenate([frames(i)[name] for i in range(3)])
        read = store.read(name)
        assert read.dtype == given.dtype
        np.testing.assert_array_equal(read, given)
        rows = np.array([89, 0, 31, 31])
        out = np.empty((4, 12, 16, 1), given.dtype)
        store.frames(name).gather(rows, out)
        np.testing.assert_array_equal(out, given[rows])
    colour = np.concatenate([frames(i)["image/front"] for i in range(3)])
    assert not np.array_equal(store.read("image/front"), colour)  # control: JPEG is not exact
    assert store.cameras == ("front",)


def test_zarr_alone_reads_depth(store: EpisodeStore, tmp_path: Path) -> None:
    """In a process that never imports this package: only codecs of the zarr v3 specification are used."""
    np.save(tmp_path / "depth.npy", store.read("depth/front"))
    code = (
        "import sys, numpy as np, zarr;"
        f"a = zarr.open_array({str(store.path / 'data/depth/front')!r}, mode='r');"
        f"assert a.dtype == np.uint16 and np.array_equal(a[:], np.load({str(tmp_path / 'depth.npy')!r}));"
        "assert not any(m.startswith('robopolicy') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert zarr.open_array(str(store.path / "data/mask/front"), mode="r")[:].max() == 1


def test_appending_goes_on_after_reopening(store: EpisodeStore) -> None:
    with EpisodeStore.open(store.path, mode="a") as again:
        again.append(episode(again, 3))
    read = EpisodeStore.open(store.path).read("depth/front")
    np.testing.assert_array_equal(read, np.concatenate([frames(i)["depth/front"] for i in range(4)]))


def test_what_does_not_fit_is_refused(store: EpisodeStore) -> None:
    with EpisodeStore.open(store.path, mode="a") as again:
        for change in (lambda d: d.astype(np.float32), lambda d: d[..., 0], lambda d: d.astype(np.int64)):
            bad = episode(again, 4)
            bad.streams["depth/front"] = change(bad.streams["depth/front"])
            with pytest.raises(ShapeError, match="'depth/front'"):
                again.append(bad)
        assert again.num_episodes == 3


def test_a_damaged_depth_frame_is_named(store: EpisodeStore) -> None:
    file = store.path / "data/depth/front/c.1.0.0.0"
    raw = bytearray(file.read_bytes())
    raw[60] ^= 1
    file.write_bytes(raw)
    with pytest.raises(DataError, match=r"c\.1\.0\.0\.0, frame 0 does not match its checksum"):
        EpisodeStore.open(store.path).read("depth/front")
    assert len(EpisodeStore.open(store.path).read("depth/front", 0, 16)) == 16


def test_the_sizes_in_a_blosc_header_are_compared_first() -> None:
    frame = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16, 1)
    blob = encode_blosc(frame)
    out = np.empty_like(frame)
    decode_blosc(blob, out)
    np.testing.assert_array_equal(out, frame)
    strided = np.empty((12, 32, 1), np.uint16)[:, ::2]
    decode_blosc(blob, strided)
    np.testing.assert_array_equal(strided, frame)
    huge = bytearray(blob)
    huge[4:8] = (0x7FFF_FFFF).to_bytes(4, "little")
    for bad in (blob[:-1], blob[:10], b"", bytes(huge), blob + b"x"):
        with pytest.raises(DataError, match=r"another size|not a blosc buffer"):
            decode_blosc(bad, out)


def test_shards_of_large_frames_hold_fewer_of_them() -> None:
    """An append rewrites the unfinished shard: 256 frames of 640x480 depth would be 157 MB each time."""
    assert layout.shard_frames((480, 640, 1), "uint16", "blosc") == 109
    assert layout.shard_frames((480, 640, 3), "uint8", "jpeg") == layout.SHARD_FRAMES
    assert layout.shard_frames((96, 96, 3), "uint8", "raw") == layout.SHARD_FRAMES
    assert layout.chunk_rows("float32", (10,)) == layout.COLUMN_CHUNK_ROWS
    assert layout.chunk_rows("float32", (512,)) == 2048
