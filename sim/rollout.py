"""Many episodes of a policy in worker processes; the same results for any number of workers and any order."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.control.between import BetweenConfig
from robopolicy.control.executor import ControlConfig
from robopolicy.control.latency import LatencyModel
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.protocols import Policy, PolicySpec
from robopolicy.sim.bench.dispatch import simulate
from robopolicy.sim.env import Env
from robopolicy.sim.inference import InferenceServer, RemotePolicy, Slot
from robopolicy.sim.record import VideoRecorder
from robopolicy.sim.workers import map_episodes

__all__ = ["INFERENCE", "PolicyFactory", "expert_policy", "rollout"]

PolicyFactory = Callable[[Env], Policy]
"""Builds the policy for an environment; picklable where workers carry it out."""

INFERENCE = ("worker", "shared", "here")
"""Each worker holds the policy; this process holds it and answers all workers in batches; no workers at all."""

Until = Callable[[Sequence[EpisodeResult]], bool]
Progress = Callable[[EpisodeResult], None]


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
    inference: str = "worker",
    inference_batch: int = 8,
    variant: str = "nominal",
    latency: LatencyModel | float | Mapping[str, Any] | Sequence[float] = 0.0,
    control: ControlConfig | None = None,
    render_profile: str | None = None,
    max_steps: int | None = None,
    continue_after_success_s: float = 0.0,
    between: BetweenConfig | None = None,
    video_dir: Path | str | None = None,
    videos: Collection[int] = (),
    video_camera: str | None = None,
    progress: Progress | None = None,
    until: Until | None = None,
    served: Callable[[str], None] | None = None,
) -> list[EpisodeResult]:
    """Run a policy on the given episodes.

    Args:
        factory: Builds the policy in each worker, or here if it is shared.
        task: Registry name.
        embodiment: Registry name or card.
        split: ``train``, ``val`` or ``test``.
        episodes: Indices, run in this order; repeated ones are run once.
        workers: Processes.
        inference: One of :data:`INFERENCE`. The last bits of a batch differ from those of a single observation.
        inference_batch: Rows of every pass of a shared policy.
        variant: Name of the variant of the simulation.
        latency: What :meth:`LatencyModel.from_config` takes; a number is milliseconds.
        control: Settings of the executor.
        render_profile: ``fast`` or ``stock``, for the policy's cameras; None: fast, a benchmark's own for a benchmark.
        max_steps: Control steps at most; the task's horizon by default.
        continue_after_success_s: How long an episode goes on after its first success.
        between: How one chunk follows another, see :mod:`robopolicy.control.between`; ``naive`` by default.
        video_dir: Folder for ``<index>.webp``; no videos without it.
        videos: Indices to film.
        video_camera: Camera to film with; the card's first by default.
        progress: Called with each result as it arrives, in the order of arrival.
        until: Asked with the results of the first n episodes (by the order of ``episodes``) for n = 1, 2, ... without
            gaps; once it says True, these are all. Neither workers nor the order of arrival change what it sees.
        served: Told at the end, in words, how a shared policy answered.

    Returns:
        Results sorted by index.

    Raises:
        ConfigError: an unknown kind of inference.
        SimulationError: a worker failed.
        KeyboardInterrupt: after every worker has been ended.
    """
    if inference not in INFERENCE:
        raise ConfigError(explain("unknown kind of inference", given=inference, allowed=INFERENCE))
    job = _Job(
        factory=factory,
        task=task,
        embodiment=embodiment,
        split=split,
        variant=variant,
        latency=LatencyModel.from_config(latency),
        control=control,
        render_profile=render_profile,
        max_steps=max_steps,
        continue_after_success_s=continue_after_success_s,
        between=between,
        video_dir=None if video_dir is None else Path(video_dir),
        videos=frozenset(videos),
        video_camera=video_camera,
    )
    order = list(dict.fromkeys(episodes))
    if not order:
        return []
    if inference == "here":
        return _collect(_here(job, order), order, progress, until)
    if inference == "worker":
        return _collect(map_episodes(job, order, workers), order, progress, until)
    env, _ = job.env()
    try:
        server = InferenceServer(factory(env), inference_batch)
        shared = dataclasses.replace(job, factory=None, spec=server.policy.spec)
        with _one_torch_thread():
            found = _collect(map_episodes(shared, order, workers, server), order, progress, until)
        if served is not None:
            served(server.describe())
        return found
    finally:
        env.close()


def _collect(
    arriving: Iterator[tuple[int, EpisodeResult]], order: list[int], progress: Progress | None, until: Until | None
) -> list[EpisodeResult]:
    """Everything that arrives, or the first episodes of ``order`` that were enough."""
    found: dict[int, EpisodeResult] = {}
    whole: list[EpisodeResult] = []
    for index, result in arriving:
        found[index] = result
        if progress is not None:
            progress(result)
        while until is not None and len(whole) < len(order) and order[len(whole)] in found:
            whole.append(found[order[len(whole)]])
            if until(whole):
                arriving.close()  # type: ignore[attr-defined]
                return sorted(whole, key=lambda result: result.index)
    return sorted(found.values(), key=lambda result: result.index)


def _here(job: _Job, order: list[int]) -> Iterator[tuple[int, EpisodeResult]]:
    env, run_episode = job.env()
    assert job.factory is not None
    run = job.runner(env, run_episode, job.factory(env))
    try:
        for index in order:
            yield index, run(index)
    finally:
        env.close()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """As in the workers: the division of a sum among threads must not decide its last bits."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know; calling it in the worker builds environment and policy once."""

    factory: PolicyFactory | None
    task: str
    embodiment: str | Embodiment
    split: str
    variant: str
    latency: LatencyModel
    control: ControlConfig | None
    render_profile: str | None
    max_steps: int | None
    continue_after_success_s: float
    between: BetweenConfig | None
    video_dir: Path | None
    videos: frozenset[int]
    video_camera: str | None
    spec: PolicySpec | None = None

    def env(self) -> tuple[Any, Callable[..., EpisodeResult]]:
        """The environment of every episode, and what runs one."""
        return simulate(
            self.task,
            self.embodiment,
            render_profile=self.render_profile,
            variant=self.variant,
            split=self.split,
            control=self.control,
        )

    def __call__(
        self, slot: Slot | None = None, ask: Callable[[Any], Any] | None = None
    ) -> Callable[[int], EpisodeResult]:
        env, run_episode = self.env()
        policy: Policy
        if slot is not None and ask is not None and self.spec is not None:
            policy = RemotePolicy(self.spec, slot, ask)
        else:
            assert self.factory is not None
            policy = self.factory(env)
        return self.runner(env, run_episode, policy)

    def runner(
        self, env: Any, run_episode: Callable[..., EpisodeResult], policy: Policy
    ) -> Callable[[int], EpisodeResult]:
        """What runs one episode of the policy in the environment, filmed where asked."""

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
                continue_after_success_s=self.continue_after_success_s,
                between=self.between,
            )
            if isinstance(policy, RemotePolicy):
                result = dataclasses.replace(result, cpu_s=result.cpu_s + policy.take_cpu_s())
            if recorder is None or self.video_dir is None or not recorder.frames:
                return result
            path = recorder.save(self.video_dir / f"{index}.webp")
            return dataclasses.replace(result, video=f"{self.video_dir.name}/{path.name}")

        return run
