"""Meta-World v3 (MT1 form: goal observed), its fifty tasks and their scripted experts.

Yu et al., Meta-World, CoRL 2019; McLean et al., Meta-World+, 2025. What a plain ``reset`` leaves over from the episode
before (python attributes, poses inside the model, the draw of a goal that goes on from the last one) is put back here:
the model and every attribute return to what they were after construction, then one seeded draw makes goal and objects.
"""

from __future__ import annotations

import copy
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

__all__ = ["MetaWorld"]

_HAND, _OBJECTS, _GOAL = slice(0, 4), slice(4, 18), slice(36, 39)
"""Of the 39 numbers of an observation; 18 to 36 repeat the step before."""
_STATE = ("hand_position.x", "hand_position.y", "hand_position.z", "gripper_opening")
_OBJECT = tuple(f"object{k}.{name}" for k in (1, 2) for name in ("x", "y", "z", "quat.0", "quat.1", "quat.2", "quat.3"))
_GOAL_NAMES = ("goal.x", "goal.y", "goal.z")
_PLAIN = (bool, int, float, str, type(None), np.ndarray, np.generic)


class MetaWorld(Adapter):
    """All tasks of one installed Meta-World."""

    def __init__(self) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        self._environments, self._experts = ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP
        self._env: Any = None
        self._pictures: Pictures | None = None

    def versions(self) -> dict[str, str]:
        """Meta-World and what its physics rests on."""
        return package_versions("metaworld", "mujoco", "gymnasium", "scipy")

    def tasks(self) -> list[str]:
        """``reach-v3`` and the other forty-nine."""
        return sorted(self._environments)

    def make(self, task: str, render_profile: str) -> Spec:
        """A single task with its goal observed."""
        self.close()
        seed_everything(0)
        env = self._environments[task]()
        env._partially_observable = False  # as in MT1: the goal is part of the observation
        # Cached while the goal was hidden: its bounds would clip every observed goal to zero.
        env.__dict__.pop("sawyer_observation_space", None)
        env._set_task_called = True
        self._env, self._policy_class = env, self._experts[task]
        self._pictures = Pictures(env.model, env.data, render_profile)
        self._keep()
        return Spec(
            state=_STATE,
            environment_state=_OBJECT + _GOAL_NAMES,
            action_lower=(-1.0,) * 4,
            action_upper=(1.0,) * 4,
            rest=(0.0, 0.0, 0.0, None),
            control_hz=float(round(1.0 / env.dt, 6)),
            horizon=int(env.max_path_length),
            instruction=task.rpartition("-v3")[0].replace("-", " "),
            cameras=self._pictures.names(),
            expert=True,
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """Goal and objects are drawn from ``seed``; nothing of an earlier episode is left."""
        env = self._env
        self._put_back()
        seed_everything(seed)
        env.seed(seed)
        # The benchmark's own way to a task: draw once with the tasks' distribution, then hold the draw.
        env._freeze_rand_vec, env.seeded_rand_vec = False, True
        env.reset()
        drawn = np.array(env._last_rand_vec, float)
        self._put_back()
        seed_everything(seed)
        env._freeze_rand_vec, env._last_rand_vec = True, drawn.copy()
        forget_warnings(env.data)
        self._observation, _ = env.reset()
        self._policy = self._policy_class()
        initial = {f"draw.{i}": float(v) for i, v in enumerate(drawn)}
        initial |= {f"qpos.{i}": float(v) for i, v in enumerate(env.data.qpos)}
        return Moment(
            self._observation[_HAND], self._environment_state(), initial_state=initial, rest=(0.0, 0.0, 0.0, -1.0)
        )

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success as the benchmark's ``info`` says."""
        self._observation, reward, terminated, truncated, info = self._env.step(action.astype(np.float32))
        require_stable(self._env.data)
        if self._env._did_see_sim_exception:
            raise FloatingPointError("the physics of Meta-World diverged")
        return Moment(
            self._observation[_HAND],
            self._environment_state(),
            float(reward),
            bool(terminated),
            bool(truncated),
            bool(info["success"]),
            metrics={"obj_to_target": float(info["obj_to_target"])},
        )

    def expert(self) -> np.ndarray:
        """The scripted policy of the task, on the whole observation."""
        return np.asarray(self._policy.get_action(self._observation), float)

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

    def _environment_state(self) -> np.ndarray:
        return np.concatenate([self._observation[_OBJECTS], self._observation[_GOAL]])

    def _keep(self) -> None:
        """Remember model and attributes as they are after construction."""
        model = self._env.model
        self._model_arrays = {
            name: value.copy()
            for name in dir(model)
            if not name.startswith("_")
            and isinstance(value := getattr(model, name), np.ndarray)
            and value.flags.writeable
            and name.partition("_")[0] in ("body", "site", "geom", "jnt", "dof", "qpos0", "mocap", "cam", "light")
        }
        self._attributes = {
            name: copy.deepcopy(value) for name, value in vars(self._env).items() if isinstance(value, (*_PLAIN, dict))
        }
        self._kept = set(vars(self._env))

    def _put_back(self) -> None:
        import mujoco

        env = self._env
        for name in set(vars(env)) - self._kept - {"_np_random", "_np_random_seed"}:
            delattr(env, name)
        for name, value in self._attributes.items():
            setattr(env, name, copy.deepcopy(value))
        for name, value in self._model_arrays.items():
            getattr(env.model, name)[:] = value
        mujoco.mj_resetData(env.model, env.data)
        mujoco.mj_forward(env.model, env.data)
