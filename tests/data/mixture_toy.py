"""Three small stores of unlike robots: two arms with poses of the tool, and a bimanual robot of joints only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Arm, Camera, Embodiment, load_embodiment
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d

UPRIGHT = (1.0, 0.0, 0.0, 0.0)


def bimanual(control_hz: float = 20.0, hands: int = 0, name: str = "two_arms") -> Embodiment:
    """Two arms of six joints with a gripper, or with hands of ``hands`` joints; kinematics not known."""
    joints, arms = [], []
    for side in ("left", "right"):
        joints += [Channel(f"{side}.joint{i}", "rad", -3.0, 3.0) for i in range(6)]
        ends = [f"{side}.finger{i}" for i in range(hands)] or [f"{side}.gripper"]
        joints += [Channel(n, "rad" if hands else "normalised", 0.0, 1.0) for n in ends]
        arms.append(Arm(side, gripper="" if hands else ends[0], hand=tuple(ends) if hands else ()))
    return Embodiment(
        name=name,
        description="two arms by their joints",
        action_space="joint_position",
        state_space="joint_position",
        control_hz=control_hz,
        setpoint_hz=control_hz,
        joints=ChannelGroup(tuple(joints)),
        arms=tuple(arms),
        home={},
        cameras=(Camera("top", 20, 16, 60.0, "world", (0.0, 0.0, 1.0), UPRIGHT),),
    )


def smooth(card: Embodiment, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A reach: state and action f32 [rows, C], action one row ahead; poses turn about a slanted axis."""
    s = np.linspace(0, 1, rows + 1)[:, None]
    s = s * s * (3 - 2 * s)
    low, high = card.state.lower, card.state.upper
    a, b = (low + (high - low) * rng.uniform(0.2, 0.8, len(low)) for _ in range(2))
    path = a + (b - a) * s
    for prefix in ("", *(arm.prefix for arm in card.arms)):
        names = [f"{prefix}ee_rotation.{i}" for i in range(6)]
        if set(names) <= set(card.state.names):
            turn = axis_angle_to_matrix(s * rng.normal(0, 0.7, 3)) @ axis_angle_to_matrix(np.array([np.pi, 0, 0]))
            path[:, [card.state.index(n) for n in names]] = matrix_to_rotation_6d(turn)
    grippers = [i for i, n in enumerate(card.state.names) if n.endswith("gripper")]
    path[:, grippers] = (s < 0.6).astype(float)
    path = path.astype(np.float32)
    return path[:-1], path[1:]


def write(
    path: Path,
    card: Embodiment,
    *,
    episodes: int = 4,
    rows: int = 24,
    cameras: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
    seed: int = 0,
    fps: float | None = None,
) -> Path:
    """A store of ``episodes`` reaches."""
    rng = np.random.default_rng([seed, len(card.state)])
    rate = fps or card.control_hz
    with EpisodeStore.create(
        path, card, task="reach", cameras=cameras, environment_state=environment, joints=False, fps=rate
    ) as store:
        for index in range(episodes):
            length = rows + 3 * index
            state, action = smooth(card, rng, length)
            streams: dict[str, np.ndarray] = {"state": state, "action": action}
            streams["time_ns"] = 7_000 * index + np.round(np.arange(length) * 1e9 / rate).astype(np.int64)
            if environment:
                streams["environment_state"] = rng.normal(size=(length, len(environment))).astype(np.float32)
            for camera in cameras:
                shape = store.streams[f"image/{camera}"].shape
                streams[f"image/{camera}"] = rng.integers(0, 256, (length, *shape), dtype=np.uint8)
            store.append(Episode(streams, f"{card.name} {index}", True, {"index": index}))
    return path


def three(folder: Path, *, images: bool = False) -> list[dict[str, object]]:
    """Entries ``stores`` of a mixture: panda and ur5e with privileged state, the bimanual robot without."""
    goal = ("goal.x", "goal.y", "goal.z")
    front = ("front",) if images else ()
    panda = write(folder / "panda.zarr", load_embodiment("panda"), environment=goal, cameras=front)
    ur5e = write(folder / "ur5e.zarr", load_embodiment("ur5e_2f85"), environment=goal, episodes=6, seed=1)
    both = write(folder / "both.zarr", bimanual(), cameras=("top",) if images else (), episodes=3, seed=2)
    cameras = {"cameras": {"front": "top"}} if images else {}
    return [{"path": str(panda)}, {"path": str(ur5e)}, {"path": str(both), **cameras}]
