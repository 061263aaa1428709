"""Scripted expert of ``stack``: a vector field over TCP pose, gripper opening and the two cubes.

As in ``pick_place`` there is no phase counter and no clock; what to do is read off the geometry each time::

    red rests on green       -> open, then rise                        (release, retreat)
    red between the fingers  -> close, then over an arc onto green     (grasp, lift, carry, turn, lower)
    otherwise                -> come down onto red                     (approach, descend)

The hand takes red by the pair of faces that is nearer to it, and sets it down along the edges of green by the nearer
turn; where both are equally near, demonstrations go either way.
"""

from __future__ import annotations

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.cube_grip import CubeExpert, CubeMotion
from robopolicy.sim.tasks.reference_motion import nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen

__all__ = ["StackExpert"]

STACK_MOTION = CubeMotion(clearance_m=0.09, mouth_m=0.006, retreat_m=0.12)


class StackExpert(CubeExpert):
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        cube_size_m: Edge length of the cubes.
        motion: Speeds and shapes; its retreat is above the red cube.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        cube_size_m: float = 0.04,
        motion: CubeMotion = STACK_MOTION,
    ):
        super().__init__(embodiment, environment_state_names, cube_size_m=cube_size_m, motion=motion)

    def _decide(self, seen: Seen) -> Decision:
        red, green = seen.vector("red_position"), seen.vector("green_position")
        top = np.array([green[0], green[1], green[2] + self._size_m])
        left_m = float(np.linalg.norm(top[:2] - red[:2]))
        if abs(red[2] - top[2]) < 0.003 and left_m < 0.012:
            return self._release(seen, red[2] + self.motion.retreat_m)
        if self._holds(seen, red):
            turn_rad = nearest_angle(self._yaw(seen, "green") - self._yaw(seen, "red"), np.pi / 2)
            offset, height = red - seen.tcp, top[2] - 0.001 + self._funnel(left_m + 0.05 * abs(turn_rad))
            return np.array([*(top[:2] - offset[:2]), height - offset[2]]), turn_rad, self._closed
        return self._take(seen, red, self._yaw(seen, "red"))
