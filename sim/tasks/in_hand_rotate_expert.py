"""Scripted expert of ``in_hand_rotate``: pinch, twist, let go, reach back, with middle finger and thumb.

The two fingertips face each other across the object. The pair is described by an angle ``phi`` about the object's axis
(0: the middle finger in front, the thumb behind) and the distance ``rho`` of the tips from it. What to do is read off
phi, rho and the yaw still to go; there is no phase counter and no clock::

    on the object, room to turn    -> turn with it                    (twist)
    on the object, at the stop     -> part                            (let go)
    off it, not at the far stop    -> part, go round to the far stop  (reach back)
    off it, at the far stop        -> close                           (pinch)

The object stands on the palm all the while, so that it stays where it is when it is let go; while it is held it is
drawn back to its place. Joints are found by damped least squares on the robot's own model.

All it remembers is the reference it asked for last. It begins anew whenever an observation does not follow the last one
by one control step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.scene import ROBOT_PREFIX
from robopolicy.types import ActionChunk, Observation

__all__ = ["InHandRotateExpert", "TwistMotion"]

Array = NDArray[np.floating]
TIP_RADIUS_M = 0.012
POSTURE_RAD = {"mf": (0.0, 0.55, 1.55, 0.95), "th": (1.15, 0.35, 0.6, 0.9)}
"""What the spare joint of each finger is drawn to: four joints bring a tip to a point of three coordinates."""


@dataclass(frozen=True)
class TwistMotion:
    """How the pair of fingertips moves.

    Attributes:
        stop_rad: Greatest angle of the pair, either way.
        twist_rad_s: Rate while it turns the object.
        gain_hz: Rate asked for per radian of yaw left.
        back_rad_s: Rate on the way back.
        acceleration_rad_s2: Largest change of the rate per second.
        part_m_s: Speed of closing and parting.
        gap_m: Distance of tips and object on the way back.
        squeeze_m: How far inside the surface the tips are told to be.
        near_m: Tips nearer than this to the surface hold the object.
        grip_height_m: Of the tips over the table.
        arrived_rad: Yaw left at which it rests.
        centring: Share of the object's distance from its place that is taken back in one step.
    """

    stop_rad: float = 0.7
    twist_rad_s: float = 1.6
    gain_hz: float = 4.0
    back_rad_s: float = 3.0
    acceleration_rad_s2: float = 25.0
    part_m_s: float = 0.10
    gap_m: float = 0.010
    squeeze_m: float = 0.004
    near_m: float = 0.005
    grip_height_m: float = 0.155
    arrived_rad: float = 0.05
    centring: float = 0.2


@dataclass(frozen=True)
class _Reference:
    """What was asked for last, to be reached at ``time_ns``: rad, rad/s, m; ``centre`` [2] m, ``joints`` [J]."""

    time_ns: int
    phi: float
    rate: float
    rho: float
    centre: Array
    joints: Array


class InHandRotateExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Hand with joints ``mfj0`` to ``mfj3`` and ``thj0`` to ``thj3``.
        environment_state_names: [E] channel names of the task's privileged state.
        model: Compiled scene, with a site ``<finger>_tip`` in the middle of each fingertip.
        radius_m: Of the object.
        place_m: [2] where it should stand, world.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        model: mujoco.MjModel,
        radius_m: float,
        place_m: Array,
        motion: TwistMotion | None = None,
    ):
        self.motion = motion or TwistMotion()
        self._touch_m = radius_m + TIP_RADIUS_M
        self._place, self._names = np.asarray(place_m, float), environment_state_names
        self._dt_s = embodiment.control_dt_s
        self._tips = _Fingertips(embodiment, model, self.motion.grip_height_m)
        self._last: _Reference | None = None
        self._spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=1,
            action_horizon=1,
            prediction_horizon=2,
            environment_state=len(environment_state_names),
        )

    @property
    def spec(self) -> PolicySpec:
        """One observation in; one action and the one expected after it out."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """Joint targets of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        assert observation.environment_state is not None
        motion, dt_s = self.motion, self._dt_s
        now_ns, joints = int(observation.time_ns[-1]), np.asarray(observation.state[-1], float)
        seen = dict(zip(self._names, map(float, observation.environment_state[-1]), strict=True))
        thing = np.array([seen["object_position.x"], seen["object_position.y"]])
        yaw_rad, goal_rad = (math.atan2(seen[f"{n}_yaw.sin"], seen[f"{n}_yaw.cos"]) for n in ("object", "goal"))
        left_rad = math.remainder(goal_rad - yaw_rad, 2 * math.pi)
        phi, rho, furthest = self._tips.pair(joints, thing)
        last = self._last
        if last is None or abs(last.time_ns - now_ns) > 1000:
            last = _Reference(now_ns, phi, 0.0, rho, thing, joints)
        held = furthest < self._touch_m + motion.near_m
        rate, rho = self._decide(last.phi, furthest, held, left_rad)
        most = motion.acceleration_rad_s2 * dt_s
        rate = last.rate + _clip(rate - last.rate, most)
        phi, rho = last.phi + rate * dt_s, last.rho + _clip(rho - last.rho, motion.part_m_s * dt_s)
        centre = last.centre + motion.centring * ((self._place if held else thing) - last.centre)
        first = self._tips.solve(phi, rho, centre, last.joints)
        second = self._tips.solve(phi + rate * dt_s, rho, centre, first)
        self._last = _Reference(now_ns + round(dt_s * 1e9), phi, rate, rho, centre, first)
        return ActionChunk(np.stack([first, second]), now_ns, dt_s, self._spec.embodiment.hash, horizon=1)

    def _decide(self, phi: float, furthest_m: float, held: bool, left_rad: float) -> tuple[float, float]:
        """-> (rate of phi in rad/s, rho in m)."""
        motion, way = self.motion, math.copysign(1.0, left_rad)
        on_m, apart_m = self._touch_m - motion.squeeze_m, self._touch_m + motion.gap_m
        arrived = abs(left_rad) < motion.arrived_rad
        if held:
            if arrived or way * phi < motion.stop_rad:
                return _clip(motion.gain_hz * left_rad, motion.twist_rad_s), on_m
            return 0.0, apart_m
        back_rad = -way * motion.stop_rad - phi
        if abs(back_rad) < 0.06 and not arrived:
            return 0.0, on_m
        if arrived or furthest_m < self._touch_m + 0.7 * motion.gap_m:
            return 0.0, apart_m
        return _clip(8.0 * back_rad, motion.back_rad_s), apart_m


class _Fingertips:
    """Where the two tips are for joint positions, and the joints for where they shall be."""

    def __init__(self, embodiment: Embodiment, model: mujoco.MjModel, height_m: float):
        names = embodiment.joints.names
        self._model, self._data, self._height_m = model, mujoco.MjData(model), height_m
        self._qpos = np.array([int(model.joint(ROBOT_PREFIX + n).qposadr[0]) for n in names])
        self._site = {f: model.site(f"{ROBOT_PREFIX}{f}_tip").id for f in POSTURE_RAD}
        self._joints = {f: np.array([names.index(f"{f}j{i}") for i in range(4)]) for f in POSTURE_RAD}
        self._dofs = {
            f: np.array([int(model.joint(f"{ROBOT_PREFIX}{f}j{i}").dofadr[0]) for i in range(4)]) for f in POSTURE_RAD
        }
        self._lower, self._upper = embodiment.joints.lower, embodiment.joints.upper

    def pair(self, joints: Array, middle: Array) -> tuple[float, float, float]:
        """-> (phi, mean distance, distance of the further tip) about ``middle`` [2]."""
        self._pose(joints)
        finger, thumb = (self._data.site_xpos[self._site[f]][:2] for f in ("mf", "th"))
        offsets = (finger - middle, middle - thumb)
        phi = sum(math.atan2(y, x) for x, y in offsets) / 2
        distances = [math.hypot(x, y) for x, y in offsets]
        return phi, sum(distances) / 2, max(distances)

    def solve(self, phi: float, rho: float, centre: Array, joints: Array) -> Array:
        """[J] joints that bring both tips to (phi, rho) about ``centre`` [2], begun at ``joints``; the others stay."""
        model, data, q = self._model, self._data, joints.copy()
        out = rho * np.array([math.cos(phi), math.sin(phi)])
        target = {"mf": [*(centre + out), self._height_m], "th": [*(centre - out), self._height_m]}
        jacobian = np.zeros((3, model.nv))
        for iteration in range(6):
            self._pose(q)
            mujoco.mj_comPos(model, data)
            for finger, at in self._joints.items():
                error = np.array(target[finger]) - data.site_xpos[self._site[finger]]
                mujoco.mj_jacSite(model, data, jacobian, None, self._site[finger])
                own = jacobian[:, self._dofs[finger]]
                pull = (0.05 if iteration < 2 else 0.0) * (np.array(POSTURE_RAD[finger]) - q[at])
                wanted = np.clip(error, -0.01, 0.01) - own @ pull
                q[at] += pull + own.T @ np.linalg.solve(own @ own.T + 1e-6 * np.eye(3), wanted)
                q[at] = np.clip(q[at], self._lower[at], self._upper[at])
        return q

    def _pose(self, joints: Array) -> None:
        self._data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)


def _clip(value: float, largest: float) -> float:
    return min(max(value, -largest), largest)
