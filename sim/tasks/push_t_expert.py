"""Scripted expert of ``push_t``: pushes straight against a side of the T, goes around it, pushes again.

::

    no push planned, or its subgoal reached -> plan: the first of the two pushes that bring the T nearest to its target
    stick behind the planned contact        -> push: ahead along the normal, aside so that yaw and place arrive together
    stick close to the T, but elsewhere     -> back off from it
    otherwise                               -> go to the contact, straight or around the T

**Two modes by construction.** Where the ways around the T to the left and to the right are about equally long, a coin
that is thrown once per episode decides; as soon as the stick has gone some of the way, that way is the shorter one and
the geometry alone holds on to it. Sides that are about equally good to push are drawn as well.

Beside the reference of the motion it remembers the planned push and the coin, both for one episode.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.push_t_plan import TURN_M, Detours, Push, PushPlanner
from robopolicy.sim.tasks.push_t_shape import Pose, Tee
from robopolicy.sim.tasks.reference_motion import MotionLimits, cap, clip, nearest_angle
from robopolicy.sim.tasks.tcp_command import Seen, TcpCommand
from robopolicy.types import ActionChunk, Observation

__all__ = ["PushTExpert"]

Array = NDArray[np.floating]

# with more acceleration the xarm7's limits of jerk let the stick dip by a centimetre, down to the table
LIMITS = MotionLimits(speed_m_s=0.25, acceleration_m_s2=0.8, gain_hz=5.0)
PUSH_STEP_M = 0.02
"""Way still asked for while pushing; times the gain it is the speed."""
EQUAL_WAYS = 0.15
"""Relative difference in length up to which the coin decides between two ways."""
DONE_M = 0.0018
"""The T is left alone when it is this close, turns counted."""


class PushTExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        tee: Geometry of the T.
        target: Pose to reach.
        tool_m: Radius of the stick.
        turn_radius_m: See :class:`robopolicy.sim.tasks.push_t_plan.PushPlanner`.
        height_m: TCP height to keep.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        tee: Tee,
        target: Pose,
        tool_m: float,
        turn_radius_m: float,
        height_m: float,
    ):
        self._command = TcpCommand(embodiment, environment_state_names, LIMITS)
        self._gripper = 2 * tool_m / embodiment.gripper_width_m
        self._tool_m, self._height_m, self._rho_m = tool_m, height_m, turn_radius_m
        self._step_ns = round(embodiment.control_dt_s * 1e9)
        lower, upper = (np.asarray(corner, float) for corner in embodiment.workspace)
        self._region = (lower[:2] + 0.01, upper[:2] - 0.01)
        self._planner = PushPlanner(
            tee,
            target,
            tool_m=tool_m,
            turn_radius_m=turn_radius_m,
            region_lower_m=self._region[0],
            region_upper_m=self._region[1],
        )
        self._detours = Detours(tee, tool_m + 0.004)
        self._plan: Push | None = None
        self._coin = False
        self._next_ns: int | None = None

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
        """The TCP target of the next control step, and a look ahead; ``prefix`` and ``goal`` are not used."""
        seen = self._command.read(observation)
        chance = np.random.default_rng(rng)
        if self._next_ns is None or abs(seen.time_ns - self._next_ns) > 1000:
            self._plan, self._coin = None, bool(chance.integers(2))
        self._next_ns = seen.time_ns + self._step_ns
        x, y, cosine, sine = (seen.named[name] for name in self._channels())
        flat = self._decide(seen, Pose(x, y, math.atan2(sine, cosine)), chance)
        move = np.array([*flat, self._height_m - seen.tcp[2]])
        return self._command.chunk(seen, move, -nearest_angle(seen.yaw), self._gripper)

    @staticmethod
    def _channels() -> tuple[str, ...]:
        return ("tee_position.x", "tee_position.y", "tee_yaw.cos", "tee_yaw.sin")

    def _decide(self, seen: Seen, pose: Pose, chance: np.random.Generator) -> Array:
        """-> [2] way that the stick shall go now, m."""
        stick = seen.tcp[:2]
        left_m = self._planner.left_m(pose)
        if left_m < DONE_M:
            self._plan = None
            return np.zeros(2)
        if self._plan is None or self._remaining(self._plan, pose)[0] < 0.0005:
            self._plan = self._planner.choose(pose, stick, chance)
        push, here = self._plan, pose.to_body(stick)
        face = push.face
        offset = here - face.middle
        along, away = float(offset @ face.along), float(offset @ face.outward) - self._tool_m
        touching = -0.004 < away < 0.003
        slack_m = 0.015 if touching else 0.005
        if away < 0.016 and away > -0.006 and abs(along - push.along_m) < slack_m:
            return pose.turn(self._push(push, pose, along, away))
        before = face.middle + push.along_m * face.along + (self._tool_m + 0.01) * face.outward
        return self._within(stick, pose.turn(self._approach(here, before)))

    def _remaining(self, push: Push, pose: Pose) -> tuple[float, Array, float]:
        """-> (way of the contact still to go, displacement of the T to the subgoal in its frame, turn to it)."""
        shift = pose.to_body(np.array([push.subgoal.x, push.subgoal.y]))
        turn = nearest_angle(push.subgoal.yaw - pose.yaw)
        normal = -push.face.outward
        point = push.face.middle + push.along_m * push.face.along
        lever = float(point[0] * normal[1] - point[1] * normal[0])
        share = 1.0 / (1.0 + (lever / self._rho_m) ** 2)
        velocity, rate = normal * share, lever / self._rho_m**2 * share
        # the middle of the way back along the circle, for the displacement as seen half-way
        half = 0.5 * turn
        c, s = math.cos(half), math.sin(half)
        shift = np.array([c * shift[0] + s * shift[1], c * shift[1] - s * shift[0]])
        weight = TURN_M**2
        progress = float(shift @ velocity) + weight * turn * rate
        return progress / (float(velocity @ velocity) + weight * rate * rate), shift, turn

    def _push(self, push: Push, pose: Pose, along: float, away: float) -> Array:
        """[2] in the T's frame."""
        way_m, shift, turn = self._remaining(push, pose)
        face, normal = push.face, -push.face.outward
        wanted = push.along_m
        ahead_m = float(shift @ normal)
        if ahead_m > 0.01:
            # the lever with which turn and displacement would end together: m = rho^2 turn / ahead
            lever = self._rho_m**2 * turn / ahead_m
            slope = float(face.along[0] * normal[1] - face.along[1] * normal[0])
            middle = float(face.middle[0] * normal[1] - face.middle[1] * normal[0])
            wanted = push.along_m + clip((lever - middle) / slope - push.along_m, 0.008)
            wanted = min(max(wanted, face.lower), face.upper)
        ahead = away + min(max(way_m, 0.002), PUSH_STEP_M)
        return normal * ahead + face.along * clip(wanted - along, 0.01)

    def _approach(self, here: Array, before: Array) -> Array:
        """[2] in the T's frame: back off, straight, or around."""
        detours = self._detours
        if detours.inside(here):
            return self._retreat(here, before)
        if detours.free(here, before):
            return before - here
        (left_m, left), (right_m, right) = detours.around(here, before)
        if abs(left_m - right_m) < EQUAL_WAYS * min(left_m, right_m):
            return (left if self._coin else right) - here
        return (left if left_m < right_m else right) - here

    def _retreat(self, here: Array, before: Array) -> Array:
        """Straight out of the distance that is kept, the nearest way; on if that leads to the contact."""
        best, way = math.inf, before - here
        for direction in (np.array(d, float) for d in ((1, 0), (-1, 0), (0, 1), (0, -1))):
            for step_m in np.arange(0.002, 0.03, 0.002):
                if not self._detours.inside(here + step_m * direction):
                    if step_m < best:
                        best, way = step_m, direction * (step_m + 0.006)
                    break
        return way

    def _within(self, stick: Array, move: Array) -> Array:
        """The way, kept inside the workspace."""
        lower, upper = self._region
        return np.clip(stick + cap(move, 0.2), lower, upper) - stick
