"""Scripted expert of ``play``: one sub-goal after the other, each a vector field like that of ``pick_place``.

What to do now is read off the scene every time::

    cube in the jaw, off the table   -> carry it to its disc
    else the first that is not as wanted of drawer, slider, button, cube
    nothing left                     -> let go, rise

A handle: come down over the post with the jaw open, close it, move along y until the joint is where it shall be; then
open before rising. The button: come down on it with the jaw closed until the lamp toggles.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.cube_grip import CubeMotion
from robopolicy.sim.tasks.pick_place_expert import PickPlaceExpert
from robopolicy.sim.tasks.play_scene import LAYOUT
from robopolicy.sim.tasks.tcp_command import Decision, Seen
from robopolicy.types import ActionChunk, Observation

__all__ = ["PlayExpert"]

Array = NDArray[np.floating]
PLAY_MOTION = CubeMotion(clearance_m=0.165, retreat_m=0.20)
REACHED_M = 0.012
"""Drawer and slider are pushed until this much is left."""


class PlayExpert(PickPlaceExpert):
    """Policy protocol; see the module. It reads the goal vector of the observation.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        goal_names: [G] channel names of the task's goal.
        cube_size_m: Edge length of the cube.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        goal_names: tuple[str, ...],
        *,
        cube_size_m: float = 0.04,
        motion: CubeMotion = PLAY_MOTION,
    ):
        super().__init__(embodiment, environment_state_names, cube_size_m=cube_size_m, motion=motion)
        self._goal_names = goal_names
        self._post = LAYOUT.handle_m / embodiment.gripper_width_m
        self._closed_on_post = max(0.0, self._post - self.motion.squeeze)

    @property
    def spec(self) -> PolicySpec:
        """One observation with its goal in; one action and the one expected after it out."""
        return replace(super().spec, goal=len(self._goal_names))

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The TCP target of the next control step, and a look ahead; ``goal`` [G] goes before the observation's."""
        wanted = observation.goal if goal is None else np.asarray(goal, float)
        assert wanted is not None
        named = dict(zip(self._goal_names, map(float, wanted), strict=True))
        seen = self._command.read(observation)
        place = {f"goal_position.{a}": named[f"cube_position.{a}"] for a in "xy"}
        told = {f"goal.{name}": value for name, value in named.items()}
        seen = replace(seen, named={**seen.named, **place, **told})
        return self._command.chunk(seen, *self._move(seen))

    def _decide(self, seen: Seen) -> Decision:
        named, cube = seen.named, seen.vector("cube_position")
        held = self._holds(seen, cube)
        if held and cube[2] > self._half_m + 0.004:
            return super()._decide(seen)
        handles = LAYOUT.drawer_handle(named["drawer_m"]), LAYOUT.slider_handle(named["slider_m"])
        left_m = named["drawer_m"] - named["goal.drawer_m"], named["goal.slider_m"] - named["slider_m"]
        for handle, left in zip(handles, left_m, strict=True):
            # once the jaw is around a post it goes on to the end; otherwise what is nearly right counts as right
            if abs(left) > (REACHED_M if self._around(seen, handle) else 0.025):
                return self._push(seen, handle, left)
        for handle in handles:
            if self._around(seen, handle) and seen.gripper < self._post + 4 * self._margin:
                return seen.tcp, -seen.yaw, 1.0
        if named["lamp_on"] != named["goal.lamp_on"]:
            return self._press(seen)
        if held or float(np.linalg.norm(seen.vector("goal_position", "xy") - cube[:2])) > 0.02:
            return self._fetch(seen, cube)
        return np.array([*seen.tcp[:2], self.motion.retreat_m]), -seen.yaw, 1.0

    def _around(self, seen: Seen, handle: Array) -> bool:
        offset = handle - seen.tcp
        return bool(abs(offset[0]) < 0.014 and abs(offset[1]) < 0.022 and abs(offset[2]) < 0.02)

    def _push(self, seen: Seen, handle: Array, left_m: float) -> Decision:
        """Along y by ``left_m`` once the jaw is closed around the post, else towards it."""
        offset, yaw_error = handle - seen.tcp, -seen.yaw
        beside_m = math.hypot(offset[0], offset[1])
        if self._around(seen, handle) and seen.gripper < self._post + 2 * self._margin:
            return np.array([handle[0], seen.tcp[1] + left_m, handle[2]]), yaw_error, self._closed_on_post
        near_m = 0.008 if seen.gripper > 1.0 - self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and abs(yaw_error) < 0.2:
            return handle, yaw_error, self._closed_on_post
        return self._above(seen, handle, beside_m + 0.08 * abs(yaw_error), 0.8), yaw_error, 1.0

    def _press(self, seen: Seen) -> Decision:
        """Down on the cap with the jaw closed, until the lamp is as wanted."""
        x, y, top = LAYOUT.button
        beside_m = math.hypot(x - seen.tcp[0], y - seen.tcp[1])
        if seen.gripper > 0.35:
            height = max(seen.tcp[2], top + 0.05) if beside_m < 0.06 else self._travel_m
            return np.array([x, y, max(height, top + self._funnel(beside_m))]), -seen.yaw, 0.0
        return np.array([x, y, top - 0.03 + self._funnel(beside_m)]), -seen.yaw, 0.0

    def _fetch(self, seen: Seen, cube: Array) -> Decision:
        """As in ``pick_place``, but not down before the jaw is open."""
        waypoint, yaw_error, gripper = super()._decide(seen)
        if gripper == 1.0 and seen.gripper < 0.8 and float(np.linalg.norm(cube[:2] - seen.tcp[:2])) > 0.03:
            waypoint = np.array([*waypoint[:2], self._travel_m])
        return waypoint, yaw_error, gripper

    def _above(self, seen: Seen, place: Array, beside_m: float, opening: float) -> Array:
        """On the way down to a place; stays up while the jaw is not open that far."""
        height = place[2] + self._funnel(beside_m)
        if seen.gripper < opening:
            height = max(height, self._travel_m if beside_m > 0.03 else seen.tcp[2])
        return np.array([*place[:2], min(height, self._travel_m)])

    @property
    def _travel_m(self) -> float:
        return self._half_m + self.motion.clearance_m
