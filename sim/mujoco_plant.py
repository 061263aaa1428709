"""A MuJoCo scene with a task as the body that a simulated controller moves."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.env import Env
from robopolicy.sim.gl import choose_backend
from robopolicy.sim.plant import Sensed

__all__ = ["MujocoPlant"]

Vector = NDArray[np.float64]


class MujocoPlant:
    """A :class:`~robopolicy.sim.plant.Plant` on :class:`robopolicy.sim.env.Env`.

    Args:
        card: The robot.
        task: Task of the scene.
        cameras: Cameras to render with each frame.
        rate_hz: Calls of :meth:`servo` per second; the card's ``setpoint_hz`` by default.
    """

    def __init__(self, card: Embodiment, *, task: str, cameras: tuple[str, ...] = (), rate_hz: float | None = None):
        if cameras:
            choose_backend()
        if rate_hz is not None:
            # whoever asks for frames counts them himself, so the control rate only has to divide this one
            control_hz = rate_hz / max(1, round(rate_hz / card.control_hz))
            card = dataclasses.replace(card, setpoint_hz=rate_hz, control_hz=control_hz)
        self._env, self._cameras = Env(task, card), cameras
        self.horizon = self._env.task.horizon
        self.initial_state = list(self._env.initial_state.values())

    def reset(self, split: str, index: int) -> None:
        """Set up the scene that evaluation calls ``(split, index)``."""
        self._env.reset(options={"split": split, "index": index})
        self.initial_state = list(self._env.initial_state.values())

    def servo(self, target: Vector) -> None:
        """Advance one tick."""
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
