"""Windows: which row stands where, what is masked, and that caches change nothing."""

from __future__ import annotations

from pathlib import Path

import data_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.data.episode import Episode
from robopolicy.data.frame_stream import ShardFrames
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.errors import DataError, ShapeError, UnknownNameError


def counter(store: EpisodeStore, first: int, length: int) -> Episode:
    """Row r of the store holds r in every channel of every stream (time: r periods, images: r modulo 256)."""
    made = data_toy.episode(store, 0, length)
    rows = np.arange(first, first + length)
    for name, values in made.streams.items():
        if name == "time_ns":
            made.streams[name] = rows * data_toy.PERIOD_NS
        else:
            shape = (-1, *[1] * (values.ndim - 1))
            made.streams[name] = np.broadcast_to(rows.reshape(shape), values.shape).astype(values.dtype)
    return made


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("windows") / "s.zarr"
    with data_toy.create(path, codec=request.param) as made:
        for first, length in ((0, 5), (5, 1), (6, 30)):
            made.append(counter(made, first, length))
    return EpisodeStore.open(path)


def test_the_index_convention(store: EpisodeStore) -> None:
    """The drawing in the module: To = 2, Tp = 4, an episode of five rows."""
    data = WindowDataset(store, WindowSpec(2, 4))
    assert len(data) == 36
    batch = data.gather(np.array([0, 2, 4]))
    assert batch["state"][..., 0].tolist() == [[0, 0], [1, 2], [3, 4]]
    assert batch["environment_state"][..., 1].tolist() == [[0, 0], [1, 2], [3, 4]]
    assert (batch["time_ns"] // data_toy.PERIOD_NS).tolist() == [[0, 0], [1, 2], [3, 4]]
    assert batch["action"][..., 3].tolist() == [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 4, 4]]
    f, t = False, True
    assert batch["action_mask"][..., 0].tolist() == [[f, t, t, t], [t, t, t, t], [t, t, f, f]]
    # the first action still to be executed, index To - 1, is the one decided from the newest observation
    np.testing.assert_array_equal(batch["action"][:, 1, 0], batch["state"][:, -1, 0])
    assert [batch[k].dtype for k in ("state", "action", "action_mask", "time_ns")] == ["f4", "f4", "?", "i8"]


def reference(lengths: list[int], to: int, tp: int, episode: int, t: int) -> tuple[list[int], list[int], list[bool]]:
    """The same by plain loops, straight from the definition."""
    start = sum(lengths[:episode])
    inside = range(lengths[episode])
    observed = [start + max(i, 0) for i in range(t - to + 1, t + 1)]
    steps = range(t - to + 1, t - to + 1 + tp)
    done = [start + min(max(i, 0), lengths[episode] - 1) for i in steps]
    return observed, done, [i in inside for i in steps]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(to=st.integers(1, 7), extra=st.integers(0, 40), picks=st.permutations([0, 1, 2]), keep=st.integers(1, 3))
def test_every_window_equals_the_definition(
    counting: EpisodeStore, to: int, extra: int, picks: list[int], keep: int
) -> None:
    episodes, tp, lengths = picks[:keep], to + extra, [5, 1, 30]
    data = WindowDataset(counting, WindowSpec(to, tp), episodes)
    batch = data.gather(np.arange(len(data)))
    anchors = [(e, t) for e in episodes for t in range(lengths[e])]
    assert len(data) == len(anchors)
    for i, (episode, t) in enumerate(anchors):
        observed, done, mask = reference(lengths, to, tp, episode, t)
        assert batch["state"][i, :, 0].tolist() == observed
        assert batch["action"][i, :, 0].tolist() == done
        assert batch["action_mask"][i].all(axis=1).tolist() == mask
        assert batch["action_mask"][i].any(axis=1).tolist() == mask
    assert data.episode_of(np.arange(len(data))).tolist() == [e for e, _ in anchors]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    path = tmp_path_factory.mktemp("counting") / "s.zarr"
    with data_toy.create(path, cameras=()) as made:
        for first, length in ((0, 5), (5, 1), (6, 30)):
            made.append(counter(made, first, length))
    return EpisodeStore.open(path)


@pytest.mark.parametrize("budget", [0, 36 * 12 * 16 * 3, 1 << 30])
def test_images_are_the_same_from_every_tier(store: EpisodeStore, budget: int) -> None:
    spec = WindowSpec(3, 5, cameras=("front", "wrist"))
    data = WindowDataset(store, spec, [2, 0], cache_bytes=budget)
    assert data.cached_cameras == {0: (), 36 * 12 * 16 * 3: ("front",)}.get(budget, ("front", "wrist"))
    front = store.read("image/front")
    for _ in range(2):  # the second time from the cache
        batch = data.gather(np.array([34, 0, 5, 5, 31]))
        rows = batch["state"][..., 0].astype(int)
        assert rows.tolist() == [[2, 3, 4], [6, 6, 6], [9, 10, 11], [9, 10, 11], [0, 0, 1]]
        assert batch["image"]["front"].shape == (5, 3, 12, 16, 3)
        np.testing.assert_array_equal(batch["image"]["front"], front[rows])
        np.testing.assert_array_equal(batch["image"]["wrist"], store.read("image/wrist")[rows])
    data.fill_cache()
    np.testing.assert_array_equal(data.gather(np.array([1]))["image"]["front"], front[[[6, 6, 7]]])


def test_the_cache_decodes_each_frame_once(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = WindowDataset(store, WindowSpec(2, 4, cameras=("front",)))
    counted: list[int] = []
    real = ShardFrames._read
    count = lambda self, shard, frame, *how: (counted.append(256 * shard + frame), real(self, shard, frame, *how))  # noqa: E731
    monkeypatch.setattr(ShardFrames, "_read", count)
    for _ in range(3):
        data.gather(np.random.default_rng(0).permutation(len(data)))
    assert sorted(counted) == list(range(36))
    uncached = WindowDataset(store, WindowSpec(2, 4, cameras=("front",)), cache_bytes=0)
    for _ in range(2):
        uncached.gather(np.arange(36))  # control: without the cache every batch decodes, each frame once
    assert len(counted) == 36 + 72


def test_batches_belong_to_the_caller(store: EpisodeStore) -> None:
    data = WindowDataset(store, WindowSpec(2, 4, cameras=("front",)))
    first = data.gather(np.array([3, 4]))
    for name in ("state", "action", "action_mask"):
        first[name][:] = 0
    first["image"]["front"][:] = 0
    assert data.gather(np.array([3, 4]))["action"].max() > 0
    assert data.gather(np.array([3, 4]))["image"]["front"].max() > 0


def test_bad_requests(store: EpisodeStore, tmp_path: Path) -> None:
    data = WindowDataset(store, WindowSpec(2, 4))
    for bad in ([36], [-1], [[0, 1]]):
        with pytest.raises(ShapeError, match="no such window"):
            data.gather(np.array(bad))
    with pytest.raises(ShapeError, match="observation_horizon <= prediction_horizon"):
        WindowSpec(4, 2)
    with pytest.raises(DataError, match="no such episode"):
        WindowDataset(store, WindowSpec(2, 4), [3])
    with pytest.raises(DataError, match="no episodes to make windows"):
        WindowDataset(store, WindowSpec(2, 4), [])
    with pytest.raises(UnknownNameError, match="no such camera"):
        WindowDataset(store, WindowSpec(2, 4, cameras=("top",)))
    with data_toy.create(tmp_path / "s.zarr", environment_state=()) as bare:
        bare.append(data_toy.episode(bare, 0))
        with pytest.raises(DataError, match=r"no environment_state.*environment_state=False"):
            WindowDataset(bare, WindowSpec(2, 4))
        batch = WindowDataset(bare, WindowSpec(2, 4, state=False, environment_state=False)).gather(np.arange(3))
        assert set(batch) == {"action", "action_mask", "time_ns"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(1, 200), fraction=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_split_parts_are_disjoint_and_complete(count: int, fraction: float, seed: int) -> None:
    train, val = train_val_episodes(count, fraction, seed)
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(count))
    assert len(train) >= 1
    assert (len(val) > 0) == (fraction > 0 and count > 1)
    again = train_val_episodes(count, fraction, seed)
    assert np.array_equal(train, again[0])
    assert train.tolist() == sorted(train.tolist())


def test_split_depends_on_the_seed_and_refuses_nonsense() -> None:
    assert train_val_episodes(100, 0.1, 0)[1].tolist() != train_val_episodes(100, 0.1, 1)[1].tolist()
    assert len(train_val_episodes(100, 0.1, 0)[1]) == 10
    with pytest.raises(DataError, match="nothing to split"):
        train_val_episodes(0, 0.1, 0)
    with pytest.raises(DataError, match="fraction out of range"):
        train_val_episodes(10, 1.0, 0)
