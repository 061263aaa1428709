"""Depth goes the way of colour: same windows, same tiers, same workers, and never averaged."""

from __future__ import annotations

from pathlib import Path

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.episode import StreamSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import UnknownNameError


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("depth") / "s.zarr"
    extra = {"depth/front": StreamSpec("uint16", (12, 16, 1))}
    with data_toy.create(made, cameras=("front",), extra=extra) as store:
        for i, length in enumerate((30, 20)):
            bare = data_toy.create(made.with_name(f"{i}.zarr"), cameras=("front",))
            episode = data_toy.episode(bare, i, length)
            bare.close()
            rng = np.random.default_rng(i)
            episode.streams["depth/front"] = rng.integers(0, 65_536, (length, 12, 16, 1), dtype=np.uint16)
            store.append(episode)
    return made


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_depth_of_the_right_rows(path: Path, budget: int) -> None:
    store = EpisodeStore.open(path)
    data = WindowDataset(store, WindowSpec(2, 4, cameras=("front",), depth=("front",)), cache_bytes=budget)
    assert data.tiers == dict.fromkeys(("front", "depth/front"), "decoded RAM" if budget else "stream")
    whole = store.read("depth/front")
    index = np.array([0, 29, 30, 31, 49])
    rows = np.array([[0, 0], [28, 29], [30, 30], [30, 31], [48, 49]])
    np.testing.assert_array_equal(data.gather(index)["depth"]["front"], whole[rows])
    assert not np.array_equal(data.gather(np.array([1, 28, 31, 32, 48]))["depth"]["front"], whole[rows])  # control
    for workers in (0, 1):
        with Loader(data, 5, workers) as loader:
            batch = next(loader.batches(index))
            np.testing.assert_array_equal(batch.depth["front"].numpy(), whole[rows])
            assert batch.image["front"].shape == (5, 2, 12, 16, 3)


def test_smaller_depth_holds_only_depths_that_were_measured(path: Path) -> None:
    store = EpisodeStore.open(path)
    data = WindowDataset(store, WindowSpec(1, 1, depth=("front",), image_size=(5, 6)), cache_bytes=0)
    small, whole = data.gather(np.array([3]))["depth"]["front"][0, 0], store.read("depth/front", 3, 4)
    assert small.shape == (5, 6, 1)
    assert set(small.ravel().tolist()) <= set(whole.ravel().tolist())
    with pytest.raises(UnknownNameError, match="no such depth camera"):
        WindowDataset(store, WindowSpec(1, 1, depth=("wrist",)))
