"""Scripted expert of ``pick_place``: a vector field over TCP pose, gripper opening, cube and goal.

There is no phase counter and no clock: what to do is read off the geometry each time, so that a policy which sees the
same can represent it::

    cube on its goal      -> open, then rise               (release, retreat)
    cube between fingers  -> close, then carry to the goal  (grasp, lift, carry, lower)
    otherwise             -> come down onto the cube        (approach, descend)

Approach and carry follow a funnel: the height asked for grows with the distance still to go in the plane, which makes
an arc out of lift, carry and lower.

All it remembers is the reference it asked for last; see :mod:`robopolicy.sim.tasks.reference_motion`.
"""

from __future__ import annotations

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.cube_grip import CubeExpert, CubeMotion
from robopolicy.sim.tasks.reference_motion import nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen

__all__ = ["PickPlaceExpert"]


class PickPlaceExpert(CubeExpert):
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        cube_size_m: Edge length of the cube.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        cube_size_m: float = 0.04,
        motion: CubeMotion | None = None,
    ):
        super().__init__(embodiment, environment_state_names, cube_size_m=cube_size_m, motion=motion or CubeMotion())
        self._half_m = cube_size_m / 2

    def _decide(self, seen: Seen) -> Decision:
        cube, goal = seen.vector("cube_position"), seen.vector("goal_position", "xy")
        left_m = float(np.linalg.norm(goal - cube[:2]))
        if cube[2] < self._half_m + 0.004 and left_m < 0.02:
            return self._release(seen, self.motion.retreat_m)
        if self._holds(seen, cube):
            offset, height = cube - seen.tcp, self._half_m - 0.001 + self._funnel(left_m)
            return np.array([*(goal - offset[:2]), height - offset[2]]), -nearest_angle(seen.yaw), self._closed
        return self._take(seen, cube, self._yaw(seen, "cube"))
