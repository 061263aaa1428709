"""Push-T of gym-pusht: a disc pushes a T onto its outline. Lengths in pixels of the 512 x 512 plane.

Florence et al., Implicit Behavioral Cloning, CoRL 2021; Chi et al., Diffusion Policy, RSS 2023. The package brings no
expert.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.sim.bench.guest.adapter import Adapter, Moment, Spec, package_versions, seed_everything

__all__ = ["PushT"]


class PushT(Adapter):
    """One task; an episode is a random place of the disc and of the T."""

    def __init__(self) -> None:
        self._env: Any = None

    def versions(self) -> dict[str, str]:
        """The package and what its physics and pictures rest on."""
        return package_versions("gym-pusht", "pymunk", "shapely", "pygame", "opencv-python", "gymnasium")

    def tasks(self) -> list[str]:
        """The only one."""
        return ["pusht-v0"]

    def make(self, task: str, render_profile: str) -> Spec:
        """Built anew; there is only one way to draw it."""
        import gym_pusht  # noqa: F401 - registers the environment
        import gymnasium

        self.close()
        self._env = gymnasium.make(
            "gym_pusht/PushT-v0", obs_type="state", render_mode="rgb_array", disable_env_checker=True
        ).unwrapped
        return Spec(
            state=("agent.x", "agent.y"),
            environment_state=("block.x", "block.y", "block_angle.cos", "block_angle.sin"),
            action_lower=(0.0, 0.0),
            action_upper=(512.0, 512.0),
            rest=(None, None),
            control_hz=10.0,
            horizon=300,
            instruction="push the T onto its outline",
            cameras=("top",),
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """Disc and T are drawn from ``seed``; the benchmark builds its world anew."""
        seed_everything(seed)
        observed, _ = self._env.reset(seed=seed)
        self._env._last_action = None
        names = ("agent.x", "agent.y", "block.x", "block.y", "block_angle")
        initial = {name: float(value) for name, value in zip(names, observed, strict=True)}
        state, environment = self._split(observed)
        return Moment(state, environment, initial_state=initial, rest=(float(observed[0]), float(observed[1])))

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success is an overlap above 0.95."""
        observed, reward, terminated, truncated, info = self._env.step(action)
        state, environment = self._split(observed)
        # areas of shapes are added up in an order that differs from process to process
        metrics = {"coverage": round(float(info["coverage"]), 9)}
        success = bool(info["is_success"])
        return Moment(state, environment, float(reward), bool(terminated), bool(truncated), success, metrics=metrics)

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """The plane from above, as observed in pixels."""
        env = self._env
        env.observation_height, env.observation_width = height, width
        return np.ascontiguousarray(env._render(visualize=False))

    def close(self) -> None:
        """Free the world."""
        if self._env is not None:
            self._env.close()
        self._env = None

    @staticmethod
    def _split(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, block_x, block_y, angle = (float(value) for value in observed)
        return np.array([x, y]), np.array([block_x, block_y, np.cos(angle), np.sin(angle)])
