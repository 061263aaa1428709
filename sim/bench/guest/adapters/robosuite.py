"""robosuite: one Panda with operational-space control, single-arm manipulation tasks.

Zhu et al., robosuite, 2020. The simulation is made anew for every episode: a reset rebuilds the model with generators
that live on from the episode before. The package brings no expert.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from robopolicy.sim.bench.guest.adapter import (
    Adapter,
    Moment,
    Spec,
    forget_warnings,
    package_versions,
    require_stable,
    seed_everything,
)
from robopolicy.sim.bench.guest.pictures import Pictures

__all__ = ["Robosuite"]

_STATE_KEYS = (("robot0_eef_pos", "xyz"), ("robot0_eef_quat", "xyzw"), ("robot0_gripper_qpos", "rl"))
_STATE = tuple(f"{key.removeprefix('robot0_')}.{part}" for key, parts in _STATE_KEYS for part in parts)
_TASKS = {
    "Lift": "lift the cube",
    "Stack": "stack the red cube on the green one",
    "PickPlaceCan": "put the can into its bin",
    "NutAssemblySquare": "put the square nut on its peg",
    "Door": "open the door",
    "ToolHang": "assemble the frame and hang up the tool",
}
_HORIZON = 400


class Robosuite(Adapter):
    """Tasks of a single arm."""

    def __init__(self) -> None:
        import robosuite

        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
        self._robosuite = robosuite
        self._env: Any = None
        self._pictures: Pictures | None = None

    def versions(self) -> dict[str, str]:
        """The package and what its physics rests on."""
        return package_versions("robosuite", "mujoco", "numba", "scipy")

    def tasks(self) -> list[str]:
        """Those that a single Panda does."""
        return sorted(_TASKS)

    def make(self, task: str, render_profile: str) -> Spec:
        """Built once to be looked at."""
        self._task, self._profile = task, render_profile
        observed = self._build(0)
        lower, upper = self._env.action_spec
        assert self._pictures is not None
        return Spec(
            state=_STATE,
            environment_state=tuple(f"objects.{i}" for i in range(len(self._objects(observed)))),
            action_lower=tuple(float(v) for v in lower),
            action_upper=tuple(float(v) for v in upper),
            rest=(*([0.0] * (len(lower) - 1)), None),
            control_hz=20.0,
            horizon=_HORIZON,
            instruction=_TASKS[task],
            cameras=self._pictures.names(),
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """A new simulation from ``seed``."""
        observed = self._build(seed)
        data = self._env.sim.data._data
        forget_warnings(data)
        initial = {f"qpos.{i}": float(v) for i, v in enumerate(data.qpos)}
        rest = (*([0.0] * (self._env.action_dim - 1)), -1.0)
        return Moment(self._state(observed), self._objects(observed), initial_state=initial, rest=rest)

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success as the package checks it."""
        observed, reward, terminated, _ = self._env.step(action)
        require_stable(self._env.sim.data._data)
        success = bool(self._env._check_success())
        return Moment(self._state(observed), self._objects(observed), float(reward), bool(terminated), False, success)

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """A camera of the scene."""
        assert self._pictures is not None
        return self._pictures.picture(camera, height, width)

    def close(self) -> None:
        """Free scene and contexts."""
        if self._pictures is not None:
            self._pictures.close()
        if self._env is not None:
            self._env.close()
        self._env = self._pictures = None

    def _build(self, seed: int) -> dict[str, Any]:
        self.close()
        seed_everything(seed)
        self._env = self._robosuite.make(
            self._task,
            robots="Panda",
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            ignore_done=True,
            control_freq=20,
            horizon=_HORIZON,
            seed=seed,
        )
        observed: dict[str, Any] = self._env.reset()
        self._pictures = Pictures(self._env.sim.model._model, self._env.sim.data._data, self._profile)
        return observed

    @staticmethod
    def _state(observed: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.asarray(observed[key], float) for key, _ in _STATE_KEYS])

    @staticmethod
    def _objects(observed: dict[str, Any]) -> np.ndarray:
        return np.asarray(observed.get("object-state", np.zeros(0)), float).reshape(-1)
