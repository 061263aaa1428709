"""Batches are a function of the order alone, and threads end with the iteration."""

from __future__ import annotations

import threading
from pathlib import Path

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.codecs import decode_jpeg, encode_jpeg
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, ShapeError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> WindowDataset:
    path: Path = tmp_path_factory.mktemp("loader") / "s.zarr"
    with data_toy.create(path, codec="jpeg") as store:
        for i in range(3):
            store.append(data_toy.episode(store, i))
    return WindowDataset(EpisodeStore.open(path), WindowSpec(2, 8, cameras=("front",)), cache_bytes=0)


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("robopolicy-loader")]


def test_any_number_of_workers_gives_the_same_batches_in_the_same_order(data: WindowDataset) -> None:
    import torch

    order = np.random.default_rng(0).permutation(len(data))
    alone = list(Loader(data, 16).batches(order))
    assert len(alone) == Loader(data, 16).num_batches(len(order)) == -(-len(order) // 16)
    assert sum(len(batch.action) for batch in alone) == len(order)
    for workers in (1, 3):
        for a, b in zip(alone, Loader(data, 16, workers).batches(order), strict=True):
            assert torch.equal(a.action, b.action)
            assert torch.equal(a.image["front"], b.image["front"])
            assert a.language == b.language
    assert not loader_threads()
    other = next(Loader(data, 16).batches(order[::-1]))  # control: another order gives another batch
    assert not torch.equal(other.action, alone[0].action)


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


def test_leaving_early_ends_the_threads(data: WindowDataset) -> None:
    batches = Loader(data, 4, workers=2).batches(np.arange(len(data)))
    next(batches)
    assert loader_threads()  # control: there were some
    batches.close()
    assert not loader_threads()


def test_an_error_in_a_worker_reaches_the_caller(data: WindowDataset) -> None:
    with pytest.raises(ShapeError, match="no such window"):
        list(Loader(data, 4, workers=2).batches(np.array([0, 1, 2, 3, len(data)])))
    assert not loader_threads()
    with pytest.raises(DataError, match="unusable loader"):
        Loader(data, 0)


def test_both_decoders_give_the_same_pixels() -> None:
    from robopolicy.data import torch_jpeg

    noise = np.random.default_rng(4).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    blob = encode_jpeg(noise)
    one, two = np.empty_like(noise), np.empty_like(noise)
    decode_jpeg(blob, one)
    torch_jpeg.decode_jpeg(blob, two)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, noise)
    with pytest.raises(DataError, match="not a readable JPEG"):
        torch_jpeg.decode_jpeg(b"\xff\xd8 nothing", two)
