"""Runs the episodes of a store again: into other observations, or another controller, with a verdict on each.

``actions``  the executed actions go through the ordinary controller and executor from the recorded initial state;
``states``   the recorded positions of everything are shown one after the other, nothing is simulated.

An episode is known by its split and index, so its start needs no state in the store. What was executed is stored
exactly (``executed_chunk``) by :mod:`robopolicy.sim.collect`, noise included; older stores have the labels only.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, DataError, explain
from robopolicy.evaluation.files import write_json
from robopolicy.sim.controllers.base import find_controller
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.record import DemonstrationRecorder, Recording
from robopolicy.sim.replay_policy import RecordedEpisode, ReplayPolicy, label_of_row, read_episode
from robopolicy.sim.task import load_task
from robopolicy.sim.variants import NOMINAL
from robopolicy.sim.workers import map_episodes

__all__ = ["MODES", "VERDICTS", "Replayed", "Verdict", "judge", "replay"]

MODES = ("actions", "states")
VERDICTS = ("identical", "success", "deviated", "failed")

TOLERANCE = 0.02
"""Largest deviation of a measured channel (m, rad, entry of a rotation) that still counts as the same motion."""

SAME_STATE = 1e-4
"""The same in mode ``states``, where positions went through float32."""

EXTRA_S = 1.0
"""How much longer than recorded an episode may take under another controller."""


@dataclass(frozen=True)
class Verdict:
    """How one episode went.

    Attributes:
        episode: Number in the source store.
        index: Index of the episode in its split.
        verdict: ``identical``: every measured value is the same, to the bit in mode ``actions``; ``success``: the task
            was achieved again, along the same path within :data:`TOLERANCE`; ``deviated``: achieved, along another
            path; ``failed``: not achieved.
        deviation: Largest difference over the rows of both, of a measured channel of the robot (grippers left out) or
            of a privileged position.
        channel: Which channel that was.
        length: Rows of the new episode.
        success: Whether the task was achieved.
    """

    episode: int
    index: int
    verdict: str
    deviation: float
    channel: str
    length: int
    success: bool


@dataclass(frozen=True)
class Replayed:
    """What :func:`replay` did.

    Attributes:
        path: The new store.
        verdicts: Of every episode of the source, in its order.
        written: Episodes in the new store.
        summary_path: JSON with all of it, beside the store.
    """

    path: Path
    verdicts: tuple[Verdict, ...]
    written: int
    summary_path: Path

    @property
    def counts(self) -> dict[str, int]:
        """How many episodes got each verdict."""
        found = Counter(verdict.verdict for verdict in self.verdicts)
        return {name: found[name] for name in VERDICTS}


def replay(
    source: str | Path,
    out: str | Path,
    *,
    record: Recording | None = None,
    controller: str | None = None,
    variant: str | None = None,
    mode: str = "actions",
    keep_failures: bool = False,
    episodes: Sequence[int] | None = None,
    workers: int = 1,
    codec: str = "raw",
    render_profile: str = "fast",
    progress: Callable[[int, int, Verdict], None] | None = None,
) -> Replayed:
    """Write a store with the episodes of another one, observed or commanded differently.

    Args:
        source: A store of :func:`robopolicy.sim.collect.collect`, or of this function.
        out: The new store's folder; must not exist.
        record: What to record.
        controller: Action space of the new store; that of the source if None.
        variant: Of the simulation; that of the source if None.
        mode: One of :data:`MODES`.
        keep_failures: Write failed episodes, too.
        episodes: Which of the source; all if None.
        workers: Processes that simulate; 0 simulates in this one.
        codec: Image codec, ``raw`` or ``jpeg``.
        render_profile: ``fast`` or ``stock``.
        progress: Called after each episode with (episodes done, episodes wanted, its verdict).

    Raises:
        ConfigError: an unknown mode, or sensors in mode ``states``.
        DataError: the source was not collected here, or does not hold what the mode needs.
        SimulationError: a worker failed.
        StorageError: ``out`` exists, or the disk refused.
    """
    record = record or Recording()
    _check_mode(mode, record)
    with EpisodeStore.open(source) as store:
        job = _job(store, Path(source), record, controller, variant, mode, render_profile)
        wanted = list(range(store.num_episodes) if episodes is None else episodes)
        content, names = store.content_hash, store.environment_state_names
    env = job.env()
    rows = job.chunk_rows(env)
    job = dataclasses.replace(job, recording=dataclasses.replace(record, chunk_rows=rows))
    settings = {"source": str(source), "content_hash": content, "mode": mode, "controller": controller}
    new = EpisodeStore.create(
        out,
        env.card,
        task=job.task,
        cameras=record.cameras,
        environment_state=names,
        extra=job.recording.streams(env),
        codec=codec,
        provenance={"replay": {**settings, "collect": job.collected}},
    )
    env.close()
    verdicts: dict[int, Verdict] = {}
    numbers = sorted(set(wanted))
    with new:
        for number, (episode, verdict) in _in_order(_run(job, numbers, workers), numbers):
            verdicts[number] = verdict
            if verdict.verdict != "failed" or keep_failures:
                new.append(episode, embodiment=new.embodiment)
            if progress is not None:
                progress(len(verdicts), len(numbers), verdict)
        written = new.num_episodes
    found = tuple(verdicts[number] for number in sorted(verdicts))
    path = Path(out).with_name(Path(out).name.removesuffix(".zarr") + ".replay.json")
    done = Replayed(Path(out), found, written, path)
    write_json(path, {**settings, "counts": done.counts, "written": written, "episodes": list(found)})
    return done


def judge(
    recorded: RecordedEpisode, new: dict[str, np.ndarray[Any, Any]], names: tuple[str, ...], success: bool, mode: str
) -> tuple[str, float, str]:
    """(verdict, largest deviation, its channel) of an episode.

    Args:
        recorded: The source's episode.
        new: Streams of the new one.
        names: Channels of ``state`` followed by those of ``environment_state``.
        success: Whether the task was achieved.
        mode: One of :data:`MODES`.
    """
    before = np.concatenate([recorded.state, recorded.environment_state], axis=1)
    after = np.concatenate([new["state"], new["environment_state"]], axis=1)
    rows = min(len(before), len(after))
    gap = np.abs(before[:rows].astype(float) - after[:rows])
    robot = recorded.state.shape[1]
    aside = [i for i, name in enumerate(names) if "gripper" in name or (i >= robot and "position" not in name)]
    gap[:, aside] = 0.0
    row, column = np.unravel_index(int(gap.argmax()), gap.shape)
    deviation, channel = float(gap[row, column]), names[int(column)]
    if mode == "states":
        return ("identical" if deviation <= SAME_STATE else "deviated"), deviation, channel
    if before.shape == after.shape and np.array_equal(before, after):
        return "identical", 0.0, ""
    if not success:
        return "failed", deviation, channel
    return ("success" if deviation <= TOLERANCE else "deviated"), deviation, channel


def _run(job: _Job, numbers: Sequence[int], workers: int) -> Iterator[tuple[int, Any]]:
    if workers:
        yield from map_episodes(job, numbers, workers)
        return
    run = job()
    for number in numbers:
        yield number, run(number)


def _in_order(arriving: Iterable[tuple[int, Any]], numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """What workers bring in any order, in the order of ``numbers``."""
    waiting: dict[int, Any] = {}
    upcoming = iter(numbers)
    following = next(upcoming, None)
    for number, done in arriving:
        waiting[number] = done
        while following is not None and following in waiting:
            yield following, waiting.pop(following)
            following = next(upcoming, None)


def _check_mode(mode: str, record: Recording) -> None:
    if mode not in MODES:
        raise ConfigError(explain("unknown replay mode", given=mode, allowed=MODES))
    if mode == "states" and record.sensors:
        raise ConfigError(
            explain(
                "forces cannot be replayed from positions",
                given=f"mode=states sensors={list(record.sensors)}",
                mend="use mode=actions",
            )
        )


def _job(
    store: EpisodeStore,
    path: Path,
    record: Recording,
    controller: str | None,
    variant: str | None,
    mode: str,
    render_profile: str,
) -> _Job:
    provenance = store.attributes.get("provenance", {})
    collected = provenance.get("collect") or provenance.get("replay", {}).get("collect")
    metadata = store.info(0)["metadata"] if store.num_episodes else {}
    if collected is None or not {"split", "index"} <= metadata.keys():
        raise DataError(
            explain(
                f"{path} does not say which episodes of the simulation it holds",
                given=sorted(metadata) or "no episodes",
                allowed="stores of robopolicy collect and robopolicy replay",
            )
        )
    if mode == "states" and "qpos" not in store.streams:
        raise DataError(
            explain(
                f"{path} does not hold the positions of the objects",
                given=list(store.streams),
                mend="collect it with qpos=true, or replay it with mode=actions",
            )
        )
    robot, _ = find_controller(store.embodiment, None)
    chosen = variant or collected.get("variant", NOMINAL)
    collected = {k: v for k, v in collected.items() if k not in ("sensors", "depth", "point_cloud", "qpos", "variant")}
    collected |= record.settings() | ({} if chosen == NOMINAL else {"variant": chosen})
    return _Job(
        source=path,
        task=store.task,
        card=store.embodiment,
        robot=robot,
        controller=controller,
        recording=record,
        mode=mode,
        variant=chosen,
        render_profile=render_profile,
        parameters=dict(collected.get("task_parameters", {})),
        collected=collected,
    )


@dataclass(frozen=True)
class _Job:
    """Built into a function of the episode's number in each worker."""

    source: Path
    task: str
    card: Embodiment
    robot: Embodiment
    controller: str | None
    recording: Recording
    mode: str
    variant: str
    render_profile: str
    parameters: dict[str, Any] = field(default_factory=dict)
    collected: dict[str, Any] = field(default_factory=dict)

    def env(self) -> Env:
        """The environment of every episode."""
        task = load_task(self.task, self.robot.name, **self.parameters)
        card = self.card if self.controller is None else self.robot
        return Env(
            task,
            card,
            controller=self.controller,
            sensors=self.recording.sensors,
            variant=self.variant,
            render_profile=self.render_profile,
        )

    def chunk_rows(self, env: Env) -> int:
        """H of the new store's executed chunks: that of the source, or one for labels."""
        with EpisodeStore.open(self.source) as store:
            spec = store.streams.get("executed_chunk")
            return 1 if spec is None else spec.shape[0] // len(store.embodiment.action)

    def __call__(self) -> Callable[[int], tuple[Episode, Verdict]]:
        env, store = self.env(), EpisodeStore.open(self.source)
        names = (*env.card.state.names, *env.task.environment_state_names)

        def run(number: int) -> tuple[Episode, Verdict]:
            recorded = read_episode(store, number)
            recorder = DemonstrationRecorder(self.recording)
            if self.mode == "states":
                success, ended = _show_states(env, recorded, self.card, recorder), recorded.metadata.get("termination")
            else:
                policy = ReplayPolicy(env, recorded, self.card)
                more = round(EXTRA_S * env.embodiment.control_hz) if recorded.success else 0
                steps = recorded.length + more
                result = run_episode(
                    env,
                    policy,
                    split=recorded.split,
                    index=recorded.index,
                    record=recorder,
                    max_steps=steps,
                    perturb=policy.instead,
                )
                success, ended = result.success_at_end, result.termination
            streams = recorder.streams()
            verdict, deviation, channel = judge(recorded, streams, names, success, self.mode)
            told = {"episode": number, "mode": self.mode, "verdict": verdict, "deviation": deviation}
            metadata = {**recorded.metadata, **env.variation, "replay": {**told, "channel": channel}}
            metadata["termination"] = ended
            length = len(streams["time_ns"])
            return (
                Episode(dict(streams), recorded.language, success, metadata),
                Verdict(number, recorded.index, verdict, deviation, channel, length, success),
            )

        return run


def _show_states(env: Env, recorded: RecordedEpisode, card: Embodiment, recorder: DemonstrationRecorder) -> bool:
    """Record every row of an episode from its positions; whether it succeeded is as recorded."""
    env.reset(options={"split": recorded.split, "index": recorded.index})
    for row in range(recorded.length):
        env.show(recorded.qpos[row], int(recorded.time_ns[row]))
        frame = env.frame(modalities=recorder.modalities)
        recorder.step(frame, label_of_row(env, recorded, card, row), recorded.joint_command[row])
    return recorded.success
