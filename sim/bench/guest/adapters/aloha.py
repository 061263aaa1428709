"""ALOHA in simulation (gym-aloha): two ViperX arms hand over a cube, or put a peg into a socket.

Zhao et al., ACT, RSS 2023. The package draws three pictures of 640 x 480 at every step and keeps its start in a
module's variable; here pictures are drawn when asked for, and the start is drawn from the seed of the episode. No
expert inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.sim.bench.guest.adapter import Adapter, Moment, Spec, package_versions, seed_everything
from robopolicy.sim.bench.guest.pictures import Pictures

__all__ = ["Aloha"]

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_ARM = tuple(f"{side}.{joint}" for side in ("left", "right") for joint in (*_JOINTS, "gripper"))
_TASKS = {
    "AlohaTransferCube-v0": ("transfer_cube", ("cube",), "take the cube with the right arm and hand it to the left"),
    "AlohaInsertion-v0": ("insertion", ("peg", "socket"), "put the peg into the socket"),
}
_POSE = ("x", "y", "z", "quat.w", "quat.x", "quat.y", "quat.z")
_LIMIT_RAD = 3.14159


class Aloha(Adapter):
    """Both tasks with joint positions."""

    def __init__(self) -> None:
        import gym_aloha.env

        self._module = gym_aloha.env
        self._env: Any = None
        self._pictures: Pictures | None = None

    def versions(self) -> dict[str, str]:
        """The package and what its physics rests on."""
        return package_versions("gym-aloha", "mujoco", "dm_control", "gymnasium")

    def tasks(self) -> list[str]:
        """Hand-over and insertion."""
        return sorted(_TASKS)

    def make(self, task: str, render_profile: str) -> Spec:
        """Built anew."""
        self.close()
        name, objects, instruction = _TASKS[task]
        seed_everything(0)
        env: Any = self._module.AlohaEnv(name, obs_type="pixels_agent_pos")
        inner = env._env.task
        inner.get_observation = lambda physics: {
            "qpos": inner.get_qpos(physics),
            "env_state": inner.get_env_state(physics),
        }
        env._format_raw_obs = lambda raw: raw
        self._env = env
        model = env._env.physics.model.ptr
        self._pictures = Pictures(model, env._env.physics.data.ptr, render_profile)
        gripper = tuple(channel.endswith("gripper") for channel in _ARM)
        return Spec(
            state=_ARM,
            environment_state=tuple(f"{item}.{part}" for item in objects for part in _POSE),
            action_lower=tuple(0.0 if is_gripper else -_LIMIT_RAD for is_gripper in gripper),
            action_upper=tuple(1.0 if is_gripper else _LIMIT_RAD for is_gripper in gripper),
            rest=(None,) * len(_ARM),
            control_hz=50.0,
            horizon=400,
            instruction=instruction,
            cameras=tuple(name for name in self._pictures.names() if name),
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        """The objects' places are drawn from ``seed``; the arms begin in their usual posture."""
        seed_everything(seed)
        observed, _ = self._env.reset(seed=seed)
        state, environment = self._split(observed)
        initial = {f"objects.{i}": float(v) for i, v in enumerate(environment)}
        return Moment(state, environment, initial_state=initial, rest=tuple(float(v) for v in state))

    def step(self, action: np.ndarray) -> Moment:
        """One control step; success is the highest of the package's stages."""
        from dm_control.rl.control import PhysicsError

        try:
            observed, reward, terminated, truncated, info = self._env.step(action)
        except PhysicsError as error:
            raise FloatingPointError(str(error)) from error
        state, environment = self._split(observed)
        success, stage = bool(info["is_success"]), float(reward)
        return Moment(state, environment, stage, bool(terminated), bool(truncated), success, metrics={"stage": stage})

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """A camera of the scene."""
        assert self._pictures is not None
        return self._pictures.picture(camera, height, width)

    def close(self) -> None:
        """Free scene and contexts."""
        if self._pictures is not None:
            self._pictures.close()
        self._env = self._pictures = None

    @staticmethod
    def _split(observed: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(observed["qpos"], float), np.asarray(observed["env_state"], float)
