"""Many episodes of a policy in worker processes; the same results for any number of workers and any order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.control.executor import ControlConfig
from robopolicy.control.latency import LatencyModel
from robopolicy.embodiment import Embodiment
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.protocols import Policy
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.record import VideoRecorder
from robopolicy.sim.workers import map_episodes

__all__ = ["PolicyFactory", "expert_policy", "rollout"]

PolicyFactory = Callable[[Env], Policy]
"""Picklable; builds the policy inside a worker."""


def expert_policy(env: Env) -> Policy:
    """The factory of the task's scripted expert."""
    return env.task.expert(env)


def rollout(
    factory: PolicyFactory,
    *,
    task: str,
    embodiment: str | Embodiment,
    split: str = "test",
    episodes: Iterable[int] = range(100),
    workers: int = 1,
    latency: LatencyModel | float | Mapping[str, Any] | Sequence[float] = 0.0,
    control: ControlConfig | None = None,
    render_profile: str = "fast",
    max_steps: int | None = None,
    video_dir: Path | str | None = None,
    videos: Collection[int] = (),
    video_camera: str | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Run a policy on the given episodes.

    Args:
        factory: Builds the policy in each worker.
        task: Registry name.
        embodiment: Registry name or card.
        split: ``train``, ``val`` or ``test``.
        episodes: Indices; repeated ones are run once.
        workers: Processes.
        latency: What :meth:`LatencyModel.from_config` takes; a number is milliseconds.
        control: Settings of the executor.
        render_profile: ``fast`` or ``stock``, for the policy's cameras.
        max_steps: Control steps at most; the task's horizon by default.
        video_dir: Folder for ``<index>.webp``; no videos without it.
        videos: Indices to film.
        video_camera: Camera to film with; the card's first by default.
        progress: Called with each result as it arrives, in the order of arrival.

    Returns:
        Results sorted by index.

    Raises:
        SimulationError: a worker failed.
        KeyboardInterrupt: after every worker has been ended.
    """
    job = _Job(
        factory=factory,
        task=task,
        embodiment=embodiment,
        split=split,
        latency=LatencyModel.from_config(latency),
        control=control,
        render_profile=render_profile,
        max_steps=max_steps,
        video_dir=None if video_dir is None else Path(video_dir),
        videos=frozenset(videos),
        video_camera=video_camera,
    )
    results = []
    for _, result in map_episodes(job, sorted(set(episodes)), workers):
        results.append(result)
        if progress is not None:
            progress(result)
    return sorted(results, key=lambda result: result.index)


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know; calling it in the worker builds environment and policy once."""

    factory: PolicyFactory
    task: str
    embodiment: str | Embodiment
    split: str
    latency: LatencyModel
    control: ControlConfig | None
    render_profile: str
    max_steps: int | None
    video_dir: Path | None
    videos: frozenset[int]
    video_camera: str | None

    def __call__(self) -> Callable[[int], EpisodeResult]:
        env = Env(
            self.task, self.embodiment, render_profile=self.render_profile, split=self.split, control=self.control
        )
        policy = self.factory(env)

        def run(index: int) -> EpisodeResult:
            film = self.video_dir is not None and index in self.videos
            camera = self.video_camera or (env.embodiment.cameras[0].name if film else "")
            recorder = VideoRecorder(camera, env.embodiment.control_hz) if film else None
            result = run_episode(
                env,
                policy,
                split=self.split,
                index=index,
                control_latency=self.latency,
                record=recorder,
                max_steps=self.max_steps,
            )
            if recorder is None or self.video_dir is None:
                return result
            path = recorder.save(self.video_dir / f"{index}.webp")
            return dataclasses.replace(result, video=f"{self.video_dir.name}/{path.name}")

        return run
