"""Scripted expert of ``open_drawer``: a vector field over TCP pose, gripper opening, handle and cabinet.

No phase counter and no clock: what to do is read off the geometry each time::

    bar between the closed fingers -> along the slide, slower towards the end   (pull, hold)
    otherwise                      -> come down onto the bar and close          (turn, approach, grasp)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.handle_grip import HandleGrip, HandleMotion
from robopolicy.sim.tasks.tcp_command import TcpCommand
from robopolicy.types import ActionChunk, Observation

__all__ = ["OpenDrawerExpert"]


class OpenDrawerExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        goal_m: How far to open the drawer.
        bar_m: Radius of the handle's bar.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        goal_m: float,
        bar_m: float,
        motion: HandleMotion | None = None,
    ):
        motion = motion or HandleMotion()
        self._goal_m = goal_m
        self._command = TcpCommand(embodiment, environment_state_names, motion)
        self._grip = HandleGrip(embodiment, bar_m, motion)

    @property
    def spec(self) -> PolicySpec:
        """One observation in; one action and the one expected after it out."""
        return self._command.spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The TCP target of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        seen = self._command.read(observation)
        handle = seen.vector("handle_position")
        forward = np.array([seen.named["cabinet_yaw.cos"], seen.named["cabinet_yaw.sin"], 0.0])
        turn_rad = self._grip.turn(seen, math.atan2(forward[1], forward[0]))
        if not self._grip.holds(seen, handle):
            move, gripper = self._grip.approach(seen, handle, turn_rad)
            return self._command.chunk(seen, move, turn_rad, gripper)
        # the way that is left, plus what the hand has slipped across the slide or up
        way = -forward * (self._goal_m - seen.named["drawer.opening_m"])
        slip = handle - seen.tcp
        slip = slip - forward * float(slip @ forward)
        return self._command.chunk(seen, self._grip.pull(way) + slip, turn_rad, 0.0)
