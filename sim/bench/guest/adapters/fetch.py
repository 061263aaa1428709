"""Fetch of gymnasium-robotics: reach, push, slide, pick-and-place towards a goal position.

Plappert et al., Multi-Goal Reinforcement Learning, 2018. A reset keeps mocap body and solver state of the episode
before, so the whole simulation state of the first moment is put back here first. The package brings no expert.
"""

from __future__ import annotations

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

__all__ = ["Fetch"]

_STATE = (
    *(f"grip_position.{axis}" for axis in "xyz"),
    *("finger.right", "finger.left"),
    *(f"grip_velocity.{axis}" for axis in "xyz"),
    *("finger_velocity.right", "finger_velocity.left"),
)
_WITH_OBJECT = np.array([0, 1, 2, 9, 10, 20, 21, 22, 23, 24])
"""Where :data:`_STATE` is in an observation of 25 numbers; of 10 numbers it is all."""
_OBJECT = (
    *(f"object_position.{axis}" for axis in "xyz"),
    *(f"object_from_grip.{axis}" for axis in "xyz"),
    *(f"object_rotation.{axis}" for axis in "xyz"),
    *(f"object_velocity.{axis}" for axis in "xyz"),
    *(f"object_spin.{axis}" for axis in "xyz"),
)
_GOAL = ("goal.x", "goal.y", "goal.z")


class Fetch(Adapter):
    """The four tasks with a sparse reward."""

    def __init__(self) -> None:
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
        self._gymnasium = gymnasium
        self._env: Any = None
        self._pictures: Pictures | None = None

    def versions(self) -> dict[str, str]:
        """The package and what its physics rests on."""
        return package_versions("gymnasium-robotics", "mujoco", "gymnasium")

    def tasks(self) -> list[str]:
        """Version 4, the one whose resets are mended."""
        return ["FetchPickAndPlace-v4", "FetchPush-v4", "FetchReach-v4", "FetchSlide-v4"]

    def make(self, task: str, render_profile: str) -> Spec:
        """Built anew."""
        import mujoco

        self.close()
        seed_everything(0)
        env: Any = self._gymnasium.make(task, disable_env_checker=True).unwrapped
        self._env = env
        env.reset(seed=0)
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._start = np.empty(mujoco.mj_stateSize(env.model, self._kind))
        mujoco.mj_getState(env.model, env.data, self._start, self._kind)
        self._pictures = Pictures(env.model, env.data, render_profile)
        self._has_object = len(env._get_obs()["observation"]) == len(_STATE) + len(_OBJECT)
        return Spec(
            state=_STATE,
            environment_state=(_OBJECT if self._has_object else ()) + _GOAL,
            action_lower=(-1.0,) * 4,
            action_upper=(1.0,) * 4,
            rest=(0.0, 0.0, 0.0, None),
            control_hz=float(round(1.0 / env.dt, 6)),
            horizon=int(self._gymnasium.spec(task).max_episode_steps or 50),
            instruction={"Reach": "reach the goal", "Slide": "slide the puck to the goal"}.get(
                task.partition("-")[0].removeprefix("Fetch"), "bring the block to the goal"
            ),
            cameras=self._pictures.names(),
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """Object and goal are drawn from ``seed``."""
        import mujoco

        env = self._env
        mujoco.mj_setState(env.model, env.data, self._start, self._kind)
        mujoco.mj_forward(env.model, env.data)
        forget_warnings(env.data)
        seed_everything(seed)
        observed, _ = env.reset(seed=seed)
        env.data.qacc_warmstart[:] = 0
        state, environment = self._split(observed)
        initial = {f"qpos.{i}": float(v) for i, v in enumerate(env.data.qpos)}
        initial |= {name: float(v) for name, v in zip(_GOAL, observed["desired_goal"], strict=True)}
        return Moment(state, environment, initial_state=initial, rest=(0.0,) * 4)

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success is less than 5 cm between object (or gripper) and goal."""
        observed, reward, terminated, truncated, info = self._env.step(action)
        require_stable(self._env.data)
        state, environment = self._split(observed)
        distance_m = float(np.linalg.norm(observed["achieved_goal"] - observed["desired_goal"]))
        success = bool(info["is_success"])
        metrics = {"goal_distance_m": distance_m}
        return Moment(state, environment, float(reward), bool(terminated), bool(truncated), success, metrics=metrics)

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

    def _split(self, observed: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        whole, goal = np.asarray(observed["observation"], float), np.asarray(observed["desired_goal"], float)
        if not self._has_object:
            return whole, goal
        return whole[_WITH_OBJECT], np.concatenate([np.delete(whole, _WITH_OBJECT), goal])
