"""The local order: a permutation, a pure function, any piece a piece of the whole, and really local."""

from __future__ import annotations

from pathlib import Path

import data_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.data import WindowDataset, WindowSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.training.order import blocked_order, epoch_order, step_indices


@st.composite
def divided(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    ends = np.cumsum(sizes)
    return int(ends[-1]), np.concatenate([[0], ends[:-1]])


@settings(max_examples=150)
@given(divided(), st.integers(0, 3), st.integers(0, 3), st.integers(1, 6), st.data())
def test_any_piece_is_a_piece_of_one_permutation(
    data: tuple[int, np.ndarray], seed: int, epoch: int, buffer: int, pieces: st.DataObject
) -> None:
    n, blocks = data
    whole = blocked_order(n, blocks, seed, epoch, buffer_blocks=buffer)
    assert sorted(whole.tolist()) == list(range(n))
    first = pieces.draw(st.integers(0, n))
    last = pieces.draw(st.integers(first, n))
    piece = blocked_order(n, blocks, seed, epoch, first, last, buffer_blocks=buffer)
    np.testing.assert_array_equal(piece, whole[first:last])


@settings(max_examples=60)
@given(divided(), st.integers(0, 20), st.integers(1, 12), st.integers(1, 15))
def test_steps_continue_each_other(data: tuple[int, np.ndarray], first: int, steps: int, batch: int) -> None:
    n, blocks = data
    whole = step_indices(n, 3, 0, first + steps, batch, blocks)
    np.testing.assert_array_equal(step_indices(n, 3, first, steps, batch, blocks), whole[first:])
    shares = [step_indices(n, 3, first, steps, 2 * batch, blocks).reshape(steps, 2, batch)[:, r] for r in (0, 1)]
    together = np.concatenate(shares, axis=1)
    np.testing.assert_array_equal(together, step_indices(n, 3, first, steps, 2 * batch, blocks))


def test_it_stays_local_and_still_mixes() -> None:
    blocks = np.arange(0, 25_600, 256)
    order = blocked_order(25_600, blocks, 0, 0, buffer_blocks=8)
    touched = [len(np.unique(order[i : i + 2048] // 256)) for i in range(0, 25_600, 2048)]
    assert max(touched) == 8
    free = epoch_order(25_600, 0, 0)
    assert min(len(np.unique(free[i : i + 2048] // 256)) for i in range(0, 25_600, 2048)) > 90  # control
    mixed = [len(np.unique(order[i : i + 64] // 256)) for i in range(0, 2048, 64)]
    assert min(mixed) >= 6  # every batch sees nearly all shards of its buffer
    neighbours = (np.abs(np.diff(order)) == 1).mean()
    assert neighbours < 0.01
    assert (blocked_order(25_600, blocks, 0, 1) != order).any()
    assert (blocked_order(25_600, blocks, 1, 0) != order).any()


def test_blocks_that_do_not_fit_are_refused() -> None:
    for blocks in ([], [1, 2], [0, 2, 2], [0, 10]):
        with pytest.raises(DataError, match="blocks do not divide"):
            blocked_order(10, np.array(blocks, np.int64), 0, 0)


def test_the_blocks_of_a_store_are_its_shards(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s.zarr", cameras=("wrist",)) as store:
        for i, length in enumerate((100, 300, 200, 50)):
            store.append(data_toy.episode(store, i, length))
    store = EpisodeStore.open(tmp_path / "s.zarr")
    spec = WindowSpec(1, 1, cameras=("wrist",))
    assert WindowDataset(store, spec).blocks.tolist() == [0, 256, 512]
    # rows 0..99 and 400..649: the shards begin at rows 256 and 512, which are windows 100 and 212
    assert WindowDataset(store, spec, [0, 2, 3]).blocks.tolist() == [0, 100, 212]
