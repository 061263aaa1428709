"""The store keeps what it was given, and zarr-python agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import data_toy
import numpy as np
import pytest
import zarr

from robopolicy.data import layout
from robopolicy.data.jpeg_codec import register_jpeg_codec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError, StorageError, UnknownNameError

register_jpeg_codec()


def fill(path: Path, episodes: int = 3, **options: object) -> EpisodeStore:
    with data_toy.create(path, **options) as store:
        for i in range(episodes):
            assert store.append(data_toy.episode(store, i)) == i
    return EpisodeStore.open(path)


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    store = fill(tmp_path / "s.zarr", 4)
    data_toy.verify(store, [0, 1, 2, 3])
    assert store.embodiment.hash == data_toy.embodiment().hash
    assert (store.task, store.fps, store.cameras) == ("toy", 20.0, ("front", "wrist"))
    assert store.environment_state_names == ("cube.x", "cube.y")
    with pytest.raises(AssertionError):  # control: the check can tell another episode
        data_toy.verify(store, [0, 1, 2, 4])


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_zarr_python_reads_the_same(tmp_path: Path, codec: str) -> None:
    store = fill(tmp_path / "s.zarr", codec=codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
        for name in store.streams:
            np.testing.assert_array_equal(group[f"data/{name}"][:], store.read(name), err_msg=name)
        assert group["meta/episode_ends"][:].tolist() == store.episode_ends.tolist()
    assert group.attrs["schema_version"] == layout.SCHEMA_VERSION
    for name in store.streams:  # after close() each array also stands on its own
        alone = zarr.open_array(str(tmp_path / "s.zarr" / "data" / name), mode="r")
        assert alone.shape == group[f"data/{name}"].shape


def test_jpeg_is_close_and_raw_is_exact(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(12), np.arange(16)).astype(np.uint8)[..., None] * np.array([4, 5, 6], np.uint8)
    for codec, tolerance in (("raw", 0), ("jpeg", 6)):
        with data_toy.create(tmp_path / codec, cameras=("front",), codec=codec) as store:
            given = data_toy.episode(store, 0, 5)
            given.streams["image/front"] = np.repeat(ramp[None], 5, axis=0)
            store.append(given)
            difference = np.abs(store.read("image/front").astype(int) - ramp).max()
        assert difference <= tolerance
    assert difference > 0  # control: JPEG is not exact, so the tolerance is what lets it pass


def test_many_chunks_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMN_CHUNK_ROWS", 50), ("RECORD_CHUNK_BYTES", 100), ("SHARD_FRAMES", 16)):
        monkeypatch.setattr(layout, name, value)
    store = fill(tmp_path / "s.zarr", 5)
    data_toy.verify(store, list(range(5)))
    whole = store.read("image/front")
    np.testing.assert_array_equal(store.read("image/front", 10, 40), whole[10:40])
    np.testing.assert_array_equal(store.read("state", 45, 105), store.read("state")[45:105])


def test_appending_in_two_sessions_equals_one(tmp_path: Path) -> None:
    one = fill(tmp_path / "one.zarr", 4)
    fill(tmp_path / "two.zarr", 2)
    with EpisodeStore.open(tmp_path / "two.zarr", mode="a") as store:
        for i in (2, 3):
            store.append(data_toy.episode(store, i))
    two = EpisodeStore.open(tmp_path / "two.zarr")
    data_toy.verify(two, [0, 1, 2, 3])
    assert two.content_hash == one.content_hash
    for name in ("state", "action"):
        assert two.statistics(name).to_dict() == one.statistics(name).to_dict()


def test_content_hash_tells_content_from_origin(tmp_path: Path) -> None:
    first = fill(tmp_path / "a.zarr")
    same = fill(tmp_path / "b.zarr", provenance={"operator": "somebody"})
    other = fill(tmp_path / "c.zarr", 2)
    assert first.content_hash == same.content_hash != other.content_hash
    with EpisodeStore.open(tmp_path / "c.zarr", mode="a") as store:
        changed = data_toy.episode(store, 2)
        changed.streams["action"][3, 1] += 1e-6
        store.append(changed)
        assert store.content_hash != first.content_hash


def test_an_open_reader_keeps_its_snapshot(tmp_path: Path) -> None:
    reader = fill(tmp_path / "s.zarr", 2)
    with EpisodeStore.open(tmp_path / "s.zarr", mode="a") as store:
        store.append(data_toy.episode(store, 2))
        data_toy.verify(reader, [0, 1])
        data_toy.verify(store, [0, 1, 2])


def test_an_empty_store_opens(tmp_path: Path) -> None:
    store = fill(tmp_path / "s.zarr", 0)
    data_toy.verify(store, [])
    assert store.read("state").shape == (0, 10)
    assert store.read("image/front").shape == (0, 12, 16, 3)
    with pytest.raises(DataError, match="no episodes yet"):
        store.statistics("state")


def test_wrong_requests(tmp_path: Path) -> None:
    store = fill(tmp_path / "s.zarr", 1)
    with pytest.raises(UnknownNameError, match="did you mean 'action'"):
        store.read("actoin")
    with pytest.raises(ShapeError, match="no such rows"):
        store.read("state", 0, store.num_steps + 1)
    with pytest.raises(DataError, match="no such episode"):
        store.info(1)
    with pytest.raises(UnknownNameError, match="did you mean 'front'"):
        store.images("frnt")
    with pytest.raises(DataError, match="no statistics are kept"):
        store.statistics("image/front")
    with pytest.raises(StorageError, match="open for reading"):
        store.append(data_toy.episode(store, 1))
    with pytest.raises(StorageError, match="already exists"):
        data_toy.create(tmp_path / "s.zarr")
    with pytest.raises(DataError, match="unknown image codec"):
        data_toy.create(tmp_path / "t.zarr", codec="png")
    assert not (tmp_path / "t.zarr").exists()


def test_the_commit_record_is_strict_json(tmp_path: Path) -> None:
    """Infinite limits of a card survive, without the bare ``Infinity`` that JSON forbids."""
    store = fill(tmp_path / "s.zarr", 1)

    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads((tmp_path / "s.zarr" / "zarr.json").read_text(), parse_constant=refuse)
    assert store.embodiment.joints.limit("max_jerk").tolist() == [np.inf] * 3


def test_importing_and_reading_need_neither_zarr_nor_torch(tmp_path: Path) -> None:
    fill(tmp_path / "s.zarr", 1, codec="jpeg")
    code = (
        "import sys, robopolicy.data as d; assert 'numpy' not in sys.modules;"
        f"s = d.EpisodeStore.open({str(tmp_path / 's.zarr')!r}); s.read('image/front'); s.read('action');"
        "assert not {'zarr', 'torch'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
