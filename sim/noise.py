"""Noise on what an expert executes while its labels stay clean (Laskey et al., DART, CoRL 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.types import ActionChunk

__all__ = ["ActionNoise"]


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
        """The perturbation of one episode; starts from zero and draws six numbers per chunk, whatever its size."""
        position, rotation = embodiment.action.select("ee_position"), embodiment.action.select("ee_rotation")
        deviation = np.repeat([self.position_m, self.rotation_rad], 3)
        r = float(np.exp(-embodiment.control_dt_s / self.correlation_s))
        # stationary variance of the double pole is g^2 (1 + r^2) / (1 - r^2)^3
        gain = deviation * np.sqrt((1 - r * r) ** 3 / (1 + r * r))
        past = np.zeros((2, 6))

        def perturb(chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
            new = 2 * r * past[1] - r * r * past[0] + gain * rng.standard_normal(6)
            past[0], past[1] = past[1], new
            values = np.array(chunk.values, float)
            height = float(np.clip(values[0, position[2]] / self.height_m, 0.0, 1.0))
            new = new * (self.low_share + (1 - self.low_share) * height)
            values[:, position] += new[:3]
            turn = axis_angle_to_matrix(new[3:])
            values[:, rotation] = matrix_to_rotation_6d(turn @ rotation_6d_to_matrix(values[:, rotation]))
            return dataclasses.replace(chunk, values=values)

        return perturb
