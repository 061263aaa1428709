"""The expert of a task as a policy of the daemon."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import Policy, PolicySpec
from robopolicy.sim.env import Env
from robopolicy.types import ActionChunk, Observation

__all__ = ["PatientExpert", "expert"]


class PatientExpert:
    """A task's expert with its one-step target held for a few steps more.

    In simulation its target is carried out at once. Here it arrives after the lookahead, when the one step that
    it was meant for is nearly over; the held steps are what the arm then follows.

    Args:
        policy: The expert.
        steps: Length of a chunk.
    """

    def __init__(self, policy: Policy, steps: int = 5):
        self._policy, self._steps = policy, steps

    @property
    def spec(self) -> PolicySpec:
        """Needs of the expert."""
        return replace(self._policy.spec, prediction_horizon=self._steps)

    def act(
        self, observation: Observation, *, rng: Any, prefix: ActionChunk | None = None, goal: Any = None
    ) -> ActionChunk:
        """The expert's target [steps, A], held."""
        chunk = self._policy.act(observation, rng=rng)
        return replace(chunk, values=np.repeat(chunk.values[-1:], self._steps, axis=0), valid=None, horizon=1)


def expert(embodiment: Embodiment, task: str = "pick_place") -> Policy:
    """The scripted expert of a task, which reads the privileged state only."""
    # a scene of its own: experts in joint space plan on the kinematics of the model
    env = Env(task, embodiment)
    return PatientExpert(env.task.expert(env))
