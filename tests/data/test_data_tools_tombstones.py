"""Tombstones: readers see the live episodes without gaps, statistics leave the deleted out, everything comes back."""

from __future__ import annotations

from pathlib import Path

import data_toy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.data import layout, statistics
from robopolicy.data.snapshot import ROOT_FILE
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tombstones import LiveRows, check_tombstones, dead_rows
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.errors import DataError, ShapeError


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "COLUMN_CHUNK_ROWS", 64)
    monkeypatch.setattr(layout, "RECORD_CHUNK_BYTES", 128)
    monkeypatch.setattr(layout, "SHARD_FRAMES", 32)
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 100)


def filled(path: Path, count: int = 6, **options: object) -> Path:
    with data_toy.create(path, **options) as store:
        for i in range(count):
            store.append(data_toy.episode(store, i, 20 + 7 * i))
    return path


def same_contents(store: EpisodeStore, indices: list[int]) -> None:
    expected = [data_toy.episode(store, i, 20 + 7 * i) for i in indices]
    assert store.num_episodes == len(indices)
    assert store.episode_ends.tolist() == np.cumsum([len(e.streams["action"]) for e in expected]).tolist()
    assert store.num_steps == store.episode_ends[-1]
    for i, wanted in enumerate(expected):
        info = store.info(i)
        assert info["metadata"] == wanted.metadata
        for name, values in wanted.streams.items():
            np.testing.assert_array_equal(store.read(name, info["start"], info["stop"]), values, err_msg=name)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dead", [[0], [5], [1, 2, 4], [0, 1, 2, 3, 4]])
def test_readers_see_the_live_episodes_and_appending_goes_on(tmp_path: Path, dead: list[int]) -> None:
    path = filled(tmp_path / "s.zarr")
    before = EpisodeStore.open(path)
    data_bytes = {p: p.read_bytes() for p in (path / "data").rglob("c.*")}
    with EpisodeStore.open(path, "a") as store:
        store.set_tombstones(dead)
        live = [i for i in range(6) if i not in dead]
        same_contents(store, live)
        assert {p: p.read_bytes() for p in (path / "data").rglob("c.*")} == data_bytes
        store.append(data_toy.episode(store, 6, 20 + 7 * 6))
    again = EpisodeStore.open(path)
    same_contents(again, [*live, 6])
    assert again.tombstones == tuple(dead)
    with data_toy.create(tmp_path / "fresh.zarr") as fresh:
        for i in [*live, 6]:
            fresh.append(data_toy.episode(fresh, i, 20 + 7 * i))
    for stream in ("state", "action"):
        ours, wanted = again.statistics(stream), fresh.statistics(stream)
        assert ours.count == wanted.count
        np.testing.assert_allclose(ours.mean, wanted.mean, atol=1e-9)
        np.testing.assert_array_equal(ours.max, wanted.max)
    assert before.num_episodes == 6  # control: a handle on the earlier commit still shows that one
    with EpisodeStore.open(path, "a") as store:
        store.set_tombstones([])
    same_contents(EpisodeStore.open(path), list(range(7)))


@pytest.mark.usefixtures("small_chunks")
def test_statistics_do_not_depend_on_when_it_was_deleted(tmp_path: Path) -> None:
    early, late = tmp_path / "early.zarr", tmp_path / "late.zarr"
    for path in (early, late):
        filled(path, 3)
    for path, first in ((early, True), (late, False)):
        with EpisodeStore.open(path, "a") as store:
            if first:
                store.set_tombstones([1])
            for i in range(3, 6):
                store.append(data_toy.episode(store, i, 20 + 7 * i))
            store.set_tombstones([1])
    a, b = EpisodeStore.open(early), EpisodeStore.open(late)
    assert a.content_hash == b.content_hash
    for name in ("min", "max", "q01", "q99"):
        np.testing.assert_array_equal(getattr(a.statistics("action"), name), getattr(b.statistics("action"), name))


def test_content_hash_and_windows(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr", 4)
    whole = EpisodeStore.open(path).content_hash
    with EpisodeStore.open(path, "a") as store:
        store.set_tombstones([1])
        one = store.content_hash
        store.set_tombstones([2])
        assert len({whole, one, store.content_hash}) == 3
        windows = WindowDataset(store, WindowSpec(2, 4, cameras=("front",)), cache_bytes=0)
        assert len(windows) == store.num_steps == 20 + 27 + 41
        batch = windows.gather(np.arange(len(windows)))
        live = [data_toy.episode(store, i, 20 + 7 * i).streams for i in (0, 1, 3)]
        np.testing.assert_array_equal(batch["image"]["front"][:, 1], np.concatenate([s["image/front"] for s in live]))
        np.testing.assert_array_equal(batch["state"][:, 1], np.concatenate([s["state"] for s in live]))
        deleted = data_toy.episode(store, 2, 34).streams["time_ns"]
        assert not np.isin(batch["time_ns"], deleted).any()
        store.set_tombstones([])
        assert store.content_hash == whole


def test_damaged_tombstones_are_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "s.zarr", 2)
    with EpisodeStore.open(path, "a") as store:
        store.set_tombstones([1])
        with pytest.raises(DataError, match="tombstones"):
            store.set_tombstones([7])
    record = path / ROOT_FILE
    for entry in ("[5]", "[true]", '"1"', "[1,1]", "[-1]", "null"):
        damaged = record.read_bytes().replace(b'"tombstones":[1]', f'"tombstones":{entry}'.encode())
        record.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            EpisodeStore.open(path)
        record.write_bytes(damaged.replace(f'"tombstones":{entry}'.encode(), b'"tombstones":[1]'))
    assert EpisodeStore.open(path).num_episodes == 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_live_rows_agree_with_a_mask(lengths: list[int], data: st.DataObject) -> None:
    tombstones = sorted(data.draw(st.sets(st.integers(0, len(lengths) - 1))))
    ends = np.cumsum(lengths).astype(np.int64)
    live = LiveRows.of(ends, tombstones)
    stored = np.flatnonzero(~dead_rows(ends, tombstones))
    assert live.num_steps == len(stored)
    np.testing.assert_array_equal(live.stored(np.arange(len(stored))), stored)
    np.testing.assert_array_equal(live.select(np.arange(ends[-1])), stored)
    a = data.draw(st.integers(0, len(stored)))
    b = data.draw(st.integers(a, len(stored)))
    rows = [row for first, last in live.spans(a, b) for row in range(first, last)]
    assert rows == stored[a:b].tolist()
    with pytest.raises(ShapeError):
        live.stored(np.array([len(stored)]))


def test_check_tombstones() -> None:
    assert check_tombstones([0, 2], 3) == (0, 2)
    for wrong in ([2, 0], [3], {"a": 1}, [0.0]):
        with pytest.raises(DataError):
            check_tombstones(wrong, 3)
