"""Noise on what an expert executes while its labels stay clean (Laskey et al., DART, CoRL 2017)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import ArmPart, RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.types import ActionChunk

__all__ = ["ActionNoise"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ActionNoise:
    """Smooth Gaussian noise on the executed TCP target.

    The demonstrations then hold states off the expert's path together with the way back. The noise is correlated in
    time, because an arm with limited acceleration cannot follow a target that jitters from step to step: it is a
    second-order autoregression with a double pole, ``x[k+1] = 2 r x[k] - r^2 x[k-1] + g e[k]``.

    Attributes:
        position_m: Standard deviation per axis.
        rotation_rad: The same for a rotation vector.
        correlation_s: Time constant of the double pole, ``r = exp(-dt / correlation_s)``.
        height_m: TCP height over the table from which on it acts in full.
        low_share: Share of it left at the table, where a grasp would not succeed otherwise.
    """

    position_m: float = 0.005
    rotation_rad: float = 0.02
    correlation_s: float = 0.2
    height_m: float = 0.12
    low_share: float = 0.25

    def __post_init__(self) -> None:
        values = dataclasses.astuple(self)
        if not (np.isfinite(values).all() and min(values) >= 0 and self.correlation_s * self.height_m > 0):
            raise ConfigError(
                explain("action_noise must be finite and not negative", given=self, mend="0 switches it off")
            )

    def on(self, embodiment: Embodiment) -> Callable[[ActionChunk, np.random.Generator], ActionChunk]:
        """The perturbation of one episode; starts from zero and draws six numbers per arm and chunk.

        Where the actions are joint positions, the arms' Jacobians turn the noise on the TCPs into one on the joints; a
        robot without an arm is left alone.
        """
        move: Callable[[Array, Array], Array]
        if embodiment.action_space == "joint_position":
            arms = RobotKinematics(embodiment).parts
            move = functools.partial(_move_joints, arms, self._share)
            count = len(arms)
        else:
            position, rotation = embodiment.action.select("ee_position"), embodiment.action.select("ee_rotation")
            move = functools.partial(_move_pose, position, rotation, self._share)
            count = 1
        deviation = np.tile(np.repeat([self.position_m, self.rotation_rad], 3), (count, 1))
        r = float(np.exp(-embodiment.control_dt_s / self.correlation_s))
        # stationary variance of the double pole is g^2 (1 + r^2) / (1 - r^2)^3
        gain = deviation * np.sqrt((1 - r * r) ** 3 / (1 + r * r))
        past = np.zeros((2, count, 6))

        def perturb(chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
            new = 2 * r * past[1] - r * r * past[0] + gain * rng.standard_normal((count, 6))
            past[0], past[1] = past[1], new
            return dataclasses.replace(chunk, values=move(np.array(chunk.values, float), new))

        return perturb

    def _share(self, height_m: float) -> float:
        return self.low_share + (1 - self.low_share) * float(np.clip(height_m / self.height_m, 0.0, 1.0))


def _move_pose(
    position: NDArray[np.intp], rotation: NDArray[np.intp], share: Callable[[float], float], values: Array, noise: Array
) -> Array:
    """Pose targets [H, A] moved by noise [1, 6]."""
    new = noise[0] * share(float(values[0, position[2]]))
    values[:, position] += new[:3]
    turn = axis_angle_to_matrix(new[3:])
    values[:, rotation] = matrix_to_rotation_6d(turn @ rotation_6d_to_matrix(values[:, rotation]))
    return values


def _move_joints(arms: tuple[ArmPart, ...], share: Callable[[float], float], values: Array, noise: Array) -> Array:
    """Joint targets [H, A] moved by what moves the TCPs by noise [arms, 6], damped near singularities."""
    for arm, of_tcp in zip(arms, noise, strict=True):
        place, _, jacobian = arm.kinematics.pose_and_jacobian(values[0, arm.joints])
        square = jacobian @ jacobian.T + 0.02**2 * np.eye(6)
        values[:, arm.joints] += jacobian.T @ np.linalg.solve(square, of_tcp * share(float(place[2])))
    return values
