"""One episode of a policy in an environment, on the virtual clock, with the policy's latency.

::

    control steps   0        1        2   ...  Ta       Ta+1 ...
    observations    o0       o1       o2       oTa      ...            captured at the beginning of a step
    act()           c(o0)                      c(oTa)                  every Ta steps after the last request
    executor        |--latency--> c(o0) merged by absolute time; the old chunk goes on until the new one is here

That is ``between=naive``; when else to ask, with what prefix, and what becomes of the answer says
:class:`robopolicy.control.between.Between`.

The executor ticks at ``setpoint_hz`` all the while. Nothing here depends on real time, except the measured
``inference_ms`` and ``cpu_s``.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.between import Between, BetweenConfig
from robopolicy.control.executor import Tick
from robopolicy.control.latency import LatencyModel
from robopolicy.errors import SimulationError
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.protocols import Policy
from robopolicy.seeding import generator
from robopolicy.sim.contact_force import ContactForce
from robopolicy.sim.env import Env
from robopolicy.sim.frame import Frame, Modalities
from robopolicy.types import ActionChunk

__all__ = ["EpisodeRecorder", "Perturbation", "run_episode"]

Perturbation = Callable[[ActionChunk, np.random.Generator], ActionChunk]
"""What is executed instead of a chunk; the recorder still sees the chunk itself."""


class EpisodeRecorder(Protocol):
    """Is shown every control step of an episode.

    An attribute ``modalities`` may ask for more than cameras. A method ``executed(chunk)`` is called before ``step``
    with what is executed instead of the policy's chunk.
    """

    def cameras(self, step: int) -> tuple[str, ...]:
        """Cameras that have to be in the frame of this step."""
        ...

    def step(self, frame: Frame, chunk: ActionChunk | None, joint_command: NDArray[np.floating]) -> None:
        """One control step.

        Args:
            frame: Observation at its beginning.
            chunk: What the policy answered to it, unperturbed, or None when it was not asked.
            joint_command: [J] last setpoint that was sent before it.
        """
        ...


def run_episode(
    env: Env,
    policy: Policy,
    *,
    split: str,
    index: int,
    control_latency: LatencyModel | None = None,
    record: EpisodeRecorder | None = None,
    max_steps: int | None = None,
    perturb: Perturbation | None = None,
    continue_after_success_s: float = 0.0,
    between: BetweenConfig | None = None,
) -> EpisodeResult:
    """Run episode ``index`` of ``split``; ends when the task is done (and held), at the horizon, or at a fault.

    ``success_once``: at the end of some control step the task's condition had lasted for ``hold_s``;
    ``success_at_end``: it has when the episode ends. They can only differ where the episode goes on after success.

    Args:
        env: Environment; reset here.
        policy: Policy for the environment's embodiment.
        split: Split.
        index: Index of the episode in it.
        control_latency: Delay from observation to chunk; none by default.
        record: Shown every control step.
        max_steps: Control steps at most; the task's horizon by default.
        perturb: Changes what is executed, for collection with noise.
        continue_after_success_s: How long the policy goes on after the first success, at most to the horizon.
        between: How one chunk follows another; ``naive`` by default.

    Raises:
        EmbodimentMismatchError: the policy was made for another embodiment.
        SimulationError: the policy reads a picture of the goal, and the task has none.
    """
    if policy.spec.embodiment.hash != env.embodiment.hash:
        policy.spec.embodiment.require_same(env.card, mine="the policy", theirs="the environment")
    cpu_0 = time.process_time()
    run = _Run(env, policy, split, index, control_latency or LatencyModel.from_config(0), perturb, between)
    run.continue_ns = round(continue_after_success_s * 1e9)
    for step in range(env.task.horizon if max_steps is None else max_steps):
        run.step(step, record)
        if run.termination is not None:
            break
    return run.result(time.process_time() - cpu_0)


class _Run:
    """State of one running episode."""

    def __init__(
        self,
        env: Env,
        policy: Policy,
        split: str,
        index: int,
        latency: LatencyModel,
        perturb: Perturbation | None,
        between: BetweenConfig | None,
    ):
        env.watch(policy.spec.sensors)
        env.reset(options={"split": split, "index": index})
        self.env, self.policy, self.spec, self.latency, self.perturb = env, policy, policy.spec, latency, perturb
        self.split, self.index = split, index
        self.wanted = Modalities.of(self.spec)
        self.goal_image = env.goal_images(self.spec.goal_cameras)  # once: as things are when the episode begins
        self.frames: deque[Frame] = deque(maxlen=self.spec.observation_horizon)
        self.pending: list[tuple[ActionChunk, int, int]] = []
        self.between = Between(between or BetweenConfig(), self.spec, latency.expected_ns)
        self.last_request = -self.between.interval
        self.noise = generator("perturb", env.task.name, env.embodiment.name, split, index)
        self.termination: str | None = None
        self.continue_ns, self.solved_ns, self.instant = 0, -1, False
        self.force = ContactForce(env.scene)
        self.length = self.chunks = self.ticks = self.tracking = self.missing = self.clipped = 0
        self.inference_ms: list[float] = []
        self.latency_ms: list[float] = []
        self.seam = 0.0
        self.jumps_m: list[float] = []
        self.commands = [env.robot_state().position] * 2
        joints = env.embodiment.joints
        self.velocity_step = joints.limit("max_acceleration") * env.embodiment.tick_s

    def step(self, step: int, record: EpisodeRecorder | None) -> None:
        """Observe, ask when it is time, and execute one control step."""
        wanted = Modalities() if record is None else getattr(record, "modalities", Modalities())
        if record is not None:
            wanted |= Modalities(record.cameras(step))
        since = step - self.last_request
        soon = since > self.between.earliest - self.spec.observation_horizon
        frame = self.env.frame(modalities=self.wanted | wanted if soon else wanted)
        self.frames.append(frame)
        chunk = None
        if self.between.due(since, bool(self.pending)):
            chunk = self._request()
            self.last_request = step
        if record is not None:
            if chunk is not None and self.pending and hasattr(record, "executed"):
                record.executed(self.env.label(self.pending[-1][0]))
            record.step(frame, None if chunk is None else self.env.label(chunk), self.commands[-1])
        self.length = step + 1
        try:
            for _ in range(self.env.ticks_per_step):
                self._tick()
        except SimulationError:
            self.termination = "unstable"
            return
        if self.solved_ns < 0 and self.env.success():
            self.solved_ns = self.env.now_ns
        if self.solved_ns >= 0 and self.env.now_ns - self.solved_ns >= self.continue_ns:
            self.termination = "success"
        elif self.env.executor.fault is not None:
            self.termination = "fault"
        elif self.env.failure is not None:
            self.termination = self.env.failure

    def _request(self) -> ActionChunk:
        frames = list(self.frames)
        # At the beginning the first frame stands for the steps before it, each at its own time.
        step_ns = round(1e9 / self.env.embodiment.control_hz)
        for _ in range(self.spec.observation_horizon - len(frames)):
            frames.insert(0, dataclasses.replace(frames[0], time_ns=frames[0].time_ns - step_ns))
        observation = self.env.observe(
            frames,
            modalities=self.wanted,
            sensors=self.spec.sensors,
            embodiment=self.spec.embodiment.hash,
            goal_image=self.goal_image,
        )
        call = len(self.inference_ms)
        begin = time.perf_counter()
        prefix = self.between.prefix(self.env.scheduled, self.env.now_ns)
        rng = generator("rollout", self.split, self.index, call)
        chunk = self.policy.act(observation, rng=rng, **({} if prefix is None else {"prefix": prefix}))
        self.inference_ms.append((time.perf_counter() - begin) * 1e3)
        delay_ns = self._delay_ns(call) + self.env.extra_latency_ns(call)
        self.latency_ms.append(delay_ns / 1e6)
        executed = chunk if self.perturb is None else self.perturb(chunk, self.noise)
        self.pending.append((executed, self.env.now_ns + delay_ns, delay_ns))
        return chunk

    def _delay_ns(self, call: int) -> int:
        if self.latency.kind == "constant":  # draws nothing, and making a generator costs as much as a setpoint
            return round(self.latency.mean_ms * 1e6)
        return self.latency.sample_ns(generator("latency", self.split, self.index, call))

    def _tick(self) -> None:
        env, now_ns = self.env, self.env.now_ns
        if self.pending:
            self._arrivals(now_ns)
        dry = self.chunks > 0 and env.executor.remaining_s(now_ns) <= 0
        tick = env.tick()
        self.missing += dry
        self._measure(tick)
        env.servo(tick.setpoint.position)
        self.force.look(env.data)
        self.instant = self.instant or env.condition()

    def _arrivals(self, now_ns: int) -> None:
        """Schedule what has arrived by now, in the order of arrival."""
        here = sorted((item for item in self.pending if now_ns >= item[1]), key=lambda item: item[1])
        self.pending = [item for item in self.pending if now_ns < item[1]]
        for answer, _, delay_ns in here:
            self.between.measured(delay_ns)
            standing = self.env.executor.standing(now_ns)
            chunk = self.between.arrived(answer, now_ns, standing=standing)
            if chunk is None:
                continue
            report = self.env.submit(chunk)
            self.chunks += bool(report.accepted)
            if report.accepted and not standing:
                self.jumps_m.append(report.jump_m)

    def _measure(self, tick: Tick) -> None:
        self.ticks += 1
        self.tracking += tick.mode == "tracking"
        self.clipped += bool(tick.verdict.bits)
        command, before = tick.setpoint.position, self.commands
        if tick.seam:
            change = np.abs(command - 2 * before[1] + before[0]) / self.env.embodiment.tick_s
            self.seam = max(self.seam, float((change / self.velocity_step).max()))
        self.commands = [before[1], command]

    def result(self, cpu_s: float) -> EpisodeResult:
        """The record of the episode."""
        env, solved = self.env, self.solved_ns >= 0
        return EpisodeResult(
            index=self.index,
            split=self.split,
            task=env.task.name,
            embodiment=env.card.name,
            success_once=solved,
            success_at_end=solved and self.termination != "unstable" and env.success(),
            length=self.length,
            duration_s=env.now_ns / 1e9,
            termination=self.termination or ("success" if solved else "timeout"),
            inference_ms=self.inference_ms,
            latency_ms=float(np.mean(self.latency_ms)) if self.latency_ms else 0.0,
            ticks=self.ticks,
            tracking_ticks=self.tracking,
            missing_setpoints=self.missing,
            clipped_ticks=self.clipped,
            max_seam_velocity_step=self.seam,
            chunks=self.chunks,
            initial_state=list(env.initial_state.values()),
            cpu_s=cpu_s,
            success_instant=self.instant,
            peak_force_n=self.force.peak_n,
            seam_jump_m=self._jump_m(np.mean),
            max_seam_jump_m=self._jump_m(np.max),
            metrics=env.metrics(),
        )

    def _jump_m(self, of: Callable[[list[float]], np.floating]) -> float | None:
        """Of the seams; None where actions are joints, or there was none."""
        if self.env.executor.embodiment.action_space != "ee_pose" or not self.jumps_m:
            return None
        return float(of(self.jumps_m))
