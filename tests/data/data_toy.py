"""A small robot and reproducible episodes for the tests of the data room."""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Arm, Camera, ChainLink, Channel, ChannelGroup, Embodiment

PERIOD_NS = 50_000_000


def embodiment(name: str = "toy", reach_m: float = 1.0) -> Embodiment:
    joints = ChannelGroup(
        (
            Channel("joint_1", "rad", -3.0, 3.0, 2.0, 5.0),
            Channel("joint_2", "rad", -3.0, 3.0, 2.0, 5.0),
            Channel("gripper", "normalised", 0.0, 1.0, 2.0, 5.0),
        )
    )
    upright = (1.0, 0.0, 0.0, 0.0)
    return Embodiment(
        name=name,
        description="two joints and a gripper",
        action_space="ee_pose",
        control_hz=20.0,
        setpoint_hz=100.0,
        joints=joints,
        arms=(
            Arm(
                chain=(ChainLink("joint_1", (0.0, 0.0, 0.1)), ChainLink("joint_2", (0.0, 0.0, 0.3))),
                tcp=((0.0, 0.0, 0.1), upright),
                workspace=((-reach_m, -reach_m, 0.0), (reach_m, reach_m, 1.0)),
                gripper="gripper",
                gripper_width_m=0.08,
            ),
        ),
        home={"joint_1": 0.0, "joint_2": 0.0, "gripper": 1.0},
        cameras=(
            Camera("front", 16, 12, 60.0, "world", (1.0, 0.0, 0.5), upright),
            Camera("wrist", 8, 8, 90.0, "tcp", (0.0, 0.0, 0.05), upright),
        ),
    )


def create(path: Any, **options: Any) -> EpisodeStore:
    settings: dict[str, Any] = {"task": "toy", "cameras": ("front", "wrist"), "environment_state": ("cube.x", "cube.y")}
    return EpisodeStore.create(path, embodiment(), **{**settings, **options})


def episode(store: EpisodeStore, index: int, length: int | None = None) -> Episode:
    """A pure function of ``index`` and the store's streams; 20 to 139 rows unless told otherwise."""
    rng = np.random.default_rng([7, index])
    rows = int(rng.integers(20, 140)) if length is None else length
    streams: dict[str, np.ndarray] = {}
    for name, spec in store.streams.items():
        if spec.image:
            streams[name] = rng.integers(0, 256, (rows, *spec.shape), dtype=np.uint8)
        elif name == "time_ns":
            streams[name] = 1_000 * index + PERIOD_NS * np.arange(rows)
        else:
            streams[name] = rng.normal(size=(rows, *spec.shape)).astype(np.float32)
    return Episode(streams, f"move {index}", bool(index % 2), {"index": index})


def verify(store: EpisodeStore, indices: list[int]) -> None:
    """The store holds exactly the episodes made from ``indices``, bit for bit (raw images), with matching labels."""
    assert store.num_episodes == len(indices)
    expected = [episode(store, i) for i in indices]
    ends = np.cumsum([len(e.streams["time_ns"]) for e in expected])
    assert store.episode_ends.tolist() == ends.tolist()
    assert store.num_steps == (int(ends[-1]) if len(ends) else 0)
    for name in store.streams:
        rows = store.read(name)
        for i, wanted in enumerate(expected):
            info = store.info(i)
            np.testing.assert_array_equal(rows[info["start"] : info["stop"]], wanted.streams[name], err_msg=name)
    for i, wanted in enumerate(expected):
        info = store.info(i)
        assert (info["language"], info["success"], info["metadata"]) == (
            wanted.language,
            wanted.success,
            wanted.metadata,
        )
    for name in ("state", "action", "joint_position", "joint_command") if expected else ():
        statistics = store.statistics(name)
        rows = store.read(name).astype(np.float64)
        assert statistics.count == len(rows)
        np.testing.assert_allclose(statistics.mean, rows.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(statistics.std, rows.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(statistics.max, rows.max(axis=0))
