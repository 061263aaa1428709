"""Pictures of an episode's goal: the scene as it is, with the objects where the goal puts them.

The picture is taken of a copy of the state, so that the episode goes on as if nobody had looked. In a store it is
episode-level data: ``metadata["goal_image"]``, camera -> PNG as base64 text. Where no picture was recorded, the last
frame of a successful episode shows a reached goal (hindsight), with the robot in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.data.goal_pictures import GOAL_IMAGE, decode_goal_images, encode_goal_images
from robopolicy.sim.render import CameraRenderer

if TYPE_CHECKING:
    from robopolicy.sim.simulated_robot import SimulatedRobot

__all__ = ["GOAL_IMAGE", "decode_goal_images", "draw_goal", "encode_goal_images"]


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
