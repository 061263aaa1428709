"""One episode of a policy in a benchmark, with the policy's latency; a lost environment is restarted, once per episode.

As :mod:`robopolicy.sim.episode`, but a tick is a control step. An episode whose process crashed or hung is run again
from the start in a new process. If that is lost as well, the result says so in its termination and is counted apart:
nothing is known of the policy, so it is neither a success nor a failure.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import Protocol

import numpy as np

from robopolicy.control.between import Between, BetweenConfig
from robopolicy.control.latency import LatencyModel
from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.protocols import Policy
from robopolicy.seeding import generator
from robopolicy.sim.bench.env import BenchEnv, BenchFrame
from robopolicy.sim.bench.player import ChunkPlayer
from robopolicy.sim.bench.process import EnvironmentLostError
from robopolicy.types import ActionChunk

__all__ = ["BenchRecorder", "Perturbation", "run_bench_episode"]

ATTEMPTS = 2
MOST_LOST_IN_A_ROW = 10
"""Episodes lost one after another before the run is given up."""


class BenchRecorder(Protocol):
    """Is shown every control step of the attempt that counts, when it is over."""

    def cameras(self, step: int) -> tuple[str, ...]:
        """Cameras that have to be in the frame of this step."""
        ...

    def step(self, frame: BenchFrame, chunk: ActionChunk | None, joint_command: object) -> None:
        """One control step: observation at its beginning, what the policy answered to it or None."""
        ...


class Perturbation(Protocol):
    """What is executed instead of a chunk."""

    def __call__(self, chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
        """The chunk to be executed."""
        ...


def run_bench_episode(
    env: BenchEnv,
    policy: Policy,
    *,
    split: str,
    index: int,
    control_latency: LatencyModel | None = None,
    record: BenchRecorder | None = None,
    max_steps: int | None = None,
    perturb: Perturbation | None = None,
    continue_after_success_s: float = 0.0,
    between: BetweenConfig | None = None,
) -> EpisodeResult:
    """Run episode ``index`` of ``split``; ends at the benchmark's first success, at its end, or at the horizon.

    Args:
        env: Environment; reset here.
        policy: Policy for its card.
        split: Split.
        index: Index of the episode in it.
        control_latency: Delay from observation to chunk; none by default.
        record: Shown every control step of the attempt that counts.
        max_steps: Control steps at most; the task's horizon by default.
        perturb: Changes what is executed, for collection with noise.
        continue_after_success_s: How long the policy goes on after the first success, at most to the horizon.
        between: How one chunk follows another; ``naive`` by default.

    Returns:
        The record. Of an episode that was lost twice, ``termination`` is ``environment_crashed`` or
        ``environment_hung`` and ``success_once`` is False without meaning anything.

    Raises:
        EmbodimentMismatchError: the policy was made for another embodiment.
        ConfigError: the policy reads a picture of the goal, which benchmarks do not draw.
        SimulationError: episode after episode was lost.
    """
    policy.spec.embodiment.require_same(env.embodiment, mine="the policy", theirs="the benchmark")
    if policy.spec.goal_cameras:
        raise ConfigError(
            explain(
                f"the policy reads a picture of the goal, and '{env.task.name}' of a benchmark draws none",
                given=f"goal.cameras={list(policy.spec.goal_cameras)}",
                mend="run it on a task of this project, or a policy without such a goal here",
            )
        )
    cpu_0, latency = time.process_time(), control_latency or LatencyModel.from_config(0)
    steps = env.task.horizon if max_steps is None else min(max_steps, env.task.horizon)
    lost = 0
    for attempt in range(ATTEMPTS):
        run = _Run(env, policy, split, index, latency, perturb, between)
        run.continue_ns = round(continue_after_success_s * 1e9)
        try:
            run.carry_out(steps, record)
            env.lost_in_a_row = 0
            break
        except EnvironmentLostError as error:
            run.termination, run.reason = error.termination, str(error)
            lost = attempt + 1
    if lost == ATTEMPTS:
        env.lost_in_a_row += 1
        if env.lost_in_a_row >= MOST_LOST_IN_A_ROW:
            raise SimulationError(
                explain(
                    f"{env.lost_in_a_row} episodes of '{env.task.name}' were lost one after another",
                    given=run.reason,
                    mend=f"robopolicy bench-env check {env.benchmark.name}",
                )
            )
    if record is not None:
        for frame, chunk in run.shown:
            record.step(frame, chunk, None)
    return run.result(time.process_time() - cpu_0, lost)


class _Run:
    """One attempt at an episode."""

    def __init__(
        self,
        env: BenchEnv,
        policy: Policy,
        split: str,
        index: int,
        latency: LatencyModel,
        perturb: Perturbation | None,
        between: BetweenConfig | None,
    ):
        self.env, self.policy, self.spec, self.latency, self.perturb = env, policy, policy.spec, latency, perturb
        self.split, self.index = split, index
        self.frames: deque[BenchFrame] = deque(maxlen=self.spec.observation_horizon)
        self.pending: list[tuple[ActionChunk, int, int]] = []
        self.between = Between(between or BetweenConfig(), self.spec, latency.expected_ns)
        self.last_request = -self.between.interval
        self.noise = generator("perturb", env.task.name, env.embodiment.name, split, index)
        self.termination: str | None = None
        self.reason = ""
        self.success = False
        self.continue_ns, self.solved_ns = 0, -1
        self.length = self.chunks = self.tracking = self.missing = self.clipped = 0
        self.inference_ms: list[float] = []
        self.latency_ms: list[float] = []
        self.metrics: dict[str, float] = {}
        self.initial: list[float] = []
        self.shown: list[tuple[BenchFrame, ActionChunk | None]] = []

    def carry_out(self, steps: int, record: BenchRecorder | None) -> None:
        """Reset, then step until it ends."""
        self.env.reset(self.split, self.index)
        self.initial = list(self.env.initial_state.values())
        self.player = ChunkPlayer(self.env.embodiment, self.env.rest, self.env.rest_start)
        for step in range(steps):
            self._step(step, record)
            if self.termination is not None:
                return

    def _step(self, step: int, record: BenchRecorder | None) -> None:
        extra = record.cameras(step) if record is not None else ()
        since = step - self.last_request
        soon = since > self.between.earliest - self.spec.observation_horizon
        frame = self.env.frame(tuple(dict.fromkeys((*(self.spec.cameras if soon else ()), *extra))))
        self.frames.append(frame)
        chunk = None
        if self.between.due(since, bool(self.pending)):
            chunk = self._request()
            self.last_request = step
        if record is not None:
            self.shown.append((frame, chunk))
        self._execute()

    def _execute(self) -> None:
        now_ns = self.env.now_ns
        here = sorted((item for item in self.pending if now_ns >= item[1]), key=lambda item: item[1])
        self.pending = [item for item in self.pending if now_ns < item[1]]
        for answer, _, delay_ns in here:
            self.between.measured(delay_ns)
            chunk = self.between.arrived(answer, now_ns, standing=self.player.standing(now_ns))
            self.chunks += chunk is not None and self.player.submit(chunk, now_ns)
        action, played = self.player.action(now_ns)
        self.tracking += played
        self.missing += self.chunks > 0 and not played
        self.clipped += self.player.clipped
        self.length += 1  # also one that the environment does not survive
        outcome = self.env.step(action)
        for name, value in outcome.metrics.items():
            self.metrics[f"max {name}"] = max(value, self.metrics.get(f"max {name}", value))
            self.metrics[f"final {name}"] = value
        self.success = outcome.success
        if outcome.success and self.solved_ns < 0:
            self.solved_ns = self.env.now_ns
        if not (np.isfinite(outcome.state).all() and np.isfinite(outcome.environment_state).all()):
            self.success, self.termination = False, "unstable"
        elif self.solved_ns >= 0 and self.env.now_ns - self.solved_ns >= self.continue_ns:
            self.termination = "success"
        elif outcome.terminated and self.solved_ns < 0:
            self.termination = "ended_by_benchmark"
        elif outcome.truncated:
            self.termination = "timeout"

    def _request(self) -> ActionChunk:
        frames = list(self.frames)
        # At the beginning the first frame stands for the steps before it, each at its own time.
        for _ in range(self.spec.observation_horizon - len(frames)):
            frames.insert(0, dataclasses.replace(frames[0], time_ns=frames[0].time_ns - self.env.step_ns))
        observation = self.env.observe(frames, self.spec.cameras)
        call = len(self.inference_ms)
        begin = time.perf_counter()
        prefix = self.between.prefix(self.player.scheduled, self.env.now_ns)
        rng = generator("rollout", self.split, self.index, call)
        chunk = self.policy.act(observation, rng=rng, **({} if prefix is None else {"prefix": prefix}))
        self.inference_ms.append((time.perf_counter() - begin) * 1e3)
        delay_ns = self.latency.sample_ns(generator("latency", self.split, self.index, call))
        self.latency_ms.append(delay_ns / 1e6)
        executed = chunk if self.perturb is None else self.perturb(chunk, self.noise)
        self.pending.append((executed, self.env.now_ns + delay_ns, delay_ns))
        return chunk

    def result(self, cpu_s: float, lost: int) -> EpisodeResult:
        """The record of the episode; ``lost`` attempts did not come to an end."""
        env, whole = self.env, lost < ATTEMPTS
        solved = self.solved_ns >= 0 and whole
        return EpisodeResult(
            index=self.index,
            split=self.split,
            task=env.task.name,
            embodiment=env.embodiment.name,
            success_once=solved,
            success_at_end=solved and self.success,
            length=self.length,
            duration_s=self.length * env.step_ns / 1e9,
            termination=self.termination or ("success" if solved else "timeout"),
            inference_ms=self.inference_ms,
            latency_ms=float(np.mean(self.latency_ms)) if self.latency_ms else 0.0,
            ticks=self.length,
            tracking_ticks=self.tracking,
            missing_setpoints=self.missing,
            clipped_ticks=self.clipped,
            max_seam_velocity_step=0.0,
            chunks=self.chunks,
            initial_state=self.initial,
            cpu_s=cpu_s,
            metrics=self.metrics if whole else {},
            lost_attempts=lost,
        )
