"""Scripted expert of ``in_hand_rotate``: pinch, twist, let go, reach back, with middle finger and thumb.

The two fingertips face each other across the object; a pair is described by an angle ``phi`` about the object's axis
(0: the middle finger in front, the thumb behind) and a distance ``rho`` of the tips from it. What to do is read off phi,
rho and the yaw still to go; there is no phase counter and no clock::

    on the object, room to turn    -> turn with it                    (twist)
    on the object, at the stop     -> part                            (let go)
    off it, not at the far stop    -> go round to the far stop        (reach back)
    off it, at the far stop        -> close                           (pinch)

The object stands on the palm all the while, so that it stays where it is when it is let go.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["InHandRotateExpert", "TwistMotion"]

Array = NDArray[np.floating]
TIP_RADIUS_M = 0.012
FINGERS = ("mf", "th")
POSTURE = {"mf": (0.0, 0.55, 1.55, 0.95), "th": (1.15, 0.35, 0.6, 0.9)}
"""What the redundant joint of each finger is drawn to."""


@dataclass(frozen=True)
class TwistMotion:
    """How the pair of fingertips moves."""

    stop_rad: float = 0.7
    twist_rad_s: float = 1.6
    back_rad_s: float = 3.0
    turn_acceleration_rad_s2: float = 25.0
    part_m_s: float = 0.10
    gap_m: float = 0.010
    squeeze_m: float = 0.004
    grip_height_m: float = 0.155
    near_rad: float = 0.05


@dataclass(frozen=True)
class _Reference:
    time_ns: int
    phi: float
    rate: float
    rho: float
    centre: Array
    joints: Array


class InHandRotateExpert:
    """Policy protocol; see the module."""

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
        self._radius_m = radius_m + TIP_RADIUS_M
        self._place = np.asarray(place_m, float)
        self._names = environment_state_names
        self._dt_s = embodiment.control_dt_s
        names = embodiment.joints.names
        self._model, self._data = model, mujoco.MjData(model)
        self._qpos = np.array([int(model.joint(f"robot/{n}").qposadr[0]) for n in names])
        self._site = {f: model.site(f"robot/{f}_tip").id for f in FINGERS}
        self._joints = {f: np.array([names.index(f"{f}j{i}") for i in range(4)]) for f in FINGERS}
        self._dofs = {
            f: np.array([int(model.joint(f"robot/{f}j{i}").dofadr[0]) for i in range(4)]) for f in FINGERS
        }
        self._lower, self._upper = embodiment.joints.lower, embodiment.joints.upper
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
        now_ns, joints = int(observation.time_ns[-1]), np.asarray(observation.state[-1], float)
        seen = dict(zip(self._names, map(float, observation.environment_state[-1]), strict=True))
        thing = np.array([seen["object_position.x"], seen["object_position.y"]])
        yaw = math.atan2(seen["object_yaw.sin"], seen["object_yaw.cos"])
        left = math.remainder(math.atan2(seen["goal_yaw.sin"], seen["goal_yaw.cos"]) - yaw, 2 * math.pi)
        tips = self._tips(joints)
        offset = {"mf": tips["mf"][:2] - thing, "th": thing - tips["th"][:2]}
        phi = float(np.mean([math.atan2(o[1], o[0]) for o in offset.values()]))
        rho = [float(np.linalg.norm(o)) for o in offset.values()]
        last = self._last
        if last is None or abs(last.time_ns - now_ns) > 1000:
            last = _Reference(now_ns, phi, 0.0, float(np.mean(rho)), thing, joints)
        rate, rho_wanted = self._decide(phi, max(rho), left, last)
        self.debug = (phi, rho, left, rate, rho_wanted)
        motion, dt = self.motion, self._dt_s
        most = motion.turn_acceleration_rad_s2 * dt
        rate = last.rate + float(np.clip(rate - last.rate, -most, most))
        step = motion.part_m_s * dt
        new_rho = last.rho + float(np.clip(rho_wanted - last.rho, -step, step))
        new_phi = last.phi + rate * dt
        held = max(rho) < self._radius_m + 0.003
        centre = last.centre + 0.2 * ((self._place if held else thing) - last.centre)
        first = self._solve(new_phi, new_rho, centre, last.joints)
        second = self._solve(new_phi + rate * dt, new_rho, centre, first)
        self._last = _Reference(now_ns + round(dt * 1e9), new_phi, rate, new_rho, centre, first)
        return ActionChunk(np.stack([first, second]), now_ns, dt, self._spec.embodiment.hash, horizon=1)

    def _decide(self, phi: float, rho: float, left: float, last: _Reference) -> tuple[float, float]:
        """-> (rate of phi in rad/s, rho)."""
        motion, on, apart = self.motion, self._radius_m - self.motion.squeeze_m, self._radius_m + self.motion.gap_m
        way = 1.0 if left > 0 else -1.0
        held = rho < self._radius_m + 0.003
        if held and (abs(left) < motion.near_rad or way * last.phi < motion.stop_rad):
            return float(np.clip(4.0 * left, -motion.twist_rad_s, motion.twist_rad_s)), on
        if held:
            return 0.0, apart
        if abs(left) < motion.near_rad:
            return 0.0, apart
        back = -way * motion.stop_rad - last.phi
        if abs(back) < 0.06:
            return 0.0, on
        if rho < self._radius_m + 0.7 * motion.gap_m:
            return 0.0, apart
        return float(np.clip(8.0 * back, -motion.back_rad_s, motion.back_rad_s)), apart

    def _tips(self, joints: Array) -> dict[str, Array]:
        self._data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return {f: self._data.site_xpos[s].copy() for f, s in self._site.items()}

    def _solve(self, phi: float, rho: float, centre: Array, joints: Array) -> Array:
        """[J] joints that bring both tips to (phi, rho) about ``centre``; other joints as they are."""
        model, data, q = self._model, self._data, joints.copy()
        out = np.array([math.cos(phi), math.sin(phi)])
        height = self.motion.grip_height_m
        target = {"mf": np.array([*(centre + rho * out), height]), "th": np.array([*(centre - rho * out), height])}
        jacobian = np.zeros((3, model.nv))
        for k in range(6):
            data.qpos[self._qpos] = q
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            for f in FINGERS:
                error = target[f] - data.site_xpos[self._site[f]]
                mujoco.mj_jacSite(model, data, jacobian, None, self._site[f])
                j, at = jacobian[:, self._dofs[f]], self._joints[f]
                pull = (0.05 if k < 2 else 0.0) * (np.array(POSTURE[f]) - q[at])
                gram = j @ j.T + 1e-6 * np.eye(3)
                q[at] += pull + j.T @ np.linalg.solve(gram, np.clip(error, -0.01, 0.01) - j @ pull)
                q[at] = np.clip(q[at], self._lower[at], self._upper[at])
        return q
