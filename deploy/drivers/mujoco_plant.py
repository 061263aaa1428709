"""A MuJoCo scene with a task as the body of a simulated robot, and the task's expert as a policy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.drivers.plant import Sensed
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import Policy, PolicySpec
from robopolicy.sim.env import Env
from robopolicy.sim.gl import choose_backend
from robopolicy.sim.task import load_task
from robopolicy.types import ActionChunk, Observation

__all__ = ["MujocoPlant", "PatientExpert", "expert"]

Vector = NDArray[np.float64]


class MujocoPlant:
    """A :class:`~robopolicy.deploy.drivers.plant.Plant` on :class:`robopolicy.sim.env.Env`.

    Args:
        card: The robot.
        task: Task of the scene.
        cameras: Cameras to render with each frame.
    """

    def __init__(self, card: Embodiment, *, task: str, cameras: tuple[str, ...] = ()):
        if cameras:
            choose_backend()
        self._env, self._cameras = Env(task, card), cameras
        self.horizon = self._env.task.horizon
        self.initial_state = list(self._env.initial_state.values())

    def reset(self, split: str, index: int) -> None:
        """Set up the scene that evaluation calls ``(split, index)``."""
        self._env.reset(options={"split": split, "index": index})
        self.initial_state = list(self._env.initial_state.values())

    def servo(self, target: Vector) -> None:
        """Advance one tick of ``setpoint_hz``."""
        self._env.servo(target)

    def measure(self) -> tuple[Vector, Vector]:
        """(position [J], velocity [J]) now."""
        state = self._env.robot_state()
        return np.asarray(state.position, float), np.asarray(state.velocity, float)

    def sense(self) -> Sensed:
        """A sensor frame of now."""
        frame = self._env.frame(cameras=self._cameras)
        return Sensed(
            frame.state, frame.joint_position, frame.environment_state, frame.image, bool(self._env.success())
        )

    def close(self) -> None:
        """Free the renderer."""
        self._env.close()


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
    return PatientExpert(load_task(task, embodiment.name).expert(SimpleNamespace(embodiment=embodiment)))  # type: ignore[arg-type]
