"""What collecting demonstrations of a benchmark's expert needs besides :mod:`robopolicy.sim.collect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.sim.bench.benchmark import benchmark_of
from robopolicy.types import ActionChunk

__all__ = ["BenchDemonstration", "BenchNoise", "benchmark_noise", "environment_state_names"]


@dataclass(frozen=True)
class BenchNoise:
    """White Gaussian noise on what is executed, in the benchmark's own action units; labels stay clean (DART).

    Attributes:
        deviation: Standard deviation, as a share of half a channel's range.
        channels: Positions of the channels that get it.
    """

    deviation: float
    channels: tuple[int, ...]

    def on(self, embodiment: Embodiment) -> Callable[[ActionChunk, np.random.Generator], ActionChunk]:
        """The perturbation of one episode; draws once per channel and chunk, and nothing without noise."""
        half = 0.5 * (embodiment.action.upper - embodiment.action.lower)
        columns = list(self.channels)

        def perturb(chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
            if not self.deviation:
                return chunk
            values = np.array(chunk.values, float)
            values[:, columns] += self.deviation * half[columns] * rng.standard_normal(len(columns))
            return dataclasses.replace(chunk, values=values)

        return perturb


def benchmark_noise(task: str, card: Embodiment, asked: Any, share: float | None = None) -> BenchNoise | None:
    """Noise for a benchmark, None for a task of this project.

    Args:
        task: Any task name.
        card: The robot; channels whose name holds ``gripper`` stay clean.
        asked: What the user set for tasks of this project; zero in both entries switches the noise off here, too.
        share: In the place of the deviation that the benchmark's YAML names.

    Raises:
        ConfigError: a share for a task of this project.
    """
    found = benchmark_of(task)
    if found is None:
        if share is not None:
            mend = "set action_noise.position_m and action_noise.rotation_rad"
            raise ConfigError(
                explain("action_noise.share belongs to benchmarks", given=f"{share} for {task}", mend=mend)
            )
        return None
    wanted = asked.position_m or asked.rotation_rad
    moved = tuple(i for i, name in enumerate(card.action.names) if "gripper" not in name)
    return BenchNoise((found[0].collect_noise if share is None else share) if wanted else 0.0, moved)


def environment_state_names(task: str, card: Embodiment) -> tuple[str, ...]:
    """[E] names of the privileged state; starts a benchmark's process to ask it."""
    if benchmark_of(task) is None:
        from robopolicy.sim.task import load_task

        return tuple(load_task(task, card.name).environment_state_names)
    from robopolicy.sim.bench.env import BenchEnv

    env = BenchEnv(task, card)
    try:
        return env.task.environment_state_names
    finally:
        env.close()


class BenchDemonstration:
    """Collects the streams of one demonstration of a robot without recorded joints, one row per control step.

    Args:
        cameras: Cameras to record.
    """

    def __init__(self, cameras: tuple[str, ...] = ()):
        self._cameras = cameras
        self._rows: dict[str, list[NDArray[Any]]] = {}

    def cameras(self, step: int) -> tuple[str, ...]:
        """All of them, at every step."""
        return self._cameras

    def step(self, frame: Any, chunk: ActionChunk | None, joint_command: object) -> None:
        """Append one row; the label is the chunk's first action, before any perturbation.

        Raises:
            SimulationError: the policy was not asked at this step, so there is no label.
        """
        if chunk is None:
            raise SimulationError(
                explain("a demonstration needs an action at every control step", mend="record a policy with Ta = 1")
            )
        row: dict[str, NDArray[Any]] = {"state": frame.state}
        if frame.environment_state.size:
            row["environment_state"] = frame.environment_state
        row["action"] = np.asarray(chunk.values[0], np.float32)
        row["time_ns"] = np.asarray(frame.time_ns, np.int64)
        row |= {f"image/{name}": frame.image[name] for name in self._cameras}
        for name, value in row.items():
            self._rows.setdefault(name, []).append(value)

    def streams(self) -> dict[str, NDArray[Any]]:
        """Each stream as one array [N, ...]."""
        return {name: np.stack(rows) for name, rows in self._rows.items()}
