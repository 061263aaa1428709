"""Ten steps equal five, a fresh loader and five more: for every tier, order, number of workers and share of a rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.encoded_cache import EncodedRam
from robopolicy.data.store import EpisodeStore
from robopolicy.training.order import BlockedOrder, step_indices

SEED, GLOBAL_BATCH = 5, 12
TIERS = ("decoded RAM", "decoded file", "encoded", "stream")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("resume") / "s.zarr"
    with data_toy.create(made, codec="jpeg") as store:
        for i in range(6):
            store.append(data_toy.episode(store, i))
    return made


def dataset(path: Path, folder: Path, tier: str) -> WindowDataset:
    spec = WindowSpec(2, 8, cameras=("front", "wrist"))
    folders = {"cache_folder": folder} if tier == "decoded file" else {}
    made = WindowDataset(EpisodeStore.open(path), spec, cache_bytes=(tier == "decoded RAM") << 30, **folders)
    if tier == "encoded":
        rows = np.arange(len(made))
        made.frame_tiers = {
            n: EncodedRam(t.stream, rows, t.frame, t.stream.lengths(rows)) for n, t in made.frame_tiers.items()
        }
    assert set(made.tiers.values()) == {tier}
    return made


def steps(
    data: WindowDataset, workers: int, first: int, last: int, rank: int, world: int, local: bool
) -> Iterator[Any]:
    """What one of ``world`` processes is fed from step ``first`` to ``last``, as the trainer asks for it."""
    if local:
        order = BlockedOrder(len(data), data.blocks)(SEED, first, last - first, GLOBAL_BATCH)
    else:
        order = step_indices(len(data), SEED, first, last - first, GLOBAL_BATCH)
    micro = GLOBAL_BATCH // world
    with Loader(data, micro, workers) as loader:
        for batch in loader.batches(order.reshape(last - first, world, micro)[:, rank].reshape(-1)):
            yield {"action": batch.action.numpy(), **{f"image/{n}": t.numpy() for n, t in batch.image.items()}}


def assert_equal(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("tier", TIERS)
def test_ten_steps_equal_five_and_five(path: Path, tmp_path: Path, tier: str, workers: int) -> None:
    for local in (False, True) if workers == 2 else (True,):
        reference = list(steps(dataset(path, tmp_path, "stream"), 0, 0, 10, 0, 1, local))
        before = list(steps(dataset(path, tmp_path, tier), workers, 0, 5, 0, 1, local))
        after = list(steps(dataset(path, tmp_path, tier), workers, 5, 10, 0, 1, local))
        assert len(before + after) == 10
        for one, two in zip(reference, before + after, strict=True):
            assert_equal(one, two)
        with pytest.raises(AssertionError):  # control: a resume that is one step off is seen
            assert_equal(reference[5], next(steps(dataset(path, tmp_path, tier), 0, 6, 7, 0, 1, local)))


@pytest.mark.parametrize("local", [False, True])
def test_the_shares_of_two_processes_are_the_batch_of_one(path: Path, tmp_path: Path, local: bool) -> None:
    data = dataset(path, tmp_path, "stream")
    whole = list(steps(data, 0, 3, 9, 0, 1, local))
    shares = [list(steps(data, 1, 3, 9, rank, 2, local)) for rank in (0, 1)]
    for one, first, second in zip(whole, *shares, strict=True):
        assert_equal(one, {name: np.concatenate([first[name], second[name]]) for name in one})
