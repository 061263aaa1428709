"""Decoded frames in a file: made once, whole or not at all, shared, and never taken for something else."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.data import WindowDataset, WindowSpec
from robopolicy.data.cache_folder import make_room
from robopolicy.data.frame_stream import ShardFrames
from robopolicy.data.resize import resize_frame
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import RobopolicyError, ShapeError, StorageError

SPEC = WindowSpec(1, 1, cameras=("front",))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cache") / "s.zarr"
    with data_toy.create(made) as store:
        for i, length in enumerate((300, 100)):
            store.append(data_toy.episode(store, i, length))
    return made


def dataset(path: Path, folder: Path, spec: WindowSpec = SPEC, **options: Any) -> WindowDataset:
    return WindowDataset(EpisodeStore.open(path), spec, cache_bytes=0, cache_folder=folder, **options)


def frames(data: WindowDataset) -> np.ndarray:
    return data.gather(np.arange(len(data)))["image"]["front"][:, 0]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    real = ShardFrames._read

    def count(self: ShardFrames, shard: int, frame: int, *how: Any) -> None:
        seen.append(256 * shard + frame)
        real(self, shard, frame, *how)

    monkeypatch.setattr(ShardFrames, "_read", count)
    return seen


def test_a_second_run_decodes_nothing(path: Path, tmp_path: Path, decoded: list[int]) -> None:
    expected = EpisodeStore.open(path).read("image/front")
    np.testing.assert_array_equal(frames(dataset(path, tmp_path)), expected)
    assert sorted(decoded) == list(range(400))
    np.testing.assert_array_equal(frames(dataset(path, tmp_path)), expected)
    part = WindowDataset(EpisodeStore.open(path), SPEC, [1], cache_bytes=0, cache_folder=tmp_path)
    np.testing.assert_array_equal(frames(part), expected[300:])
    assert len(decoded) == 400
    frames(dataset(path, tmp_path, WindowSpec(1, 1, cameras=("front",), image_size=(6, 8))))
    assert len(decoded) == 800  # control: another size is other content
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_or_foreign_file_is_made_again(path: Path, tmp_path: Path, decoded: list[int]) -> None:
    expected = frames(dataset(path, tmp_path))
    (file,) = tmp_path.glob("*.frames")
    whole = file.read_bytes()
    for damage in (whole[:-1], whole + b"x", b"y" * 4096 + whole[4096:], b""):
        decoded.clear()
        file.write_bytes(damage)
        np.testing.assert_array_equal(frames(dataset(path, tmp_path)), expected)
        assert len(decoded) == 400
    assert file.read_bytes() == whole


def test_what_a_killed_builder_left_is_removed(path: Path, tmp_path: Path) -> None:
    left = tmp_path / "0123.frames.partial"
    left.write_bytes(b"half")
    frames(dataset(path, tmp_path))
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_nothing_behind(path: Path, tmp_path: Path) -> None:
    def build(result: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            frames(dataset(path, tmp_path))
        except RobopolicyError as error:
            result.put((type(error).__name__, str(error)))

    context = multiprocessing.get_context("fork")
    result = context.Queue()
    child = context.Process(target=build, args=(result,))
    child.start()
    name, text = result.get(timeout=60)
    child.join()
    assert name == "StorageError"
    assert "limit" in text
    assert not list(tmp_path.iterdir())
    assert len(frames(dataset(path, tmp_path))) == 400  # control: without the limit it works


def test_processes_that_want_the_same_file_make_it_once(path: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Queue()

    def use() -> None:
        seen = []
        real = ShardFrames._read
        ShardFrames._read = lambda self, s, f, *how: (seen.append(f), real(self, s, f, *how))  # type: ignore[method-assign]
        total = int(frames(dataset(path, tmp_path)).astype(np.int64).sum())
        counts.put((len(seen), total))

    children = [context.Process(target=use) for _ in range(3)]
    for child in children:
        child.start()
    found = [counts.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert sorted(n for n, _ in found) == [0, 0, 400]
    assert len({total for _, total in found}) == 1


def test_the_files_unused_for_longest_give_way(path: Path, tmp_path: Path) -> None:
    import os

    specs = [WindowSpec(1, 1, cameras=("front",), image_size=(h, 16)) for h in (12, 11, 10)]
    one = 4096 + 400 * 12 * 16 * 3
    made = []
    for i, spec in enumerate(specs):
        data = dataset(path, tmp_path, spec, cache_file_bytes=2 * one)
        frames(data)
        tier = data.frame_tiers["image/front"]
        if i < 2:
            os.utime(tier.path, ns=(i, i))
        made.append(data)
    names = [data.frame_tiers["image/front"].path for data in made]
    assert [name.exists() for name in names] == [False, True, True]
    assert len(frames(made[0])) == 400  # who has it mapped keeps it
    with pytest.raises(StorageError, match="larger than the cap"):
        make_room(tmp_path, 100, 99)


def test_resident_memory_is_given_back(path: Path, tmp_path: Path) -> None:
    data = dataset(path, tmp_path)
    tier = data.frame_tiers["image/front"]
    first = frames(data)
    tier.resident_bytes = 10_000
    np.testing.assert_array_equal(frames(data), first)  # the mapping was emptied in between, the content is the same
    assert tier._touched == 0
    np.testing.assert_array_equal(frames(data), first)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 255))
def test_resizing_keeps_a_flat_frame_flat(height: int, width: int, value: int) -> None:
    out = np.empty((height, width, 3), np.uint8)
    resize_frame(np.full((12, 16, 3), value, np.uint8), out)
    assert (out == value).all()


def test_resizing_averages_colour_and_picks_depth() -> None:
    board = np.indices((16, 16)).sum(axis=0) % 2 * 200
    colour = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    small = np.empty((4, 4, 3), np.uint8)
    resize_frame(colour, small)
    assert np.abs(small.astype(int) - 100).max() <= 20  # a sampled board would be 0 or 200 everywhere
    depth = (board * 5).astype(np.uint16)[..., None]
    picked = np.empty((4, 4, 1), np.uint16)
    resize_frame(depth, picked)
    assert set(np.unique(picked)) <= {0, 1000}  # no distance between the two surfaces
    exact = np.empty((16, 16, 1), np.uint16)
    resize_frame(depth, exact)
    np.testing.assert_array_equal(exact, depth)
    for bad in ((0, 4), (4,), "ab", (4.5, 2)):
        with pytest.raises(ShapeError, match="image_size"):
            WindowSpec(1, 1, image_size=bad)
