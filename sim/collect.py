"""Collects demonstrations of the scripted expert into an episode store, with noise as in DART; can be resumed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.data.episode import StreamSpec
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DataError, SimulationError, explain
from robopolicy.sim.bench.collect import BenchDemonstration, BenchNoise, benchmark_noise, environment_state_names
from robopolicy.sim.bench.dispatch import simulate
from robopolicy.sim.controllers.base import find_controller
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.goal_image import GOAL_IMAGE, encode_goal_images
from robopolicy.sim.noise import ActionNoise
from robopolicy.sim.record import DemonstrationRecorder, Recording
from robopolicy.sim.task import load_task
from robopolicy.sim.workers import map_episodes

__all__ = ["Collected", "collect"]

MOST_FAILURES_IN_A_ROW = 50


@dataclass(frozen=True)
class Collected:
    """What is in the store after :func:`collect`.

    Attributes:
        path: The store.
        episodes: Committed episodes.
        steps: Committed rows.
        tried: Episodes run by this call.
        failed: Those of them without success.
    """

    path: Path
    episodes: int
    steps: int
    tried: int
    failed: int


def collect(
    task: str,
    embodiment: str | Embodiment,
    episodes: int,
    out: str | Path,
    *,
    split: str = "train",
    cameras: Sequence[str] = (),
    workers: int = 1,
    action_noise: ActionNoise | None = None,
    noise_share: float | None = None,
    keep_failures: bool = False,
    codec: str = "raw",
    render_profile: str | None = None,
    task_parameters: Mapping[str, Any] | None = None,
    goal_images: Sequence[str] = (),
    controller: str | None = None,
    variant: str = "nominal",
    record: Recording | None = None,
    progress: Callable[[int, int, bool], None] | None = None,
) -> Collected:
    """Fill a store with ``episodes`` successful episodes of the task's expert, in the order of their indices.

    A store that exists is continued after its last committed episode, so a run that was killed is simply run again.
    The content does not depend on ``workers`` or on how often it was interrupted.

    Args:
        task: Registry name.
        embodiment: Registry name or card.
        episodes: How many the store shall hold.
        out: The store's folder.
        split: Split of the episode indices.
        cameras: Cameras to record.
        workers: Processes that simulate; this process writes.
        action_noise: Noise on the executed actions; :class:`ActionNoise` with its defaults if None. A benchmark's
            actions are its own, so it only says whether the noise that the benchmark's YAML names is added.
        noise_share: Of a benchmark: another standard deviation of that noise, as a share of half a channel's range.
        keep_failures: Commit episodes that failed too, marked as such.
        codec: Image codec of a new store, ``raw`` or ``jpeg``.
        render_profile: ``fast`` or ``stock``; None: fast, a benchmark's own for a benchmark.
        task_parameters: What the task shall have otherwise than its YAML says, for example ``{"style": "play"}``.
        goal_images: Cameras of pictures of the goal, kept with each episode; see :mod:`robopolicy.sim.goal_image`.
        controller: Action space of the store, see :mod:`robopolicy.sim.controllers.base`; the robot's own if None.
        variant: Of the simulation.
        record: Depth, sensors and so on; what was executed is always stored along.
        progress: Called after each commit with (episodes committed, episodes wanted, success).

    Raises:
        DataError: the store was collected with other settings.
        SimulationError: a worker failed, or the expert fails without end.
        StorageError: the disk refused; what was committed stays.
    """
    noise = ActionNoise() if action_noise is None else action_noise
    card = load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
    robot, driven = find_controller(card, controller)
    card = driven.card if driven else card
    amount = benchmark_noise(task, robot, noise, noise_share)
    settings = {"split": split, "keep_failures": keep_failures}
    settings["action_noise"] = dataclasses.asdict(noise) if amount is None else amount.deviation
    parameters, goals = dict(task_parameters or {}), tuple(goal_images)
    settings |= {k: v for k, v in (("task_parameters", parameters), ("goal_images", list(goals))) if v}
    settings |= {} if variant == "nominal" else {"variant": variant}
    recording = dataclasses.replace(record or Recording(), cameras=tuple(cameras))
    settings |= recording.settings()
    noise_on = noise if amount is None else amount
    job = _Job(task, card, robot, split, recording, noise_on, render_profile, parameters, goals, variant)
    tried = failed = in_a_row = 0
    job, extra = job.with_extra(Path(out))
    with _open(Path(out), job, codec, settings, extra) as store:
        first = _next_index(store)
        wanted = itertools.count(first) if store.num_episodes < episodes else iter(())
        arriving = map_episodes(job, wanted, max(1, workers))
        try:
            for episode in _in_order(arriving, first):
                tried += 1
                failed += not episode.success
                in_a_row = 0 if episode.success else in_a_row + 1
                if in_a_row >= MOST_FAILURES_IN_A_ROW:
                    raise SimulationError(
                        explain(
                            f"the expert of '{task}' failed {in_a_row} times in a row on '{card.name}'",
                            mend="lower action_noise, or check the task's region against the arm's reach",
                        )
                    )
                if bool(episode.success) or keep_failures:
                    store.append(episode, embodiment=card)
                    if progress is not None:
                        progress(store.num_episodes, episodes, bool(episode.success))
                if store.num_episodes >= episodes:
                    break
        finally:
            arriving.close()
        return Collected(Path(out), store.num_episodes, store.num_steps, tried, failed)


def _open(path: Path, job: _Job, codec: str, settings: dict[str, Any], extra: Mapping[str, StreamSpec]) -> EpisodeStore:
    task, card, cameras = job.task, job.embodiment, job.recording.cameras
    if not path.exists() or not any(path.iterdir()):
        return EpisodeStore.create(
            path,
            card,
            task=task,
            cameras=cameras,
            environment_state=job.environment_state_names(),
            joints=bool(card.joints.channels),
            extra=extra,
            codec=codec,
            provenance={"collect": settings},
        )
    store = EpisodeStore.open(path, mode="a", embodiment=card)
    have = (store.task, tuple(store.cameras), store.attributes.get("provenance", {}).get("collect"))
    want = (task, cameras, settings)
    if have != want:
        store.close()
        raise DataError(
            explain(
                f"{path} was collected with other settings",
                given=f"task, cameras, settings = {want}",
                allowed=f"{have}",
                mend="collect into another folder, or with the same settings",
            )
        )
    return store


def _next_index(store: EpisodeStore) -> int:
    """Index after the last committed episode's; failures before it are not run again."""
    if not store.num_episodes:
        return 0
    return int(store.info(store.num_episodes - 1)["metadata"]["index"]) + 1


def _in_order(arriving: Iterable[tuple[int, Episode]], first: int) -> Iterator[Episode]:
    """Episodes by index. At most as many wait here as other workers finish while one works on its episode."""
    waiting: dict[int, Episode] = {}
    for index, episode in arriving:
        waiting[index] = episode
        while first in waiting:
            yield waiting.pop(first)
            first += 1


@dataclass(frozen=True)
class _Job:
    """Built into a function of the index in each worker."""

    task: str
    embodiment: Embodiment
    robot: Embodiment
    split: str
    recording: Recording
    noise: ActionNoise | BenchNoise
    render_profile: str | None
    parameters: dict[str, Any] = field(default_factory=dict)
    goal_images: tuple[str, ...] = ()
    variant: str = "nominal"

    def with_extra(self, path: Path) -> tuple[_Job, dict[str, StreamSpec]]:
        """(what is recorded into the store at ``path``, its further streams).

        A store of before what was executed was recorded is continued without it.
        """
        if not self.robot.joints.channels:
            return self, {}
        if path.exists() and any(path.iterdir()):
            with EpisodeStore.open(path) as store:
                spec = store.streams.get("executed_chunk")
            rows = 0 if spec is None else spec.shape[0] // len(self.embodiment.action)
            return dataclasses.replace(self, recording=dataclasses.replace(self.recording, chunk_rows=rows)), {}
        env, _ = self._world()
        spec = env.task.expert(env).spec
        rows = spec.prediction_horizon - spec.observation_horizon + 1
        recording = dataclasses.replace(self.recording, chunk_rows=rows)
        return dataclasses.replace(self, recording=recording), recording.streams(env)

    def environment_state_names(self) -> tuple[str, ...]:
        """[E] names of the privileged state."""
        if self.parameters:
            return load_task(self.task, self.robot.name, **self.parameters).environment_state_names
        return environment_state_names(self.task, self.robot)

    def __call__(self) -> Callable[[int], Episode]:
        env, run_one = self._world()
        expert = env.task.expert(env)

        def run(index: int) -> Episode:
            recorder: DemonstrationRecorder | BenchDemonstration = (
                DemonstrationRecorder(self.recording)
                if env.embodiment.joints.channels
                else BenchDemonstration(self.recording.cameras)
            )
            perturb = self.noise.on(env.embodiment)
            told = self._told(env, index)
            result = run_one(env, expert, split=self.split, index=index, record=recorder, perturb=perturb)
            if result.lost:
                raise SimulationError(
                    explain(f"episode {index} was lost ({result.termination})", mend="run the same command again")
                )
            metadata = {
                "index": index,
                "split": self.split,
                "termination": result.termination,
                "initial_state": dict(env.initial_state),
                **told,
                **getattr(env, "variation", {}),
            }
            return Episode(dict(recorder.streams()), env.task.language(), result.success_at_end, metadata)

        return run

    def _world(self) -> tuple[Any, Callable[..., Any]]:
        settings: dict[str, Any] = {"split": self.split, "sensors": self.recording.sensors}
        if not self.parameters:
            profile, variant = self.render_profile, self.variant
            return simulate(self.task, self.embodiment, render_profile=profile, variant=variant, **settings)
        task = load_task(self.task, self.robot.name, **self.parameters)
        settings |= {"render_profile": self.render_profile or "fast", "variant": self.variant}
        return Env(task, self.embodiment, **settings), run_episode

    def _told(self, env: Any, index: int) -> dict[str, Any]:
        """Pictures of the goal and the goal itself, where they are asked for."""
        if not self.goal_images:
            return {}
        env.reset(options={"split": self.split, "index": index})
        goal = env.task.goal(env.data).tolist()
        return {
            "goal": dict(zip(env.task.goal_names, goal, strict=True)),
            GOAL_IMAGE: encode_goal_images({name: env.goal_image(name) for name in self.goal_images}),
        }
