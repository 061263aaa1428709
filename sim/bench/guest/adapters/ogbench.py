"""OGBench manipulation: a UR5e with cubes, a scene of drawer, window and buttons, or a puzzle of buttons.

Park et al., OGBench, ICLR 2025. Episodes of ``val`` and ``test`` are the benchmark's evaluation: task ``index mod 5``
of its five, success as it defines it. Episodes of ``train`` are its data collection: a random scene and one random
sub-goal, which its oracles solve. The goal is observed in its oracle representation (positions and states of objects);
what a sub-goal does not name is to stay as it was.
"""

from __future__ import annotations

import importlib
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
from robopolicy.sim.bench.guest.adapters.ogbench_cubes import CubeChooser
from robopolicy.sim.bench.guest.pictures import Pictures

__all__ = ["OGBench"]

_PROPRIO = 19
_STATE = (
    *(f"joint_position.{i}" for i in range(6)),
    *(f"joint_velocity.{i}" for i in range(6)),
    *(f"effector.{axis}" for axis in "xyz"),
    "effector_yaw.cos",
    "effector_yaw.sin",
    "gripper_closing",
    "gripper_contact",
)
_GOALS = 5


class OGBench(Adapter):
    """The manipulation tasks of one installed OGBench."""

    def __init__(self) -> None:
        import gymnasium
        import ogbench.manipspace  # noqa: F401 - registers the environments

        self._gymnasium = gymnasium
        self._envs: dict[str, Any] = {}
        self._pictures: dict[str, Pictures] = {}

    def versions(self) -> dict[str, str]:
        """OGBench and what its physics rests on."""
        return package_versions("ogbench", "mujoco", "dm_control", "gymnasium")

    def tasks(self) -> list[str]:
        """``cube-single-v0`` and its like, without the variants that observe pixels or a single goal."""
        kinds = ("cube-", "scene-v", "puzzle-")
        return sorted(n for n in self._gymnasium.registry if n.startswith(kinds) and "singletask" not in n)

    def make(self, task: str, render_profile: str) -> Spec:
        """The task twice: as it is evaluated, and as its data are collected."""
        self.close()
        self._task, self._profile = task, render_profile
        for mode in ("task", "data_collection"):
            self._envs[mode] = self._build(mode)
        env = self._env = self._envs["task"]
        self._choose(env, 0, 0)
        objects = len(env.compute_observation()) - _PROPRIO
        goal = len(env.compute_oracle_observation())
        return Spec(
            state=_STATE,
            environment_state=(*(f"objects.{i}" for i in range(objects)), *(f"goal.{i}" for i in range(goal))),
            action_lower=(-1.0,) * 5,
            action_upper=(1.0,) * 5,
            rest=(0.0,) * 5,
            control_hz=20.0,
            horizon=int(self._gymnasium.spec(task).max_episode_steps or 1000),
            instruction=task.rpartition("-v")[0].replace("-", " "),
            cameras=self._pictures["task"].names(),
            expert=True,
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """Goal ``index mod 5`` of the evaluation, or for ``train`` a random scene with a random sub-goal."""
        import mujoco

        mode = "data_collection" if split == "train" else "task"
        self._mode, self._env = mode, self._envs[mode]
        env = self._env
        self._choose(env, index % _GOALS, seed)
        # What the steps inside a reset left behind and a solver would start from.
        env._data.qacc_warmstart[:] = 0
        forget_warnings(env._data)
        mujoco.mj_forward(env._model, env._data)
        self._goal = self._wanted()
        self._oracle: Any = None
        self._cubes = CubeChooser(env) if self._task.startswith("cube") else None
        initial = {f"qpos.{i}": float(v) for i, v in enumerate(env._data.qpos)}
        initial |= {f"goal.{i}": float(v) for i, v in enumerate(self._goal)}
        state, objects = self._observed()
        return Moment(state, objects, initial_state=initial, rest=(0.0,) * 5)

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success as the benchmark's ``info`` says."""
        _, reward, terminated, truncated, info = self._env.step(action)
        require_stable(self._env._data)
        state, objects = self._observed()
        return Moment(state, objects, float(reward), bool(terminated), bool(truncated), bool(info["success"]))

    def expert(self) -> np.ndarray:
        """The oracle of the sub-goal; with several cubes to place, of one after the other.

        Raises:
            LookupError: the goals of this task are more than one sub-goal, and nothing here plans their order.
        """
        info = self._env.compute_ob_info()
        if self._cubes is not None:
            target = None if self._mode == "data_collection" else self._cubes.choose(info)
            if target is not None:
                info["privileged/target_block"], info["privileged/target_block_pos"] = target
            # Success does not look at the yaw, so the expert goes for one that does not have to be known.
            info["privileged/target_block_yaw"] = np.zeros(1)
            kind, key = "cube", info["privileged/target_block"]
        elif self._mode == "data_collection":
            kind, key = info["privileged/target_task"], 0
            if kind == "cube":
                info["privileged/target_block_yaw"] = np.zeros(1)
        else:
            raise LookupError(f"'{self._task}' has an expert for the sub-goals of the split train only")
        if self._oracle is None or self._oracle[:2] != (kind, key):
            closed = {"gripper_always_closed": True} if self._task.startswith("puzzle") else {}
            self._oracle = (kind, key, _oracle(kind)(env=self._env, **closed))
            self._oracle[2].reset(None, info)
        return np.asarray(self._oracle[2].select_action(None, info), float)

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """A camera of the scene."""
        return self._pictures[self._mode].picture(camera, height, width)

    def close(self) -> None:
        """Free scenes and contexts."""
        for pictures in self._pictures.values():
            pictures.close()
        self._pictures.clear()
        self._envs.clear()

    def _build(self, mode: str) -> Any:
        env: Any = self._gymnasium.make(self._task, mode=mode, disable_env_checker=True).unwrapped
        own: Any = type(env)
        # A reset takes steps with actions drawn from a fresh space, which nobody can seed from outside.
        drawn = {"seed": 0}

        def action_space(found: Any) -> Any:
            space = own.action_space.fget(found)
            drawn["seed"] += 1
            space.seed(drawn["seed"])
            return space

        env.__class__ = type(own.__name__, (own,), {"action_space": property(action_space)})
        env._drawn = drawn
        self._choose(env, 0, 0)
        self._pictures[mode] = Pictures(env._model, env._data, self._profile)
        return env

    @staticmethod
    def _choose(env: Any, goal: int, seed: int) -> None:
        seed_everything(seed)
        env._drawn["seed"] = seed
        for name in ("_target_button_states", "_cur_button_states"):
            if hasattr(env, name):
                getattr(env, name)[:] = 0
        for name in ("_target_block", "_target_button"):
            if hasattr(env, name):
                setattr(env, name, 0)
        env.reset(seed=seed, options={"task_id": goal + 1})

    def _wanted(self) -> np.ndarray:
        """The goal in the benchmark's oracle representation."""
        env = self._env
        wanted = env.compute_oracle_observation().copy()
        whole = self._mode == "task"
        subgoal = None if whole else env._target_task
        cubes = getattr(env, "_num_cubes", 0)
        for i in range(cubes):
            if whole or (subgoal == "cube" and i == env._target_block):
                place = env._data.mocap_pos[env._cube_target_mocap_ids[i]]
                wanted[3 * i : 3 * i + 3] = (place - np.array([0.425, 0.0, 0.0])) * 10.0
        if not hasattr(env, "_num_buttons"):
            return np.asarray(wanted, float)
        return self._with_fixtures(wanted, 3 * cubes, whole, subgoal)

    def _with_fixtures(self, wanted: np.ndarray, at: int, whole: bool, subgoal: str | None) -> np.ndarray:
        env = self._env
        for i in range(env._num_buttons):
            if whole or (subgoal == "button" and i == env._target_button):
                wanted[at + i] = env._target_button_states[i]
        at += env._num_buttons
        for name, scale in (("drawer", 18.0), ("window", 15.0)):
            if hasattr(env, f"_target_{name}_pos"):
                if whole or subgoal == name:
                    wanted[at] = getattr(env, f"_target_{name}_pos") * scale
                at += 1
        return np.asarray(wanted, float)

    def _observed(self) -> tuple[np.ndarray, np.ndarray]:
        whole = np.asarray(self._env.compute_observation(), float)
        return whole[:_PROPRIO], np.concatenate([whole[_PROPRIO:], self._goal])


def _oracle(kind: str) -> Any:
    """The Markov oracle of one kind of sub-goal."""
    module = importlib.import_module(f"ogbench.manipspace.oracles.markov.{kind}_markov")
    return getattr(module, f"{kind.capitalize()}MarkovOracle")
