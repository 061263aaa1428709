"""Where the arm of a task begins when the card's home is not the place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain

__all__ = ["hand_over"]


def hand_over(embodiment: Embodiment, position_m: ArrayLike, yaw_rad: float = 0.0) -> Mapping[str, float]:
    """Arm joints, by name, that put the TCP at a place in the base frame, pointing straight down.

    Args:
        embodiment: Card with one arm.
        position_m: [3].
        yaw_rad: Direction of the TCP's x axis in the plane.

    Raises:
        SimulationError: out of reach from the card's home posture.
    """
    part = RobotKinematics(embodiment).part()
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    down = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
    target = np.asarray(position_m, float)
    home = embodiment.home_position[part.joints]
    solution = part.kinematics.solve(home, target, down, iterations=200)
    if not solution.converged:
        raise SimulationError(
            explain(
                f"'{embodiment.name}' cannot begin there",
                given=f"TCP at {target.round(3).tolist()}, {solution.position_error_m:.3f} m away",
                mend="choose a place within reach in the task's YAML",
            )
        )
    return {embodiment.joints.names[i]: float(q) for i, q in zip(part.joints, solution.q_arm, strict=True)}
