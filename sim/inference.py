"""One process holds the policy, worker processes simulate and ask it.

::

    worker 0   step, render  --observation in its slot-->  wait      <--chunk in its slot--  execute
    worker 1   step, render  --observation in its slot-->  wait      <--chunk in its slot--  execute
    parent     take every request that waits, pad the batch to a fixed size, one pass, answer each

Arrays travel through anonymous shared memory, one slot per worker; over the pipe goes only where they lie.

**What batching may not change.** The kernels of a neural network round differently for other batch sizes, and for some
sizes even for other rows of a batch. So every pass has the same size, missing rows being repetitions whose results are
thrown away, and before the first pass the policy is tried: if a row's result depends on where in the batch it stands or
on its neighbours, requests are answered one at a time. That choice depends on policy and machine only, so results are
the same for any number of workers and any order of their requests.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import reduction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.shared_block import SharedBlock
from robopolicy.errors import ConfigError, RobopolicyError, SimulationError, explain
from robopolicy.protocols import BatchPolicy, Policy, PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["SLOT_BYTES", "InferenceServer", "RemotePolicy", "Slot", "row_independent"]

SLOT_BYTES = 1 << 28
"""Address space of one worker's slot; only what is written takes memory."""

_ALIGN = 64
T = TypeVar("T")
Place = tuple[str, tuple[int, ...], int]
"""dtype, shape and offset of an array in a slot."""


class Slot:
    """Shared memory of one worker and the process that answers it; can be handed to a process being spawned."""

    def __init__(self, nbytes: int = SLOT_BYTES):
        self._block = SharedBlock(nbytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"nbytes": self._block.nbytes, "fd": reduction.DupFd(self._block.fd)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._block = SharedBlock(state["nbytes"], fd=state["fd"].detach())

    def put(self, value: Any) -> dict[str, Any]:
        """Write every array of a dataclass, also those inside its mappings; the rest comes back as it is.

        Returns:
            Field -> value, with a :class:`_Arrays` in the place of what was written.

        Raises:
            SimulationError: larger than the slot.
        """
        end = 0

        def write(array: NDArray[Any]) -> Place:
            nonlocal end
            start = -(-end // _ALIGN) * _ALIGN
            end = start + array.nbytes
            if end > self._block.nbytes:
                raise SimulationError(
                    explain(
                        "an observation does not fit a worker's slot",
                        given=f"{end} B",
                        allowed=self._block.nbytes,
                        mend="use fewer or smaller cameras, or inference=worker",
                    )
                )
            self._block.array(array.shape, array.dtype, start)[...] = array
            return array.dtype.str, array.shape, start

        described: dict[str, Any] = {}
        for item in dataclasses.fields(value):
            held = getattr(value, item.name)
            if isinstance(held, np.ndarray):
                described[item.name] = _Arrays({None: write(held)})
            elif isinstance(held, Mapping) and held and all(isinstance(v, np.ndarray) for v in held.values()):
                described[item.name] = _Arrays({name: write(v) for name, v in held.items()})
            else:
                described[item.name] = held
        return described

    def get(self, cls: type[T], described: Mapping[str, Any]) -> T:
        """The dataclass again, with arrays of its own."""
        values = {}
        for name, held in described.items():
            if isinstance(held, _Arrays):
                found = {k: self._block.array(s, np.dtype(d), o).copy() for k, (d, s, o) in held.places.items()}
                values[name] = found.get(None, found)
            else:
                values[name] = held
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """Where the arrays of one field lie: under their names, or under None if it is one array."""

    places: Mapping[str | None, Place]


@dataclasses.dataclass(frozen=True)
class _Request:
    """What a worker asks over its pipe. ``rng`` is a seed or the state of a PCG64."""

    observation: Mapping[str, Any]
    rng: int | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What it gets. ``cpu_s`` is its share of the pass."""

    chunk: Mapping[str, Any] | None
    cpu_s: float = 0.0
    problem: str | None = None


class RemotePolicy:
    """A :class:`~robopolicy.protocols.Policy` in a worker that asks the process that holds the real one.

    Args:
        spec: Of the real one.
        slot: Memory shared with it.
        ask: Sends a request and waits for the answer.
    """

    def __init__(self, spec: PolicySpec, slot: Slot, ask: Callable[[Any], Any]):
        self._spec, self._slot, self._ask = spec, slot, ask
        self._cpu_s = 0.0

    @property
    def spec(self) -> PolicySpec:
        """Needs of the real one."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """What the real one answers.

        Raises:
            SimulationError: it failed, or a prefix or goal is given, which do not travel.
        """
        if prefix is not None or goal is not None:
            raise SimulationError(explain("a shared policy takes no prefix and no goal", mend="use inference=worker"))
        state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng
        answer: _Answer = self._ask(_Request(self._slot.put(observation), state))
        if answer.chunk is None:
            raise SimulationError(f"the policy failed: {answer.problem}")
        self._cpu_s += answer.cpu_s
        return self._slot.get(ActionChunk, answer.chunk)

    def take_cpu_s(self) -> float:
        """CPU seconds that the real one spent for this worker since the last call."""
        spent, self._cpu_s = self._cpu_s, 0.0
        return spent


class InferenceServer:
    """Answers the requests of all workers in batches of one fixed size.

    Args:
        policy: The real policy; without :class:`~robopolicy.protocols.BatchPolicy` it is asked one by one.
        batch: Rows of every pass; 1 for one by one.

    Attributes:
        rows: Rows of a pass after the trial: ``batch``, or 1 where batches would not be trustworthy.
        passes, requests: How often the policy was run, and for how many requests.
    """

    def __init__(self, policy: Policy, batch: int = 8):
        if batch < 1:
            raise ConfigError(explain("inference_batch must be at least 1", given=batch))
        self.policy = policy
        self._wanted = batch if isinstance(policy, BatchPolicy) else 1
        self.rows: int | None = 1 if self._wanted == 1 else None
        self.passes = self.requests = 0

    def describe(self) -> str:
        """In words how the requests were answered, for the report."""
        if self.rows is None or self.rows > 1:
            return f"shared, passes of {self._wanted}"
        if not isinstance(self.policy, BatchPolicy) or self._wanted == 1:
            return "shared, one at a time"
        return f"shared, one at a time: in passes of {self._wanted} a row would depend on the others or on its place"

    def answer(self, waiting: Sequence[tuple[Slot, Any]]) -> list[Any]:
        """An answer for each request, in their order.

        Args:
            waiting: Slot and request of each worker that asked; at least one.
        """
        observations = [slot.get(Observation, request.observation) for slot, request in waiting]
        rngs = [_generator(request.rng) for _, request in waiting]
        if self.rows is None:
            independent = row_independent(self.policy, observations[0], self._wanted)
            self.rows = self._wanted if independent else 1
        answers: list[Any] = []
        for first in range(0, len(waiting), self.rows):
            part = slice(first, first + self.rows)
            answers += self._pass(waiting[part], observations[part], rngs[part])
        return answers

    def _pass(
        self, waiting: Sequence[tuple[Slot, Any]], observations: list[Observation], rngs: list[np.random.Generator]
    ) -> list[_Answer]:
        begin = time.process_time()
        try:
            if self.rows == 1 or not isinstance(self.policy, BatchPolicy):
                chunks = [self.policy.act(o, rng=r) for o, r in zip(observations, rngs, strict=True)]
            else:
                chunks = _padded(self.policy, observations, rngs, self.rows or 1)
        except Exception as error:
            return [_Answer(None, problem=f"{type(error).__name__}: {error}") for _ in waiting]
        self.passes += 1
        self.requests += len(waiting)
        share_s = (time.process_time() - begin) / len(waiting)
        return [_Answer(slot.put(chunk), share_s) for (slot, _), chunk in zip(waiting, chunks, strict=True)]


def row_independent(policy: Policy, like: Observation, rows: int, seed: int = 0) -> bool:
    """Whether a row of a batch comes out the same, bit for bit, at every place and beside any neighbour.

    Tried with made-up observations, so that it does not depend on which request happens to be the first.

    Args:
        policy: A :class:`~robopolicy.protocols.BatchPolicy`.
        like: Shapes of an observation.
        rows: Size of the batch.
        seed: Of the made-up observations.
    """
    assert isinstance(policy, BatchPolicy)
    draw = np.random.default_rng(seed)
    made = [_made_up(like, draw) for _ in range(3)]
    reference: NDArray[Any] | None = None
    try:
        for place in range(rows):
            chosen = [1 + int(draw.integers(2)) for _ in range(rows)]
            chosen[place] = 0
            values = np.asarray(policy.act_batch([made[i] for i in chosen], list(chosen))[place].values)
            if reference is None:
                reference = values
            elif not np.array_equal(values, reference):
                return False
    except RobopolicyError:  # it refuses what was made up, so nothing is known: one by one is always right
        return False
    return True


def _made_up(like: Observation, draw: np.random.Generator) -> Observation:
    """An observation of the same shapes; times and words stay."""

    def other(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: other(name, item) for key, item in value.items()}
        if not isinstance(value, np.ndarray) or name == "time_ns":
            return value
        if np.issubdtype(value.dtype, np.floating):
            return np.asarray(draw.uniform(0, 1, value.shape), value.dtype)
        if value.dtype == bool:
            return draw.integers(0, 2, value.shape).astype(bool)
        return draw.integers(0, 256, value.shape).astype(value.dtype)

    return Observation(**{f.name: other(f.name, getattr(like, f.name)) for f in dataclasses.fields(like)})


def _padded(
    policy: BatchPolicy, observations: list[Observation], rngs: list[np.random.Generator], rows: int
) -> list[ActionChunk]:
    empty = rows - len(observations)
    chunks = policy.act_batch([*observations, *[observations[0]] * empty], [*rngs, *[0] * empty])
    return list(chunks[: len(observations)])


def _generator(state: int | Mapping[str, Any]) -> np.random.Generator:
    if not isinstance(state, Mapping):
        return np.random.default_rng(state)
    bits = np.random.PCG64()
    bits.state = dict(state)  # type: ignore[assignment]
    return np.random.Generator(bits)
