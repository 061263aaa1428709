"""A benchmark's task as an environment of this project: the same episodes by index, another process behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, EmbodimentMismatchError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.sim.bench.benchmark import Benchmark, benchmark_of
from robopolicy.sim.bench.process import BenchmarkProcess, Start, Step, TaskSpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["BenchEnv", "BenchExpert", "BenchFrame", "BenchTask"]


@dataclass(frozen=True)
class BenchFrame:
    """What the benchmark shows at one instant.

    Attributes:
        state: f32 [S] proprioception.
        environment_state: f32 [E] objects and goal.
        time_ns: Simulated time.
        image: uint8 [H, W, 3] per camera.
    """

    state: NDArray[np.float32]
    environment_state: NDArray[np.float32]
    time_ns: int
    image: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchTask:
    """What policies and reports ask of a task.

    Attributes:
        name: ``<benchmark>/<task>``.
        instruction: One sentence.
        horizon: Control steps at most.
        environment_state_names: [E] names.
        has_expert: Whether the benchmark brings one.
    """

    name: str
    instruction: str
    horizon: int
    environment_state_names: tuple[str, ...]
    has_expert: bool

    def language(self) -> str:
        """The instruction."""
        return self.instruction

    def expert(self, env: BenchEnv) -> BenchExpert:
        """The benchmark's own expert.

        Raises:
            ConfigError: it has none for this task.
        """
        if not self.has_expert:
            mend = "bring demonstrations of your own, or evaluate a trained policy"
            raise ConfigError(explain(f"the benchmark has no expert for '{self.name}'", mend=mend))
        return BenchExpert(env)


class BenchEnv:
    """A task of a benchmark on its robot, run by a process of its own.

    There is no executor and no limiter: an action is the benchmark's own and is carried out as it is, at its own rate.

    Args:
        task: ``<benchmark>/<task>``.
        embodiment: Card; the benchmark's by default, and no other fits.
        render_profile: ``stock`` or ``fast``; the benchmark's own setting by default.

    Raises:
        ConfigError: no such benchmark or task.
        EmbodimentMismatchError: another card than the benchmark's, or one that does not fit what its process says.
        MissingDependencyError: the benchmark's environment has not been made.
        EnvironmentLostError: its process did not come up.
    """

    def __init__(self, task: str, embodiment: str | Embodiment | None = None, *, render_profile: str | None = None):
        found = benchmark_of(task)
        if found is None:
            raise ConfigError(explain("not a task of a benchmark", given=task, allowed="<benchmark>/<task>"))
        self.benchmark, self._name = found
        self.embodiment = _card(self.benchmark, embodiment)
        self.render_profile = render_profile or self.benchmark.render_profile
        self.process = BenchmarkProcess(self.benchmark)
        self.restarts = self.lost_in_a_row = 0
        self.spec = self._make()
        horizon = min(self.spec.horizon, self.benchmark.horizon or self.spec.horizon)
        self.task = BenchTask(task, self.spec.instruction, horizon, self.spec.environment_state, self.spec.expert)
        self.step_ns = round(1e9 / self.embodiment.control_hz)
        self.initial_state: dict[str, float] = {}
        self.rest_start = np.zeros(len(self.spec.rest))
        self._steps = 0
        self._last: Start | Step | None = None

    @property
    def now_ns(self) -> int:
        """Simulated time since the start of the episode."""
        return self._steps * self.step_ns

    @property
    def rest(self) -> NDArray[np.float64]:
        """[A] action that leaves a channel as it is; NaN where that is the last action sent."""
        return np.array([np.nan if value is None else value for value in self.spec.rest])

    def reset(self, split: str, index: int) -> None:
        """Start episode ``index`` of ``split``; a process that was lost is started again first.

        Raises:
            EnvironmentLostError: the process was lost.
        """
        if not self.process.running:
            self.restarts += 1
            self._make()
        start = self.process.reset(split, index)
        self._steps, self._last = 0, start
        self.initial_state, self.rest_start = start.initial_state, start.rest

    def step(self, action: NDArray[np.floating]) -> Step:
        """Carry out one action [A].

        Raises:
            EnvironmentLostError: the process was lost.
        """
        step = self.process.step(action)
        self._steps, self._last = self._steps + 1, step
        return step

    def frame(self, cameras: Sequence[str] = ()) -> BenchFrame:
        """What is seen now, with pictures of ``cameras``."""
        assert self._last is not None
        pictures = {}
        for name in cameras:
            camera = self.embodiment.camera(name)
            pictures[name] = self.process.render(name, camera.height, camera.width)
        return BenchFrame(
            self._last.state.astype(np.float32),
            self._last.environment_state.astype(np.float32),
            self.now_ns,
            pictures,
        )

    def observe(self, frames: Sequence[BenchFrame], cameras: Sequence[str] = ()) -> Observation:
        """The last To frames as a policy's observation."""
        return Observation(
            state=np.stack([f.state for f in frames]),
            time_ns=np.array([f.time_ns for f in frames], np.int64),
            embodiment=self.embodiment.hash,
            image={name: np.stack([f.image[name] for f in frames]) for name in cameras},
            environment_state=np.stack([f.environment_state for f in frames]),
            language=self.task.instruction,
        )

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _make(self) -> TaskSpec:
        self.process.start()
        spec = self.process.make(self._name, self.render_profile)
        _compare(self.embodiment, spec, f"{self.benchmark.name}/{self._name}")
        return spec


class BenchExpert:
    """The benchmark's own expert. It looks at the benchmark itself, so it has no need of the observation."""

    def __init__(self, env: BenchEnv):
        self._env = env
        self._spec = PolicySpec(env.embodiment, 1, 1, 1)

    @property
    def spec(self) -> PolicySpec:
        """One action per control step."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """values [1, A]: what the expert does at the instant of the observation.

        Raises:
            EnvironmentLostError: the process was lost.
        """
        card = self._env.embodiment
        values = self._env.process.expert()[None]
        return ActionChunk(values, int(observation.time_ns[-1]), card.control_dt_s, card.hash, horizon=1)


def _card(benchmark: Benchmark, embodiment: str | Embodiment | None) -> Embodiment:
    own = benchmark.card
    if embodiment is None:
        return own
    if isinstance(embodiment, str):
        if embodiment != own.name:
            raise EmbodimentMismatchError(
                explain(
                    f"benchmark '{benchmark.name}' has a robot of its own",
                    given=embodiment,
                    allowed=own.name,
                    mend=f"leave embodiment= out, or give embodiment={own.name}",
                )
            )
        return own
    own.require_same(embodiment, mine=f"the benchmark '{benchmark.name}'", theirs="what is to be run")
    return own


def _compare(card: Embodiment, spec: TaskSpec, task: str) -> None:
    """The card is what the project goes by, so it has to say what the benchmark says."""
    action = card.action
    differ = []
    if card.state.names != spec.state:
        differ.append(f"state {card.state.names} and {spec.state}")
    if not (np.array_equal(action.lower, spec.action_lower) and np.array_equal(action.upper, spec.action_upper)):
        differ.append(f"action ranges {action.lower, action.upper} and {spec.action_lower, spec.action_upper}")
    if abs(card.control_hz - spec.control_hz) > 1e-3 * spec.control_hz:
        differ.append(f"rates {card.control_hz:g} and {spec.control_hz:g} Hz")
    unknown = [camera.name for camera in card.cameras if camera.name not in spec.cameras]
    if unknown:
        differ.append(f"cameras {unknown}, the task has {spec.cameras}")
    if differ:
        what = f"the card '{card.name}' and the task '{task}' contradict each other"
        raise EmbodimentMismatchError(explain(what, given="; ".join(differ), mend="correct the card"))
