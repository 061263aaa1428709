"""An expert that thinks in poses, on a robot that takes joint positions.

::

    joints (measured) --forward kinematics--> pose state --> expert --> pose chunk --inverse kinematics--> joint chunk
                                                                                     from the joints commanded last

Inverse kinematics goes on from the *commanded* joints: from the measured ones it would chase the lag of the servos. An
arm of five joints reaches every place of its region with the hand straight down, turned as asked by its last joint;
what a pose asks beyond that is answered by least squares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.protocols import Policy, PolicySpec
from robopolicy.rotations import rotation_6d_to_matrix
from robopolicy.types import ActionChunk, Observation

__all__ = ["JointSpaceExpert"]

Array = NDArray[np.floating]


class JointSpaceExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Card of one arm whose state and action are joint positions.
        expert: Builds the expert for the same arm as a card of poses.
        tool_m: [3] the point that the expert shall move as its TCP, in the TCP's frame. For a jaw of which one finger
            stands still it lies half an object's width beside that finger.
        iterations: Steps of inverse kinematics per row of a chunk.
        damping: See :meth:`robopolicy.control.kinematics.Kinematics.solve_step`.

    Raises:
        SimulationError: a card of several arms, or of other actions than joint positions.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        expert: Callable[[Embodiment], Policy],
        *,
        tool_m: Sequence[float] = (0.0, 0.0, 0.0),
        iterations: int = 12,
        damping: float = 0.01,
    ):
        spaces = embodiment.action_space, embodiment.state_space
        if len(embodiment.arms) != 1 or spaces != ("joint_position", "joint_position"):
            raise SimulationError(
                explain(
                    f"'{embodiment.name}' cannot be driven by an expert of poses through its joints",
                    given=f"{len(embodiment.arms)} arms, action and state {spaces}",
                    allowed="one arm, joint_position for both",
                )
            )
        self._card = embodiment.single_arm()
        self._kinematics, self._tool = Kinematics(self._card), np.asarray(tool_m, float)
        self._iterations, self._damping = iterations, damping
        self._inner = expert(self._card)
        self._position = self._card.action.select("ee_position")
        self._rotation = self._card.action.select("ee_rotation")
        self._ends = [(self._card.action.index(n), embodiment.action.index(n)) for n in embodiment.arm().end_effector]
        names = [link.joint for link in self._card.chain]
        self._measured = np.array([embodiment.state.index(n) for n in names])
        self._commanded = np.array([embodiment.action.index(n) for n in names])
        self._order = np.array([embodiment.state.index(n) for n in self._card.joints.names])
        self._last: tuple[int, Array] | None = None
        self._spec = dataclasses.replace(self._inner.spec, embodiment=embodiment)

    @property
    def spec(self) -> PolicySpec:
        """That of the expert, with the robot's own card."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The expert's chunk in joints; the robot is taken up where it stands at the start of an episode.

        Returns:
            values [H, A], joint positions within their limits, grippers as the expert set them.
        """
        state = np.stack([self._pose_state(row) for row in np.asarray(observation.state, float)])
        seen = dataclasses.replace(observation, state=state, embodiment=self._card.hash)
        chunk = self._inner.act(seen, rng=rng, prefix=prefix, goal=goal)
        joints = self._continue(observation)
        values = np.empty((len(chunk.values), len(self._spec.embodiment.action)))
        for row, pose in zip(values, np.asarray(chunk.values, float), strict=True):
            rotation = np.asarray(rotation_6d_to_matrix(pose[self._rotation]))
            position = pose[self._position] - rotation @ self._tool
            joints = self._kinematics.solve(
                joints, position, rotation, iterations=self._iterations, damping=self._damping
            ).q_arm
            row[self._commanded] = joints
            for inner, own in self._ends:
                row[own] = pose[inner]
        step_ns = round(chunk.dt_s * 1e9)
        self._last = (int(observation.time_ns[-1]) + step_ns, values[0, self._commanded])
        return dataclasses.replace(chunk, values=values, embodiment=self._spec.embodiment.hash)

    def _continue(self, observation: Observation) -> Array:
        """[n] joints commanded last, or the measured ones when this observation does not follow by one step."""
        if self._last is not None and abs(self._last[0] - int(observation.time_ns[-1])) <= 1000:
            return self._last[1]
        return np.asarray(observation.state[-1], float)[self._measured]

    def _pose_state(self, joints: Array) -> Array:
        state = self._kinematics.tcp_state(joints[self._order])
        position, rotation = self._card.state.select("ee_position"), self._card.state.select("ee_rotation")
        state[position] += np.asarray(rotation_6d_to_matrix(state[rotation])) @ self._tool
        return state
