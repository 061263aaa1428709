"""The parent's end of a benchmark's process: commands with deadlines; what dies, hangs or talks nonsense is ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, MissingDependencyError, SimulationError, explain, suggest
from robopolicy.schema import build_collecting, setting
from robopolicy.sim.bench.benchmark import Benchmark, episode_seed
from robopolicy.sim.bench.guest.wire import PROTOCOL, Channel, ClosedError, DeadlineError, Message, WireError
from robopolicy.sim.bench.venv import environment_python

__all__ = ["LAUNCH", "BenchmarkProcess", "EnvironmentLostError", "Start", "Step", "TaskSpec", "command_line"]

LAUNCH = Path(__file__).parent / "guest" / "launch.py"
"""What the benchmark's interpreter runs."""

_TAIL_BYTES = 1500


class EnvironmentLostError(SimulationError):
    """The benchmark's process died, hung or spoke nonsense; it has been ended. Nothing is known of the policy.

    Attributes:
        termination: ``environment_crashed`` or ``environment_hung``.
    """

    def __init__(self, message: str, termination: str = "environment_crashed"):
        super().__init__(message)
        self.termination = termination


@dataclass(frozen=True)
class TaskSpec:
    """What a task looks like, as its process says; see ``guest/adapter.py``."""

    state: tuple[str, ...] = setting("names of proprioception")
    environment_state: tuple[str, ...] = setting("names of object and goal state")
    action_lower: tuple[float, ...] = setting("lowest action")
    action_upper: tuple[float, ...] = setting("highest action")
    rest: tuple[float | None, ...] = setting("action that leaves a channel as it is; null keeps the last one sent")
    control_hz: float = setting("actions per second", gt=0)
    horizon: int = setting("steps at most", ge=1)
    instruction: str = setting("one sentence")
    cameras: tuple[str, ...] = setting("names that render takes")
    expert: bool = setting("whether the benchmark has an expert for it")


@dataclass(frozen=True)
class Start:
    """An episode after reset.

    Attributes:
        state: f64 [S].
        environment_state: f64 [E].
        initial_state: What it began from, by name.
        rest: f64 [A] action that keeps the robot where it is.
    """

    state: NDArray[np.float64]
    environment_state: NDArray[np.float64]
    initial_state: dict[str, float]
    rest: NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What one action led to.

    Attributes:
        state: f64 [S].
        environment_state: f64 [E].
        reward: None where the benchmark gave no finite one.
        terminated: The benchmark ended the episode.
        truncated: It cut the episode.
        success: Its verdict on this instant.
        metrics: Further numbers.
    """

    state: NDArray[np.float64]
    environment_state: NDArray[np.float64]
    reward: float | None
    terminated: bool
    truncated: bool
    success: bool
    metrics: dict[str, float]


def command_line(benchmark: Benchmark, *words: str) -> list[str]:
    """How the benchmark's process is started; ``words`` say which descriptors it speaks on.

    Raises:
        MissingDependencyError: its environment is not there.
    """
    return [str(environment_python(benchmark)), "-u", str(LAUNCH), benchmark.adapter_argument, *words]


class BenchmarkProcess:
    """A benchmark behind a pair of sockets.

    Every call has a deadline. A process that dies, is late, or sends anything but a fitting answer is killed and the
    call raises :class:`EnvironmentLostError`; the next call to :meth:`start` makes a new one.

    Args:
        benchmark: Which.
    """

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._log: Any = None
        self._number = 0
        self._spec: TaskSpec | None = None
        self._finalizer: weakref.finalize[[subprocess.Popen[bytes]], BenchmarkProcess] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process to talk to."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start and after the end."""
        return self._process.pid if self._process is not None else None

    def start(self) -> dict[str, str]:
        """Start the process unless it runs; returns the benchmark's versions.

        Raises:
            MissingDependencyError: its environment is not there.
            EnvironmentLostError: it did not come up.
        """
        if self.running:
            return self.versions
        self.kill()
        ours, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with theirs:
            command = command_line(self.benchmark, "--fd", str(theirs.fileno()))
            try:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    env=self.benchmark.environment(),
                )
            except OSError as error:
                ours.close()
                raise MissingDependencyError(
                    explain(f"cannot run {command[0]}", given=error.strerror, mend="robopolicy bench-env create")
                ) from error
        self._finalizer = weakref.finalize(self, _end, self._process)
        descriptor = ours.detach()
        self._channel = Channel(descriptor, descriptor)
        answer = self._call("hello", {"protocol": PROTOCOL}, self.benchmark.deadline_s.start)
        found = answer.body.get("versions")
        if answer.body.get("protocol") != PROTOCOL or not isinstance(found, dict):
            raise self._lost("its greeting is of another protocol", "environment_crashed")
        self.versions = {str(k): str(v) for k, v in found.items()}
        return self.versions

    def tasks(self) -> list[str]:
        """All task names of the benchmark."""
        self.start()
        return [str(name) for name in self._call("tasks", {}, self.benchmark.deadline_s.make).body.get("tasks", ())]

    def require(self, task: str) -> None:
        """Refuse a name that the benchmark does not know.

        Raises:
            ConfigError: naming those that it does.
        """
        known = self.tasks()
        if task not in known:
            shown = [f"{self.benchmark.name}/{name}" for name in known]
            given = f"{self.benchmark.name}/{task}"
            mend = suggest(given, shown)
            raise ConfigError(explain("the benchmark has no such task", given=given, allowed=shown, mend=mend))

    def make(self, task: str, render_profile: str) -> TaskSpec:
        """Build a task.

        Raises:
            ConfigError: no such task.
            EnvironmentLostError: see the class.
        """
        self.require(task)
        answer = self._call("make", {"task": task, "render_profile": render_profile}, self.benchmark.deadline_s.make)
        spec, problems = build_collecting(TaskSpec, answer.body, f"{self.benchmark.name}/{task}")
        widths = {len(answer.body.get(k, ())) for k in ("action_lower", "action_upper", "rest")}
        if spec is None or len(widths) != 1:
            raise self._lost(f"it described its task badly: {'; '.join(problems)[:300]}", "environment_crashed")
        self._spec = spec
        return spec

    def reset(self, split: str, index: int) -> Start:
        """Start episode ``index`` of ``split``."""
        request = {"split": split, "index": index, "seed": episode_seed(split, index)}
        answer = self._call("reset", request, self.benchmark.deadline_s.reset)
        state, environment = self._observed(answer)
        initial, rest = answer.body.get("initial_state"), answer.body.get("rest")
        numbers = [*initial.values(), *rest] if isinstance(initial, dict) and isinstance(rest, list) else [None]
        if not all(isinstance(value, (int, float)) for value in numbers) or len(rest or ()) != len(self._made().rest):
            raise self._lost("its initial state cannot be read", "environment_crashed")
        if not (np.isfinite(state).all() and np.isfinite(environment).all()):
            raise self._lost("its first observation is not finite", "environment_crashed")
        return Start(state, environment, dict(initial or {}), np.array(rest, float))

    def step(self, action: NDArray[np.floating]) -> Step:
        """Carry out one action [A]; a step that diverged has numbers that are not finite."""
        arrays = {"action": np.asarray(action, np.float64)}
        answer = self._call("step", {}, self.benchmark.deadline_s.step, arrays)
        state, environment = self._observed(answer)
        body = answer.body
        reward, metrics = body.get("reward"), body.get("metrics", {})
        flags = [body.get(name) for name in ("terminated", "truncated", "success")]
        fits = reward is None or isinstance(reward, (int, float))
        if not (fits and all(isinstance(flag, bool) for flag in flags) and isinstance(metrics, dict)):
            raise self._lost("its answer to a step cannot be read", "environment_crashed")
        terminated, truncated, success = map(bool, flags)
        return Step(state, environment, reward, terminated, truncated, success, metrics)

    def expert(self) -> NDArray[np.float64]:
        """What the benchmark's own expert does now, f64 [A]."""
        answer = self._call("expert", {}, self.benchmark.deadline_s.step)
        action = answer.arrays.get("action")
        if action is None or action.shape != (len(self._made().rest),) or not np.isfinite(action).all():
            raise self._lost("its expert gave no usable action", "environment_crashed")
        return action

    def render(self, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """A picture now, uint8 [H, W, 3]."""
        body = {"camera": camera, "height": height, "width": width}
        image = self._call("render", body, self.benchmark.deadline_s.render).arrays.get("image")
        if image is None or image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise self._lost("it rendered something else than asked", "environment_crashed")
        return image

    def close(self) -> None:
        """End the process politely, or by force after a moment."""
        if self.running and self._channel is not None:
            # one that dies while closing has closed
            with contextlib.suppress(WireError):
                self._channel.send(Message("close", self._number + 1), 2.0)
                self._channel.receive(5.0)
        self.kill()

    def kill(self) -> None:
        """End the process now."""
        if self._finalizer is not None:
            self._finalizer()
        if self._channel is not None:
            self._channel.close()
        if self._log is not None:
            self._log.close()
        self._process = self._channel = self._log = self._finalizer = self._spec = None

    def _made(self) -> TaskSpec:
        if self._spec is None:
            raise SimulationError(explain("no task has been made", mend="call make first"))
        return self._spec

    def _call(
        self, kind: str, body: dict[str, Any], deadline_s: float, arrays: dict[str, NDArray[Any]] | None = None
    ) -> Message:
        if self._channel is None:
            raise EnvironmentLostError(explain("the benchmark's process is not running", mend="start it again"))
        self._number += 1
        try:
            self._channel.send(Message(kind, self._number, body, arrays or {}), deadline_s)
            answer = self._channel.receive(deadline_s)
        except DeadlineError:
            raise self._lost(f"it did not answer '{kind}' within {deadline_s:g} s", "environment_hung") from None
        except ClosedError:
            raise self._lost(f"it died in '{kind}'", "environment_crashed") from None
        except WireError as error:
            raise self._lost(f"its answer to '{kind}' is no frame: {error}", "environment_crashed") from error
        if answer.id != self._number or answer.kind not in ("ok", "error"):
            raise self._lost(f"it answered '{kind}' with '{answer.kind[:20]}' to something else", "environment_crashed")
        if answer.kind == "error":
            message = str(answer.body.get("message"))
            if answer.body.get("fault") == "request":
                raise SimulationError(explain(f"{self.benchmark.name} refuses '{kind}'", given=message))
            raise self._lost(f"it failed in '{kind}': {message}", "environment_crashed")
        return answer

    def _observed(self, answer: Message) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        spec = self._made()
        for name in ("state", "environment_state"):
            value, width = answer.arrays.get(name), len(getattr(spec, name))
            if value is None or value.dtype != np.float64 or value.shape != (width,):
                given = None if value is None else (value.dtype.str, value.shape)
                raise self._lost(f"'{name}' is {given} instead of f64 [{width}]", "environment_crashed")
        return answer.arrays["state"], answer.arrays["environment_state"]

    def _lost(self, what: str, termination: str) -> EnvironmentLostError:
        """End the process and say what happened, with the end of what it printed."""
        process, tail = self._process, ""
        if process is not None and termination == "environment_crashed":
            # a process that is dying by itself gets the moment to set its exit code
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        code = process.poll() if process is not None else None
        if self._log is not None:
            self._log.seek(0, 2)
            self._log.seek(max(self._log.tell() - _TAIL_BYTES, 0))
            tail = " | ".join(self._log.read().decode(errors="replace").strip().splitlines()[-4:])
        self.kill()
        ended = "" if code is None else f" (exit code {code})"
        return EnvironmentLostError(
            explain(f"the process of benchmark '{self.benchmark.name}' was lost: {what}{ended}", given=tail or None),
            termination,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
