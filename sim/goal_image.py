"""Pictures of an episode's goal: the scene as it is, with the objects where the goal puts them.

The picture is taken of a copy of the state, so that the episode goes on as if nobody had looked. In a store it is
episode-level data: ``metadata["goal_image"]``, camera -> PNG as base64 text. Where no picture was recorded, the last
frame of a successful episode shows a reached goal (hindsight), with the robot in it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.sim.render import CameraRenderer

if TYPE_CHECKING:
    from robopolicy.sim.simulated_robot import SimulatedRobot

__all__ = ["GOAL_IMAGE", "decode_goal_images", "draw_goal", "encode_goal_images"]

GOAL_IMAGE = "goal_image"
"""Key in the metadata of an episode."""


def draw_goal(env: SimulatedRobot, camera: str, renderer: CameraRenderer) -> NDArray[np.uint8]:
    """The goal of the running episode, uint8 [H, W, 3].

    Args:
        env: Environment; neither its state nor that of its task changes.
        camera: Name of a camera of the card.
        renderer: Of the environment's model.

    Raises:
        SimulationError: the task has no picture of its goal.
        EmbodimentError: no such camera.
    """
    view = env.embodiment.camera(camera)
    data = mujoco.MjData(env.model)
    # the robot, clock and warm start as they are; what touches what is computed anew for the objects' new places
    data.qpos[:], data.qvel[:], data.time = env.data.qpos, env.data.qvel, env.data.time
    data.mocap_pos[:], data.mocap_quat[:] = env.data.mocap_pos, env.data.mocap_quat
    env.task.show_goal(data)
    mujoco.mj_forward(env.model, data)
    return renderer.render(data, view)


def encode_goal_images(images: Mapping[str, NDArray[np.uint8]]) -> dict[str, str]:
    """Pictures by camera, uint8 [H, W, 3] -> PNG as base64 text, without loss."""
    from PIL import Image

    found = {}
    for camera, picture in images.items():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", optimize=False)
        found[camera] = base64.b64encode(buffer.getvalue()).decode("ascii")
    return found


def decode_goal_images(metadata: Mapping[str, Any], cameras: Sequence[str] = ()) -> dict[str, NDArray[np.uint8]]:
    """Inverse of :func:`encode_goal_images`, from the metadata of an episode.

    Args:
        metadata: ``store.info(i)["metadata"]``.
        cameras: Which; all that there are by default.

    Raises:
        DataError: no such picture in the episode.
    """
    from PIL import Image

    stored = metadata.get(GOAL_IMAGE, {})
    missing = [c for c in cameras if c not in stored]
    if missing or not stored:
        raise DataError(
            explain(
                "the episode has no picture of its goal",
                given=missing or None,
                allowed=list(stored) or "none was recorded",
                mend="collect with goal_images=[front], or take the last frame of a successful episode",
            )
        )
    wanted = cameras or list(stored)
    return {c: np.array(Image.open(io.BytesIO(base64.b64decode(stored[c]))).convert("RGB")) for c in wanted}
