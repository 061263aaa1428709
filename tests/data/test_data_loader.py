"""Batches are a function of the order alone, whatever the tier, the number of processes and who holds which batch."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.batch_memory import BatchMemory
from robopolicy.data.codecs import decode_jpeg, decode_jpeg_pillow, decoder_into, encode_jpeg
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError

SPEC = WindowSpec(2, 8, cameras=("front", "wrist"), image_size=(10, 9))
TIERS = {
    "decoded RAM": {"cache_bytes": 1 << 30},
    "decoded file": {"cache_bytes": 0, "cache_folder": "cache"},
    "stream": {"cache_bytes": 0},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loader") / "s.zarr"
    with data_toy.create(made, codec="jpeg") as store:
        for i in range(3):
            store.append(data_toy.episode(store, i))
    return made


@pytest.fixture(scope="module")
def data(path: Path) -> WindowDataset:
    return WindowDataset(EpisodeStore.open(path), WindowSpec(2, 8, cameras=("front",)), cache_bytes=0)


def dataset(path: Path, folder: Path, tier: str, spec: WindowSpec = SPEC) -> WindowDataset:
    options: dict[str, Any] = dict(TIERS[tier])
    if "cache_folder" in options:
        options["cache_folder"] = folder
    return WindowDataset(EpisodeStore.open(path), spec, **options)


def contents(batch: Any) -> dict[str, np.ndarray]:
    images = {f"image/{name}": tensor.numpy() for name, tensor in batch.image.items()}
    return {"state": batch.state.numpy(), "action": batch.action.numpy(), "mask": batch.action_mask.numpy(), **images}


def assert_equal(one: Any, two: Any) -> None:
    a, b = contents(one), contents(two)
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)
    assert one.language == two.language


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("tier", ["decoded RAM", "decoded file", "stream"])
def test_neither_the_tier_nor_the_number_of_processes_changes_a_batch(path: Path, tmp_path: Path, tier: str) -> None:
    reference = dataset(path, tmp_path, "stream")
    order = np.random.default_rng(0).permutation(len(reference))
    expected = list(Loader(reference, 16).batches(order))
    assert len(expected) == Loader(reference, 16).num_batches(len(order)) == -(-len(order) // 16)
    made = dataset(path, tmp_path, tier)
    assert set(made.tiers.values()) == {tier}
    for workers in (0, 1, 2):
        with Loader(made, 16, workers) as loader:
            for mine, batch in zip(expected, loader.batches(order), strict=True):
                assert_equal(mine, batch)
    other = next(Loader(made, 16).batches(order[::-1]))  # control: another order gives another batch
    assert not np.array_equal(other.action.numpy(), expected[0].action.numpy())


def test_encoded_frames_are_the_same_frames(path: Path, tmp_path: Path) -> None:
    spec = WindowSpec(2, 8, cameras=("front", "wrist"))
    made = WindowDataset(EpisodeStore.open(path), spec, cache_bytes=0)
    made.frame_tiers = {name: encoded(tier) for name, tier in made.frame_tiers.items()}
    reference = WindowDataset(EpisodeStore.open(path), spec, cache_bytes=0)
    assert set(made.tiers.values()) == {"encoded"}
    order = np.random.default_rng(1).permutation(len(made))[:100]
    for workers in (0, 2):
        with Loader(made, 16, workers) as loader:
            for mine, batch in zip(Loader(reference, 16).batches(order), loader.batches(order), strict=True):
                assert_equal(mine, batch)


def encoded(tier: Any) -> Any:
    from robopolicy.data.encoded_cache import EncodedRam

    rows = np.arange(tier.stream.rows)
    return EncodedRam(tier.stream, rows, tier.frame, tier.stream.lengths(rows))


def test_what_the_budget_decides(path: Path, tmp_path: Path) -> None:
    store = EpisodeStore.open(path)
    spec = WindowSpec(1, 1, cameras=("front", "wrist"))
    whole = {c: store.num_steps * int(np.prod(store.streams[f"image/{c}"].shape)) for c in store.cameras}
    assert WindowDataset(store, spec, cache_bytes=1 << 30).tiers == dict.fromkeys(store.cameras, "decoded RAM")
    some = WindowDataset(store, spec, cache_bytes=whole["front"] + 4096)
    assert some.tiers == {"front": "decoded RAM", "wrist": "stream"}
    assert some.cached_cameras == ("front",)
    assert WindowDataset(store, spec, cache_bytes=0).tiers == dict.fromkeys(store.cameras, "stream")
    file = WindowDataset(store, spec, cache_bytes=0, cache_folder=tmp_path / "c")
    assert file.tiers == dict.fromkeys(store.cameras, "decoded file")
    assert WindowDataset(store, spec, cache_bytes=0, cache_folder=tmp_path, cache_file_bytes=10).streaming
    with pytest.raises(DataError, match="budget below zero"):
        WindowDataset(store, spec, cache_bytes=-1)


def test_batches_that_are_kept_never_change(data: WindowDataset) -> None:
    """More batches than the ring has slots: the first are views of it, the others copies; none is overwritten."""
    order = np.random.default_rng(2).permutation(len(data))
    with Loader(data, 4, workers=2) as loader:
        kept = list(loader.batches(order))
        slots = loader._ring.slots
        assert len(kept) > 2 * slots
        ring = loader._ring._block.array((slots * loader._ring.slot_bytes,))
        shared = [batch for batch in kept if np.shares_memory(batch.action.numpy(), ring)]
        assert 1 <= len(shared) < slots  # control: some are views of the ring, or this would test nothing
    for mine, batch in zip(Loader(data, 4).batches(order), kept, strict=True):
        assert_equal(mine, batch)  # after the workers have gone, too


def test_slots_come_back_when_batches_go(data: WindowDataset) -> None:
    with Loader(data, 4, workers=1) as loader:
        batches = loader.batches(np.arange(len(data)))
        pictures = set()
        for _ in range(30):
            batch = next(batches)
            pictures.add(batch.image["front"].data_ptr())
        assert len(pictures) <= loader._ring.slots
        del batch
        batches.close()
        gc.collect()
        assert sorted(loader._ring.free) == list(range(loader._ring.slots))


def test_fields_and_types(data: WindowDataset) -> None:
    import torch

    batch = next(Loader(data, 4).batches(np.arange(10)))
    assert batch.state.shape == (4, 2, 10)
    assert batch.state.dtype == torch.float32
    assert batch.action.shape == batch.action_mask.shape == (4, 8, 10)
    assert batch.action_mask.dtype == torch.bool
    assert batch.image["front"].shape == (4, 2, 12, 16, 3)
    assert batch.image["front"].dtype == torch.uint8
    assert batch.environment_state is not None
    assert batch.embodiment == data_toy.embodiment().hash
    assert batch.language == ["move 0"] * 4


def test_leaving_early_and_beginning_again(data: WindowDataset) -> None:
    with Loader(data, 4, workers=2) as loader:
        order = np.arange(len(data))
        first = loader.batches(order)
        next(first)
        pids = loader._ring.process_ids
        assert all(map(alive, pids))  # control: there were some
        first.close()
        second = loader.batches(order[::-1].copy())
        assert_equal(next(second), next(Loader(data, 4).batches(order[::-1])))
        assert loader._ring.process_ids == pids  # the same workers serve every iteration
        third = loader.batches(order)
        assert_equal(next(third), next(Loader(data, 4).batches(order)))
        with pytest.raises(DataError, match="another iteration"):
            next(second)
        assert_equal(next(third), list(Loader(data, 4).batches(order[:8]))[1])
    assert not any(map(alive, pids))


def test_an_error_in_a_worker_reaches_the_caller_and_the_workers_go_on(path: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken.zarr"
    shutil.copytree(path, broken)
    data = WindowDataset(EpisodeStore.open(broken), WindowSpec(2, 8, cameras=("front",)), cache_bytes=0)
    with Loader(data, 4, workers=2) as loader:
        with pytest.raises(ShapeError, match="no such window"):
            list(loader.batches(np.array([0, 1, 2, 3, len(data)])))
        good = list(loader.batches(np.arange(8)))
        pids = loader._ring.process_ids
        assert len(good) == 2
    shard = next(broken.glob("data/image/front/c.0*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with Loader(data, 4, workers=2) as loader:
        with pytest.raises(DataError, match=r"c\.0"):
            list(loader.batches(np.arange(8)))
        pids = loader._ring.process_ids
        assert all(map(alive, pids))
    assert not any(map(alive, pids))
    with pytest.raises(DataError, match="unusable loader"):
        Loader(data, 0)
    with pytest.raises(DataError, match="unusable loader"):
        Loader(data, 1, -1)


def test_without_cameras_no_process_is_started(path: Path) -> None:
    loader = Loader(WindowDataset(EpisodeStore.open(path), WindowSpec(2, 8)), 16, workers=2)
    assert len(list(loader.batches(np.arange(40)))) == 3
    assert loader._ring is None


def test_deleted_episodes_do_not_shift_frames(path: Path, tmp_path: Path) -> None:
    """The rows of a store with a deleted episode are not where they lie in its files."""
    import shutil

    copy = tmp_path / "deleted.zarr"
    shutil.copytree(path, copy)
    before = WindowDataset(EpisodeStore.open(copy), SPEC, [0, 2], cache_bytes=0)
    with EpisodeStore.open(copy, "a") as store:
        store.set_tombstones([1])
    order = np.random.default_rng(3).permutation(len(before))[:60]
    for tier in ("decoded RAM", "decoded file", "stream"):
        after = dataset(copy, tmp_path / "cache", tier)
        assert len(after) == len(before)
        for workers in (0, 1):
            with Loader(after, 16, workers) as loader:
                for mine, batch in zip(Loader(before, 16).batches(order), loader.batches(order), strict=True):
                    assert_equal(mine, batch)


@pytest.mark.parametrize("shape", [(96, 96, 3), (160, 128, 3), (97, 81, 3)])
def test_every_way_of_decoding_gives_the_same_pixels(shape: tuple[int, int, int]) -> None:
    frames = np.random.default_rng(4).integers(0, 256, (3, *shape), dtype=np.uint8)
    blobs = [encode_jpeg(frame) for frame in frames]
    batch = BatchMemory().empty({"image/front": (shape, np.dtype(np.uint8))}, 3)["image/front"]
    decode = decoder_into(batch, decode_jpeg)
    assert (decode is decode_jpeg) == bool(np.prod(shape) % 32)  # in place only where every frame stands well
    for blob, direct in zip(blobs, batch, strict=True):
        one, two = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
        decode(blob, direct)
        decode_jpeg(blob, one)
        decode_jpeg_pillow(blob, two)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, direct)
    assert not np.array_equal(batch, frames)
    for way in (decode, decode_jpeg, decode_jpeg_pillow):
        with pytest.raises(DataError, match="not a readable JPEG"):
            way(b"\xff\xd8 nothing", batch[0])
        with pytest.raises(DataError, match="not a readable JPEG"):
            way(blobs[0][: len(blobs[0]) // 2], batch[0])


def test_a_fork_does_not_use_or_end_the_workers_of_its_parent(data: WindowDataset) -> None:
    with Loader(data, 4, workers=1) as loader:
        batches = loader.batches(np.arange(40))
        next(batches)
        pids = loader._ring.process_ids
        child = os.fork()
        if not child:
            loader.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert all(map(alive, pids))
        assert_equal(next(batches), list(Loader(data, 4).batches(np.arange(8)))[1])
