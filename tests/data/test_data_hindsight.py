"""Goals of windows: taken from later in the same episode, by name, as a function of the index and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.episode import StreamSpec
from robopolicy.data.hindsight import goal_range, steps_ahead
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.goals import GoalConfig
from robopolicy.training.order import BlockedOrder

NAMES = ("step", "other", "episode")
LENGTHS = (30, 12, 57)
GOAL = GoalConfig(names=("episode", "step"), future=(2, 10), draws=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every row of environment_state says where it is; ``goal`` says what was wanted."""
    made = tmp_path_factory.mktemp("hindsight") / "s.zarr"
    recorded = {"goal": StreamSpec("float32", (2,), ("left", "right"))}
    with data_toy.create(made, cameras=("wrist",), environment_state=NAMES, extra=recorded) as store:
        for i, length in enumerate(LENGTHS):
            episode = data_toy.episode(store, i, length)
            rows = np.arange(length, dtype=np.float32)
            episode.streams["environment_state"] = np.stack([rows, -rows, np.full(length, i, np.float32)], axis=1)
            store.append(episode)
    return made


def dataset(path: Path, goal: Any = GOAL, **options: Any) -> WindowDataset:
    episodes = options.pop("episodes", None)
    return WindowDataset(EpisodeStore.open(path), WindowSpec(2, 4, goal=goal, **options), episodes=episodes)


def test_goals_lie_ahead_in_the_same_episode(path: Path) -> None:
    data = dataset(path)
    windows = sum(LENGTHS)
    assert len(data) == 3 * windows
    every = np.arange(len(data))
    found = data.gather(every)
    now, goal = found["environment_state"][:, -1], found["goal"]
    assert goal.shape == (len(data), 2)
    assert goal.dtype == np.float32
    np.testing.assert_array_equal(goal[:, 0], now[:, 2])  # the same episode
    ahead = goal[:, 1] - now[:, 0]
    left = np.repeat(LENGTHS, LENGTHS)[every % windows] - 1 - now[:, 0]
    assert (ahead >= np.minimum(2, left)).all()
    assert (ahead <= np.minimum(10, left)).all()
    assert (ahead[left == 0] == 0).all()
    # uniform: all of 2..10 occur, and the mean is that of a uniform draw
    free = ahead[left >= 10]
    assert set(free.astype(int)) == set(range(2, 11))
    assert abs(free.mean() - 6) < 4 * np.sqrt(80 / 12 / len(free))
    # the draws of one window differ, and nothing else of it does
    draws = [data.gather(every[:windows] + k * windows) for k in range(3)]
    assert (draws[0]["goal"] != draws[1]["goal"]).any()
    assert (draws[1]["goal"] != draws[2]["goal"]).any()
    np.testing.assert_array_equal(draws[0]["action"], draws[2]["action"])


def test_a_goal_is_a_function_of_the_index(path: Path) -> None:
    data = dataset(path)
    windows = sum(LENGTHS)
    index = np.array([5, 40, windows + 5, 2 * windows + 40])
    whole = data.gather(index)["goal"]
    for at, one in enumerate(index):
        np.testing.assert_array_equal(data.gather(np.array([one]))["goal"][0], whole[at])
    # the same episode in another selection has the same goals: window 40 is step 10 of episode 1
    part = dataset(path, episodes=[1])
    np.testing.assert_array_equal(part.gather(np.array([10]))["goal"][0], whole[1])
    np.testing.assert_array_equal(part.gather(np.array([2 * LENGTHS[1] + 10]))["goal"][0], whole[3])
    other = dataset(path, episodes=[0]).gather(np.arange(12))["goal"]
    assert (part.gather(np.arange(12))["goal"][:, 1] != other[:, 1]).any()  # control


def test_hash_of_place_and_draw() -> None:
    n = 4000
    zero, steps = np.zeros(n, np.int64), np.arange(n)
    far = np.full(n, 10**6)
    by_step, by_draw = steps_ahead(zero, steps, zero, far, (1, 100)), steps_ahead(zero, zero, steps, far, (1, 100))
    by_episode = steps_ahead(steps, zero, zero, far, (1, 100))
    for found in (by_step, by_draw, by_episode):
        assert found.min() == 1
        assert found.max() == 100
        counts = np.bincount(found, minlength=101)[1:]
        assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 160  # chi-squared with 99 degrees of freedom
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.06
    assert (by_step != by_draw).mean() > 0.9
    assert (by_step != by_episode).mean() > 0.9
    # never to change: a run that is resumed has to meet the same goals
    stored = steps_ahead(np.array([0, 1, 7]), np.array([0, 5, 300]), np.array([0, 2, 1]), far[:3], (1, 1000))
    assert stored.tolist() == [139, 14, 309]


def test_loader_processes_deliver_the_same_goals(path: Path) -> None:
    data = dataset(path, cameras=("wrist",))
    order = np.random.default_rng(0).permutation(len(data))[:36]
    with Loader(data, 12) as here, Loader(data, 12, workers=1) as there:
        pairs = list(zip(here.batches(order), there.batches(order), strict=True))
        for one, two in pairs:
            assert one.goal is not None
            assert two.goal is not None
            assert one.goal.shape == (12, 2)
            np.testing.assert_array_equal(one.goal.numpy(), two.goal.numpy())
            np.testing.assert_array_equal(one.image["wrist"].numpy(), two.image["wrist"].numpy())
    assert not np.array_equal(pairs[0][0].goal.numpy(), pairs[1][0].goal.numpy())  # control
    np.testing.assert_array_equal(pairs[0][0].goal.numpy(), data.gather(order[:12])["goal"])


def test_local_order_and_frames_of_several_draws(path: Path) -> None:
    data, single = dataset(path, cameras=("wrist",)), dataset(path, goal=0, cameras=("wrist",))
    assert data.frame_bytes == single.frame_bytes
    order = BlockedOrder(len(data), data.blocks)(3, 0, len(data) // 11, 11).reshape(-1)
    assert len(np.unique(order)) == len(order)
    last = np.array([len(data) - 1])
    np.testing.assert_array_equal(
        data.gather(last)["image"]["wrist"], single.gather(last % len(single))["image"]["wrist"]
    )
    assert data.episode_of(last).tolist() == [2]
    assert data.language_of(last) == ["move 2"]


def test_recorded_goals(path: Path) -> None:
    whole, named = dataset(path, goal=2), dataset(path, goal=GoalConfig(names=("right",), source="recorded"))
    column = EpisodeStore.open(path).column("goal")
    every = np.arange(len(whole))
    np.testing.assert_array_equal(whole.gather(every)["goal"], column)
    np.testing.assert_array_equal(named.gather(every)["goal"], column[:, 1:])


def test_range_of_goals_is_that_of_their_source(path: Path) -> None:
    store = EpisodeStore.open(path)
    found = goal_range(store, GOAL)
    assert found["min"].tolist() == [0, 0]
    assert found["max"].tolist() == [2, 56]
    recorded = goal_range(store, GoalConfig(names=("right",), source="recorded"))
    assert recorded["max"] == pytest.approx([store.column("goal")[:, 1].max()])


def test_privileged_state_by_name(path: Path) -> None:
    data = dataset(path, goal=0, environment_names=("episode", "other"))
    found, whole = data.gather(np.arange(40)), dataset(path, goal=0).gather(np.arange(40))
    np.testing.assert_array_equal(found["environment_state"], whole["environment_state"][..., [2, 1]])
    assert "goal" not in found
    assert data.to_batch(whole, np.arange(40)).goal is None


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (GoalConfig(names=("steps",)), "no entries.*steps.*did you mean 'step'"),
        (GoalConfig(names=("up",), source="recorded"), "no entries.*up.*left, right"),
        (3, "another width; given: 3; allowed: 2"),
    ],
)
def test_what_the_store_does_not_have(path: Path, goal: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        dataset(path, goal=goal)
    with pytest.raises(DataError, match=words):
        goal_range(EpisodeStore.open(path), goal)


def test_stores_without_a_source(tmp_path: Path) -> None:
    with data_toy.create(tmp_path / "s.zarr", cameras=(), environment_state=()) as store:
        store.append(data_toy.episode(store, 0, 10))
    store = EpisodeStore.open(tmp_path / "s.zarr")
    for goal, words in ((GOAL, "no environment_state to take goals from"), (2, "no goal to take goals from")):
        with pytest.raises(DataError, match=words):
            WindowDataset(store, WindowSpec(1, 4, environment_state=False, goal=goal))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"names": ()}, "at least one entry"),
        ({"names": ("a", "a")}, "each once"),
        ({"names": ("a",), "future": (0, 5)}, "1 <= least"),
        ({"names": ("a",), "future": (6, 5)}, "1 <= least"),
        ({"names": ("a",), "draws": 0}, "draws"),
        ({"names": ("a",), "draws": 2, "source": "recorded"}, "1 for recorded"),
    ],
)
def test_contradictory_goals(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        GoalConfig(**parameters)
