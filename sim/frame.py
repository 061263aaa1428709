"""What the sensors of a scene see at one instant, what of it is asked for, and how frames become an observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import Observation

__all__ = ["Frame", "Modalities", "frame_items", "modality_spaces", "stack_frames"]


@dataclass(eq=False, slots=True)
class Frame:
    """What the sensors see at one instant; not to be changed afterwards.

    Attributes:
        state: f32 [S], measured TCP pose and gripper opening.
        environment_state: f32 [E], privileged state of the task.
        joint_position: f32 [J], measured.
        time_ns: Simulated time.
        image: uint8 [H, W, 3] per camera.
        depth: uint16 [H, W, 1] mm per camera, 0 where unknown.
        segmentation: int16 [H, W, 1] geom ids per camera, -1 for nothing.
        point_cloud: f32 [P, 6] x, y, z (m, robot base frame), r, g, b (0..1), or None.
        sensor: f32 [K, C] per sensor, oldest first.
        goal: f32 [G], or None for a task without goals.
        qpos: f64 [nq], positions of everything that moves; for replaying states, never shown to a policy.
    """

    state: NDArray[np.float32]
    environment_state: NDArray[np.float32]
    joint_position: NDArray[np.float32]
    time_ns: int
    image: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    depth: dict[str, NDArray[np.uint16]] = field(default_factory=dict)
    segmentation: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    point_cloud: NDArray[np.float32] | None = None
    sensor: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    goal: NDArray[np.float32] | None = None
    qpos: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Modalities:
    """What has to be drawn for a frame; state and sensors are always in it.

    Attributes:
        cameras: Colour pictures.
        depth: Cameras whose depth is drawn.
        segmentation: Cameras whose geom ids are drawn.
        point_cloud: Points, 0 for no cloud.
        qpos: Whether the state of the physics is wanted.
    """

    cameras: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    segmentation: tuple[str, ...] = ()
    point_cloud: int = 0
    qpos: bool = False

    @classmethod
    def of(cls, spec: PolicySpec) -> Modalities:
        """What a policy reads."""
        return cls(tuple(spec.cameras), tuple(spec.depth), (), spec.point_cloud)

    def __or__(self, other: Modalities) -> Modalities:
        """Everything that either asks for; the larger cloud."""
        return Modalities(
            cameras=_union(self.cameras, other.cameras),
            depth=_union(self.depth, other.depth),
            segmentation=_union(self.segmentation, other.segmentation),
            point_cloud=max(self.point_cloud, other.point_cloud),
            qpos=self.qpos or other.qpos,
        )

    def checked(self, card: Embodiment) -> Modalities:
        """Itself.

        Raises:
            EmbodimentError: a camera that the card does not have.
        """
        for name in (*self.cameras, *self.depth, *self.segmentation):
            card.camera(name)
        return self


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def stack_frames(
    frames: Sequence[Frame],
    wanted: Modalities,
    *,
    embodiment: str,
    sensors: Sequence[str],
    language: str,
    environment_names: tuple[str, ...] = (),
    goal_names: tuple[str, ...] = (),
    goal_image: Mapping[str, NDArray[np.uint8]] | None = None,
) -> Observation:
    """Frames, oldest first, as the observation of a policy that reads ``wanted`` and ``sensors``."""
    last = frames[-1]
    clouds = [f.point_cloud for f in frames if f.point_cloud is not None] if wanted.point_cloud else []
    return Observation(
        state=np.stack([f.state for f in frames]),
        time_ns=np.array([f.time_ns for f in frames], np.int64),
        embodiment=embodiment,
        image={name: np.stack([f.image[name] for f in frames]) for name in wanted.cameras},
        environment_state=np.stack([f.environment_state for f in frames]),
        language=language,
        depth={name: np.stack([f.depth[name] for f in frames]) for name in wanted.depth},
        segmentation={name: np.stack([f.segmentation[name] for f in frames]) for name in wanted.segmentation},
        point_cloud=np.stack(clouds) if clouds else None,
        sensor={name: np.stack([f.sensor[name] for f in frames]) for name in sensors},
        goal=last.goal,
        environment_names=environment_names,
        goal_names=goal_names,
        goal_image=dict(goal_image or {}),
    )


def frame_items(frame: Frame) -> dict[str, Any]:
    """What a frame holds, as Gymnasium's observation: empty entries are left out."""
    items: dict[str, Any] = {"state": frame.state, "environment_state": frame.environment_state}
    if frame.goal is not None:
        items["goal"] = frame.goal
    if frame.point_cloud is not None:
        items["point_cloud"] = frame.point_cloud
    for name in ("image", "depth", "segmentation", "sensor"):
        entry = getattr(frame, name)
        if entry:
            items[name] = entry
    return items


def modality_spaces(
    card: Embodiment, wanted: Modalities, sensors: Mapping[str, tuple[int, int]]
) -> dict[str, gymnasium.Space[Any]]:
    """Gymnasium spaces of pictures, depth, masks, cloud and sensors.

    Args:
        card: Gives the size of each camera.
        wanted: What observations contain.
        sensors: Sensor -> (K, C).
    """
    spaces: dict[str, gymnasium.Space[Any]] = {}
    kinds = (
        ("image", wanted.cameras, 3, 0, 255, np.uint8),
        ("depth", wanted.depth, 1, 0, 65535, np.uint16),
        ("segmentation", wanted.segmentation, 1, -1, 32767, np.int16),
    )
    for key, names, channels, low, high, dtype in kinds:
        views = {name: card.camera(name) for name in names}
        boxes: dict[str, gymnasium.Space[Any]] = {
            n: gymnasium.spaces.Box(low, high, (c.height, c.width, channels), dtype)  # type: ignore[arg-type]
            for n, c in views.items()
        }
        if boxes:
            spaces[key] = gymnasium.spaces.Dict(boxes)
    if wanted.point_cloud:
        spaces["point_cloud"] = gymnasium.spaces.Box(-np.inf, np.inf, (wanted.point_cloud, 6), np.float32)
    if sensors:
        spaces["sensor"] = gymnasium.spaces.Dict(
            {n: gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32) for n, shape in sensors.items()}
        )
    return spaces
