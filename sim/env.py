"""The one environment: steps a scene with a robot, on two floors.

The lower floor, :class:`robopolicy.sim.simulated_robot.SimulatedRobot`, is a robot on a virtual clock. The upper floor
is Gymnasium's ``reset`` and ``step`` at ``control_hz``: an action becomes a one-step chunk and goes through the same
:class:`robopolicy.control.executor.Executor` as a policy's chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.control.executor import ControlConfig
from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.seeding import SPLITS
from robopolicy.sim.frame import Frame, Modalities, frame_items, modality_spaces, stack_frames
from robopolicy.sim.point_cloud import PointCloud
from robopolicy.sim.sensors import SENSOR_HISTORY
from robopolicy.sim.simulated_robot import SimulatedRobot
from robopolicy.sim.task import Task
from robopolicy.sim.variants import NOMINAL, Variant, load_variant
from robopolicy.types import ActionChunk, Observation

__all__ = ["Env", "Frame", "make_env"]


class Env(SimulatedRobot, gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """A task on a robot; an episode is a pure function of (task, embodiment, split, index).

    Args:
        task: Registry name, or a task.
        embodiment: Registry name or card.
        controller: Action space that policies command in, see :mod:`robopolicy.sim.controllers.base`; None for that of
            the card, which may be a derived one (``panda@ee_delta``).
        cameras: Cameras that observations contain.
        depth: Cameras whose depth they contain.
        segmentation: Cameras whose geom ids they contain, for debugging.
        point_cloud: Points of the cloud that they contain, 0 for none, or :class:`PointCloud` for more than that.
        sensors: Of :data:`robopolicy.sim.sensors.SENSORS`.
        variant: Noise, latency, light and materials of the episodes, see :mod:`robopolicy.sim.variants`.
        render_profile: ``fast`` or ``stock``.
        meshes: ``never``, ``auto`` or ``always``: whether the robot wears a detailed model's meshes in pictures.
        split: Split that :meth:`reset` takes when it is not told one.
        control: Settings of the executor.
        render_mode: None or ``rgb_array`` (first camera of the card).

    Raises:
        SimulationError: rates that are not multiples of each other; a scene that does not compile.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's own attribute

    def __init__(
        self,
        task: str | Task,
        embodiment: str | Embodiment,
        *,
        controller: str | None = None,
        cameras: Sequence[str] = (),
        depth: Sequence[str] = (),
        segmentation: Sequence[str] = (),
        point_cloud: int | PointCloud = 0,
        sensors: Sequence[str] = (),
        variant: str | Variant = NOMINAL,
        render_profile: str = "fast",
        meshes: str = "never",
        split: str = "train",
        control: ControlConfig | None = None,
        render_mode: str | None = None,
    ):
        points = point_cloud if isinstance(point_cloud, int) else point_cloud.points
        super().__init__(
            task,
            embodiment,
            controller=controller,
            modalities=Modalities(tuple(cameras), tuple(depth), tuple(segmentation), points),
            cloud=point_cloud if isinstance(point_cloud, PointCloud) else PointCloud(max(1, point_cloud)),
            sensors=sensors,
            variant=variant,
            render_profile=render_profile,
            meshes=meshes,
            control=control,
        )
        self.render_mode, self.split, self._steps = render_mode, _known_split(split), 0
        self.action_space = _box(self.card.action.lower, self.card.action.upper)
        self.observation_space = self._observation_space()
        self._start(self.split, 0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start episode ``options["index"]`` of ``options["split"]``, from now on in ``options["variant"]`` if given.

        Without an index the seed is the index; without either, one is drawn from ``np_random``.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        split = _known_split(options.pop("split", self.split))
        index = options.pop("index", seed)
        self.variant = load_variant(options.pop("variant", self.variant))
        if options:
            raise SimulationError(
                explain("unknown reset options", given=sorted(options), allowed=("split", "index", "variant"))
            )
        if index is None:
            index = int(self.np_random.integers(2**31))
        self._start(split, int(index))
        self._steps = 0
        info = {"split": split, "index": int(index), "initial_state": dict(self.initial_state), "success": False}
        info |= self.variation
        return self._observation(), info

    def step(self, action: NDArray[np.floating]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carry out one absolute action [A] in one control step. Reward 1 when the task is done, else 0."""
        info: dict[str, Any] = {"termination": None, "clipped_ticks": 0}
        chunk = ActionChunk(np.asarray(action, float)[None], self.now_ns, self.embodiment.control_dt_s, self.card.hash)
        info["accepted"] = self.submit(chunk).accepted
        try:
            for _ in range(self.ticks_per_step):
                tick = self.tick()
                info["clipped_ticks"] += bool(tick.verdict.bits)
                self.servo(tick.setpoint.position)
        except SimulationError:
            info["termination"] = "unstable"
        self._steps += 1
        if info["termination"] is None:
            info["termination"] = "success" if self.success() else self.failure
        terminated = info["termination"] is not None
        truncated = not terminated and self._steps >= self.task.horizon
        if truncated:
            info["termination"] = "timeout"
        info["success"] = info["termination"] == "success"
        return self._observation(), float(info["success"]), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Picture of the card's first camera when ``render_mode`` is ``rgb_array``."""
        return self.picture(self.embodiment.cameras[0].name) if self.render_mode == "rgb_array" else None

    def show(self, qpos: NDArray[np.floating], time_ns: int) -> None:
        """Put everything at positions [nq] and a time, without simulating."""
        self.data.qpos[:] = qpos
        self._tick = round(time_ns / self.tick_ns)
        mujoco.mj_forward(self.model, self.data)

    def _observation(self) -> dict[str, Any]:
        return frame_items(self.frame())

    def _observation_space(self) -> gymnasium.spaces.Dict:
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": _unbounded(len(self.embodiment.state)),
            "environment_state": _unbounded(len(self.task.environment_state_names)),
        }
        if self.task.goal_names:
            spaces["goal"] = _unbounded(len(self.task.goal_names))
        widths = {name: (SENSOR_HISTORY, len(channels)) for name, channels in self.sensors.channels.items()}
        return gymnasium.spaces.Dict(spaces | modality_spaces(self.embodiment, self.modalities, widths))

    def observe(
        self,
        frames: Sequence[Frame],
        cameras: Sequence[str] = (),
        *,
        modalities: Modalities | None = None,
        sensors: Sequence[str] = (),
        embodiment: str | None = None,
        goal_image: Mapping[str, NDArray[np.uint8]] | None = None,
    ) -> Observation:
        """Frames, oldest first, as the observation of a policy that reads ``modalities`` (or ``cameras`` only).

        ``embodiment`` is the hash of the policy's card, where that is not :attr:`card`; ``goal_image`` what
        :meth:`goal_images` drew when the episode began.
        """
        task = self.task
        return stack_frames(
            frames,
            modalities or Modalities(tuple(cameras)),
            embodiment=embodiment or self.card.hash,
            sensors=sensors,
            language=task.language(),
            environment_names=tuple(task.environment_state_names),
            goal_names=tuple(task.goal_names),
            goal_image=goal_image,
        )


def make_env(task: str, embodiment: str | Embodiment, **settings: Any) -> Env:
    """An :class:`Env`; ``settings`` are its keyword arguments."""
    return Env(task, embodiment, **settings)


def _known_split(split: str) -> str:
    if split not in SPLITS:
        raise SimulationError(explain("no such split", given=repr(split), allowed=SPLITS))
    return split


def _box(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> gymnasium.spaces.Box[np.float32]:
    return gymnasium.spaces.Box(lower.astype(np.float32), upper.astype(np.float32), dtype=np.float32)


def _unbounded(width: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
