"""Pictures as goals of windows: the frame of the row that the state goal comes from, or the episode's own picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_toy
import numpy as np
import pytest

from robopolicy.data import Loader, WindowDataset, WindowSpec
from robopolicy.data.encoded_cache import EncodedRam
from robopolicy.data.goal_pictures import decode_goal_images, encode_goal_images
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.deletion import delete
from robopolicy.errors import ConfigError, DataError, UnknownNameError
from robopolicy.goals import GoalConfig, goal_cameras, goal_width

NAMES = ("step", "other", "episode")
LENGTHS = (30, 12, 41)
FUTURE: dict[str, Any] = {"future": (2, 10), "draws": 3}
GOAL = GoalConfig(names=("episode", "step"), cameras=("wrist",), **FUTURE)


def picture(index: int, shape: tuple[int, ...] = (8, 8, 3)) -> Any:
    return np.random.default_rng([1, index]).integers(0, 256, shape, dtype=np.uint8)


def fill(path: Path, pictures: Any = picture, codec: str = "raw") -> Path:
    with data_toy.create(path, environment_state=NAMES, codec=codec) as store:
        for i, length in enumerate(LENGTHS):
            episode = data_toy.episode(store, i, length)
            rows = np.arange(length, dtype=np.float32)
            episode.streams["environment_state"] = np.stack([rows, -rows, np.full(length, i, np.float32)], axis=1)
            found = pictures(i)
            episode.metadata |= {} if found is None else {"goal_image": encode_goal_images({"wrist": found})}
            store.append(episode)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("goal_pictures") / "s.zarr")


def dataset(path: Path, goal: Any = GOAL, **options: Any) -> WindowDataset:
    inner = {k: options.pop(k) for k in ("episodes", "cache_bytes", "cache_folder") if k in options}
    return WindowDataset(EpisodeStore.open(path), WindowSpec(2, 4, goal=goal, **options), **inner)


def frames_at(path: Path, goal: Any, ahead: int = 0) -> Any:
    """Frames of the wrist camera in the rows that goals (episode, step) name."""
    store = EpisodeStore.open(path)
    starts = np.concatenate([[0], store.episode_ends[:-1]])
    rows = starts[goal[:, 0].astype(int)] + goal[:, 1].astype(int) + ahead
    return store.read("image/wrist")[np.minimum(rows, store.num_steps - 1)]


@pytest.mark.parametrize("cameras", [("front", "wrist"), ("front",), ()])
@pytest.mark.parametrize("tier", ["decoded RAM", "decoded file", "stream", "encoded"])
def test_the_picture_is_the_frame_of_the_goal_s_row(path: Path, tmp_path: Path, tier: str, cameras: Any) -> None:
    path = fill(tmp_path / "jpeg.zarr", codec="jpeg") if tier == "encoded" else path
    options: dict[str, Any] = {"cache_bytes": 1 << 26 if tier == "decoded RAM" else 0}
    data = dataset(path, cameras=cameras, **options, cache_folder=tmp_path if tier == "decoded file" else None)
    if tier == "encoded":
        held: dict[int, Any] = {}
        for name, one in data.frame_tiers.items():
            stream: Any = one.stream  # type: ignore[attr-defined]
            rows = np.arange(stream.rows)
            held.setdefault(id(one), EncodedRam(stream, rows, one.frame, stream.lengths(rows)))
            data.frame_tiers[name] = held[id(one)]
    assert data.tiers["goal_image/wrist"] == tier
    every = np.random.default_rng(0).permutation(len(data))
    found = data.gather(every)
    seen = found["goal_image"]["wrist"]
    assert (seen.shape, seen.dtype) == ((len(data), 8, 8, 3), np.uint8)
    assert np.array_equal(seen, frames_at(path, found["goal"]))
    assert not np.array_equal(seen, frames_at(path, found["goal"], ahead=1))  # control
    for camera in cameras:  # what is observed stays what it was
        plain = dataset(path, goal=0, cameras=(camera,), **options)
        assert np.array_equal(found["image"][camera], plain.gather(every % len(plain))["image"][camera])


def test_pictures_alone_lie_where_the_state_would(path: Path) -> None:
    both, alone = dataset(path), dataset(path, GoalConfig(cameras=("wrist",), **FUTURE))
    every = np.arange(len(both))
    found = alone.gather(every)
    assert "goal" not in found
    assert np.array_equal(found["goal_image"]["wrist"], both.gather(every)["goal_image"]["wrist"])
    one, other = (data.gather(np.array([len(data) - 20]))["goal_image"]["wrist"] for data in (alone, both))
    assert np.array_equal(one, other)
    draws = [alone.gather(every[:40] + k * sum(LENGTHS))["goal_image"]["wrist"] for k in range(2)]
    assert not np.array_equal(*draws)  # control: the draws of a window differ


def test_a_tier_is_shared_with_the_frames_that_are_observed(path: Path) -> None:
    data, without = dataset(path, cameras=("wrist",)), dataset(path, goal=0, cameras=("wrist",))
    assert data.frame_tiers["goal_image/wrist"] is data.frame_tiers["image/wrist"]
    assert data.frame_bytes == without.frame_bytes
    assert list(without.frame_tiers) == ["image/wrist"]  # nothing of this is done for policies without pictures
    assert list(without.frame_places(np.arange(3))) == ["image/wrist"]
    assert dataset(path).frame_bytes == without.frame_bytes  # a camera of its own
    assert Loader(without, 2).batch(np.arange(2)).goal_image == {}


@pytest.mark.parametrize("budget", [1 << 26, 0])
def test_loader_processes_deliver_the_same_pictures(path: Path, tmp_path: Path, budget: int) -> None:
    recorded = GoalConfig(cameras=("wrist",), source="recorded")
    for goal, cameras in ((GOAL, ("wrist",)), (recorded, ("front",))):
        folder = None if budget else tmp_path
        data = dataset(path, goal, cameras=cameras, cache_bytes=budget, cache_folder=folder)
        order = np.random.default_rng(0).permutation(len(data))[:33]
        with Loader(data, 12) as here, Loader(data, 12, workers=1) as there:
            pairs = list(zip(here.batches(order), there.batches(order), strict=True))
            for one, two in pairs:
                assert one.goal_image["wrist"].shape[1:] == (8, 8, 3)
                assert np.array_equal(one.goal_image["wrist"].numpy(), two.goal_image["wrist"].numpy())
                assert np.array_equal(one.image[cameras[0]].numpy(), two.image[cameras[0]].numpy())
            expected = data.gather(order[:12])["goal_image"]["wrist"]
            assert np.array_equal(pairs[0][0].goal_image["wrist"].numpy(), expected)
        first, second = (pair[0].goal_image["wrist"].numpy() for pair in pairs[:2])
        assert not np.array_equal(first, second)  # control
        assert one.to("cpu").goal_image.keys() == {"wrist"}


def test_recorded_pictures_are_those_of_the_episode(path: Path) -> None:
    data = dataset(path, GoalConfig(cameras=("wrist",), source="recorded"), episodes=[2, 0])
    found = data.gather(np.array([0, LENGTHS[2] - 1, LENGTHS[2], len(data) - 1]))["goal_image"]["wrist"]
    for one, index in zip(found, (2, 2, 0, 0), strict=True):
        assert np.array_equal(one, picture(index))
    assert not np.array_equal(found[0], picture(1))  # control
    assert data.tiers["goal_image/wrist"] == "decoded goals"
    small = dataset(path, GoalConfig(cameras=("wrist",), source="recorded"), image_size=(4, 6))
    assert small.gather(np.array([3]))["goal_image"]["wrist"].shape == (1, 4, 6, 3)


def test_deleted_episodes_shift_neither_frames_nor_pictures(tmp_path: Path) -> None:
    path = fill(tmp_path / "s.zarr")
    delete(path, [0])
    for budget in (1 << 26, 0):
        found = dataset(path, GoalConfig(names=("episode", "step"), cameras=("wrist",)), cache_bytes=budget).gather(
            np.arange(sum(LENGTHS[1:]))
        )
        at = np.concatenate([found["goal"][:, :1] - 1, found["goal"][:, 1:]], axis=1)
        assert np.array_equal(found["goal_image"]["wrist"], frames_at(path, at))
    recorded = dataset(path, GoalConfig(cameras=("wrist",), source="recorded")).gather(np.array([0]))
    assert np.array_equal(recorded["goal_image"]["wrist"][0], picture(1))


def test_what_is_not_there_is_named(path: Path, tmp_path: Path) -> None:
    without = fill(tmp_path / "without.zarr", lambda i: picture(i) if i != 1 else None)
    recorded = GoalConfig(cameras=("wrist",), source="recorded")
    with pytest.raises(DataError, match=r"without\.zarr, episode 1: the episode has no picture.*goal_images"):
        dataset(without, recorded)
    dataset(without, recorded, episodes=[0, 2])
    with pytest.raises(DataError, match=r"episode 0: the episode has no picture.*front"):
        dataset(path, GoalConfig(cameras=("front",), source="recorded"))
    odd = fill(tmp_path / "odd.zarr", lambda i: picture(i, (8, 9, 3)))
    with pytest.raises(DataError, match=r"episode 0: .* not one of camera 'wrist'.*8, 9, 3"):
        dataset(odd, recorded)
    with pytest.raises(UnknownNameError, match=r"no such camera.*'rist'.*did you mean 'wrist'"):
        dataset(path, GoalConfig(cameras=("rist",)))
    with pytest.raises(DataError, match="no picture"):
        decode_goal_images({}, ("front",))


def test_goals_of_names_and_cameras() -> None:
    assert goal_cameras(3) == ()
    alone = GoalConfig(cameras=("front",))
    assert (goal_cameras(alone), goal_width(alone), goal_width(GOAL)) == (("front",), 0, 2)
    with pytest.raises(ConfigError, match=r"goal\.cameras names each once"):
        GoalConfig(cameras=("front", "front"))
    with pytest.raises(ConfigError, match=r"at least one entry in goal\.names or one camera"):
        GoalConfig()
