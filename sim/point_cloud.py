"""Point clouds as a robot with depth cameras has them: unprojected, cropped to the workspace, thinned to P points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Camera, Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.rotations import quaternion_to_matrix

__all__ = ["SAMPLINGS", "PointCloud", "Pose", "camera_pose", "farthest_points", "unproject"]

SAMPLINGS = ("farthest", "random")
"""``farthest`` covers surfaces evenly and takes a few milliseconds; ``random`` a tenth of one."""

MARGIN_M = 0.05
"""By how much the crop is wider than the robot's workspace, and begins below the table."""

CANDIDATES = 4
"""Farthest points are looked for among this many times P points drawn at random."""

Array = NDArray[np.floating]
Pose = tuple[Array, Array]


@dataclass(frozen=True)
class PointCloud:
    """What a cloud is made of.

    Attributes:
        points: P.
        cameras: Whose depth is unprojected; none means every camera of the card that stands still.
        lower_m, upper_m: Corners of the crop in the robot's base frame; None for the workspace of the card's arms with
            a margin, the table included.
        sampling: One of :data:`SAMPLINGS`.
    """

    points: int
    cameras: tuple[str, ...] = ()
    lower_m: tuple[float, ...] | None = None
    upper_m: tuple[float, ...] | None = None
    sampling: str = "farthest"

    def __post_init__(self) -> None:
        if self.points < 1 or self.sampling not in SAMPLINGS:
            raise ConfigError(
                explain(
                    "a point cloud needs at least one point and a way of sampling",
                    given=(self.points, self.sampling),
                    allowed=SAMPLINGS,
                )
            )

    def of(self, card: Embodiment) -> PointCloud:
        """The same with cameras and crop filled in from a card.

        Raises:
            ConfigError: the card has no camera that stands still, and none was named.
            EmbodimentError: no such camera.
        """
        names = self.cameras or tuple(camera.name for camera in card.cameras if camera.mount == "world")
        if not names:
            known = [camera.name for camera in card.cameras]
            mend = "name some: PointCloud(points, cameras=(...))"
            raise ConfigError(explain(f"'{card.name}' has no camera in the world", allowed=known, mend=mend))
        for name in names:
            card.camera(name)
        boxes = np.array([arm.workspace for arm in card.arms])
        lower = boxes[:, 0].min(axis=0) - MARGIN_M if self.lower_m is None else self.lower_m
        upper = boxes[:, 1].max(axis=0) + MARGIN_M if self.upper_m is None else self.upper_m
        return PointCloud(self.points, names, tuple(map(float, lower)), tuple(map(float, upper)), self.sampling)

    def make(
        self,
        depth: Mapping[str, NDArray[np.uint16]],
        image: Mapping[str, NDArray[np.uint8]],
        cameras: Sequence[tuple[Camera, Pose]],
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """The cloud of one instant.

        Args:
            depth: uint16 [H, W, 1] mm per camera.
            image: uint8 [H, W, 3] per camera.
            cameras: Each with its pose (position [3] m, rotation [3, 3]) in the robot's base frame.
            rng: Chooses among the points.

        Returns:
            f32 [P, 6]: x, y, z, r, g, b. Fewer points than P are repeated; none at all are zeros.
        """
        assert self.lower_m is not None
        assert self.upper_m is not None
        xyz = np.concatenate([unproject(depth[c.name], c, pose) for c, pose in cameras])
        seen = np.concatenate([depth[c.name].ravel() > 0 for c, _ in cameras])
        inside = seen & (xyz >= self.lower_m).all(axis=1) & (xyz <= self.upper_m).all(axis=1)
        colour = np.concatenate([image[c.name].reshape(-1, 3) for c, _ in cameras])[inside]
        found = np.concatenate([xyz[inside], colour / 255.0], axis=1).astype(np.float32)
        if not len(found):
            return np.zeros((self.points, 6), np.float32)
        if len(found) <= self.points:
            more = rng.integers(len(found), size=self.points - len(found))
            return np.concatenate([found, found[more]])
        if self.sampling == "random":
            return found[rng.choice(len(found), self.points, replace=False)]
        many = min(len(found), CANDIDATES * self.points)
        candidates = found[rng.choice(len(found), many, replace=False)]
        return candidates[farthest_points(candidates[:, :3], self.points)]


def camera_pose(camera: Camera, mount: Pose | None = None) -> Pose:
    """Position [3] m and rotation [3, 3] of a camera (looking along -z, x right, y up) in the robot's base frame.

    Args:
        camera: Gives the pose in the frame of its mount.
        mount: Pose of the mount, None for one in the world.
    """
    position, rotation = np.asarray(camera.position_m), quaternion_to_matrix(np.asarray(camera.quaternion, float))
    if mount is None:
        return position, rotation
    return mount[0] + mount[1] @ position, mount[1] @ rotation


def unproject(depth: NDArray[np.uint16], camera: Camera, pose: Pose) -> Array:
    """Depth picture to points. uint16 [H, W, 1] mm -> f64 [H W, 3] m in the base frame, row by row.

    A pixel's ray goes through its centre; depth is measured along the view axis, not along the ray.
    """
    focal, centre_x, centre_y = camera.intrinsics[0, 0], camera.intrinsics[0, 2], camera.intrinsics[1, 2]
    metres = depth[..., 0] * 1e-3
    right = (np.arange(depth.shape[1]) + 0.5 - centre_x) / focal
    down = (np.arange(depth.shape[0]) + 0.5 - centre_y) / focal
    local = np.stack([metres * right, -metres * down[:, None], -metres], axis=-1).reshape(-1, 3)
    return local @ pose[1].T + pose[0]


def farthest_points(xyz: NDArray[np.floating], count: int) -> NDArray[np.intp]:
    """Indices [count] of points that are each as far as possible from those before it, beginning with the first.

    Greedy farthest-point sampling (Gonzalez 1985; Eldar et al. 1997). xyz [N, 3], N >= count.
    """
    columns = np.ascontiguousarray(xyz.T, np.float32)
    chosen = np.zeros(count, np.intp)
    nearest = np.full(columns.shape[1], np.inf, np.float32)
    for i in range(1, count):
        gap = columns - columns[:, chosen[i - 1], None]
        gap *= gap
        np.minimum(nearest, gap.sum(axis=0), out=nearest)
        chosen[i] = int(nearest.argmax())
    return chosen
