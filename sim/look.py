"""Draws everything that is asked for of one instant, each camera once."""

from __future__ import annotations

import dataclasses
from typing import Any

import mujoco
import numpy as np

from robopolicy.embodiment import Camera
from robopolicy.sim.frame import Modalities
from robopolicy.sim.point_cloud import PointCloud, Pose, camera_pose
from robopolicy.sim.render import CameraRenderer, View
from robopolicy.sim.scene import Scene

__all__ = ["draw_frame", "mount_pose"]


def draw_frame(
    scene: Scene,
    data: mujoco.MjData,
    renderer: CameraRenderer,
    wanted: Modalities,
    cloud: PointCloud,
    rng: np.random.Generator | None,
) -> dict[str, Any]:
    """Entries ``image``, ``depth``, ``segmentation`` and ``point_cloud`` of a frame.

    Args:
        scene: Gives the cameras and where they are mounted.
        data: State that is drawn.
        renderer: Of the scene.
        wanted: What is asked for.
        cloud: How a cloud is made; ``wanted`` has the number of points.
        rng: For the points; only needed for a cloud.
    """
    card = scene.embodiment
    if wanted.point_cloud:
        cloud = dataclasses.replace(cloud, points=wanted.point_cloud).of(card)
    of_cloud = cloud.cameras if wanted.point_cloud else ()
    views: dict[str, View] = {}
    for name in dict.fromkeys((*wanted.cameras, *wanted.depth, *wanted.segmentation, *of_cloud)):
        views[name] = renderer.look(
            data,
            card.camera(name),
            colour=name in wanted.cameras or name in of_cloud,
            depth=name in wanted.depth or name in of_cloud,
            segmentation=name in wanted.segmentation,
        )
    drawn: dict[str, Any] = {
        "image": {name: views[name].image for name in wanted.cameras},
        "depth": {name: views[name].depth for name in wanted.depth},
        "segmentation": {name: views[name].segmentation for name in wanted.segmentation},
    }
    if wanted.point_cloud:
        assert rng is not None
        cameras = [card.camera(name) for name in of_cloud]
        placed = [(camera, camera_pose(camera, mount_pose(scene, data, camera))) for camera in cameras]
        depth: dict[str, Any] = {name: views[name].depth for name in of_cloud}
        image: dict[str, Any] = {name: views[name].image for name in of_cloud}
        drawn["point_cloud"] = cloud.make(depth, image, placed, rng)
    return drawn


def mount_pose(scene: Scene, data: mujoco.MjData, camera: Camera) -> Pose | None:
    """Where the camera's mount is, None for the world: the tool centre point of its arm."""
    if camera.mount == "world":
        return None
    arm = camera.mount.rpartition("tcp")[0].rstrip(".")
    site = scene.tcp_site[arm]
    return data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()
