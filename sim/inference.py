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
the same for any number of workers and any order of their requests. Requests with what is still scheduled (real-time
chunking) go through other kernels, so they are tried and passed by themselves.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import reduction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.between import Prefix
from robopolicy.data.shared_block import SharedBlock
from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.protocols import BatchPolicy, Policy, PolicySpec
from robopolicy.sim.row_independence import row_independent
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
        return self.put_all([value])[0]

    def put_all(self, values: Sequence[Any]) -> list[dict[str, Any]]:
        """:meth:`put` for several dataclasses, one behind the other."""
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

        def describe(held: Any) -> Any:
            if isinstance(held, np.ndarray):
                return _Arrays({None: write(held)})
            if isinstance(held, Mapping) and held and all(isinstance(v, np.ndarray) for v in held.values()):
                return _Arrays({name: write(v) for name, v in held.items()})
            return held

        return [{f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)} for value in values]

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
    prefix: Mapping[str, Any] | None = None


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
            SimulationError: it failed, or a goal is given beside the observation's, which does not travel.
        """
        if goal is not None:
            raise SimulationError(explain("a shared policy takes no goal", mend="use inference=worker"))
        state = rng.bit_generator.state if isinstance(rng, np.random.Generator) else rng
        if prefix is None:
            request = _Request(self._slot.put(observation), state)
        else:
            told = prefix if isinstance(prefix, Prefix) else Prefix(**vars(prefix))
            seen, ahead = self._slot.put_all([observation, told])
            request = _Request(seen, state, ahead)
        answer: _Answer = self._ask(request)
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
        rows: Rows of a pass without a prefix after the trial: ``batch``, or 1 where batches would not be trustworthy.
        told_rows: The same of a pass with prefixes.
        passes, requests: How often the policy was run, and for how many requests.
    """

    def __init__(self, policy: Policy, batch: int = 8):
        if batch < 1:
            raise ConfigError(explain("inference_batch must be at least 1", given=batch))
        self.policy = policy
        self._wanted = batch if isinstance(policy, BatchPolicy) else 1
        one_by_one = self._wanted == 1
        self.rows: int | None = 1 if one_by_one else None
        self.told_rows: int | None = 1 if one_by_one or not _takes_prefixes(policy) else None
        self.passes = self.requests = 0

    def describe(self) -> str:
        """In words how the requests were answered, for the report."""
        if self.rows is None or self.rows > 1:
            alone = self.told_rows == 1 and isinstance(self.policy, BatchPolicy) and _takes_prefixes(self.policy)
            return f"shared, passes of {self._wanted}" + ("; with a prefix one at a time" if alone else "")
        if not isinstance(self.policy, BatchPolicy) or self._wanted == 1:
            return "shared, one at a time"
        return f"shared, one at a time: in passes of {self._wanted} a row would depend on the others or on its place"

    def answer(self, waiting: Sequence[tuple[Slot, Any]]) -> list[Any]:
        """An answer for each request, in their order.

        Args:
            waiting: Slot and request of each worker that asked; at least one.
        """
        asked = [_Asked.of(slot, request) for slot, request in waiting]
        answers: dict[int, _Answer] = {}
        for told in (False, True):
            chosen = [i for i, one in enumerate(asked) if (one.prefix is not None) == told]
            if not chosen:
                continue
            rows = self._rows(asked[chosen[0]])
            for first in range(0, len(chosen), rows):
                part = chosen[first : first + rows]
                answers |= zip(part, self._pass([asked[i] for i in part], rows), strict=True)
        return [answers[i] for i in range(len(waiting))]

    def _rows(self, like: _Asked) -> int:
        """Rows of a pass for requests of this kind; tried before the first."""
        if like.prefix is None:
            if self.rows is None:
                self.rows = self._wanted if row_independent(self.policy, like.observation, self._wanted) else 1
            return self.rows
        if self.told_rows is None:
            sound = row_independent(self.policy, like.observation, self._wanted, like_prefix=like.prefix)
            self.told_rows = self._wanted if sound else 1
        return self.told_rows

    def _pass(self, asked: Sequence[_Asked], rows: int) -> list[_Answer]:
        begin = time.process_time()
        try:
            if rows == 1 or not isinstance(self.policy, BatchPolicy):
                chunks = [_act(self.policy, one) for one in asked]
            else:
                chunks = _padded(self.policy, asked, rows)
        except Exception as error:
            return [_Answer(None, problem=f"{type(error).__name__}: {error}") for _ in asked]
        self.passes += 1
        self.requests += len(asked)
        share_s = (time.process_time() - begin) / len(asked)
        return [_Answer(one.slot.put(chunk), share_s) for one, chunk in zip(asked, chunks, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A request with arrays of its own."""

    slot: Slot
    observation: Observation
    rng: np.random.Generator
    prefix: Prefix | None

    @classmethod
    def of(cls, slot: Slot, request: _Request) -> _Asked:
        prefix = None if request.prefix is None else slot.get(Prefix, request.prefix)
        return cls(slot, slot.get(Observation, request.observation), _generator(request.rng), prefix)


def _act(policy: Policy, one: _Asked) -> ActionChunk:
    told = {} if one.prefix is None else {"prefix": one.prefix}
    return policy.act(one.observation, rng=one.rng, **told)


def _takes_prefixes(policy: Policy) -> bool:
    return isinstance(policy, BatchPolicy) and "prefixes" in inspect.signature(policy.act_batch).parameters


def _padded(policy: BatchPolicy, asked: Sequence[_Asked], rows: int) -> list[ActionChunk]:
    filled = [*asked, *[asked[0]] * (rows - len(asked))]
    rngs: list[int | np.random.Generator] = [*[one.rng for one in asked], *[0] * (rows - len(asked))]
    told = ([one.prefix for one in filled],) if asked[0].prefix is not None else ()
    return list(policy.act_batch([one.observation for one in filled], rngs, *told)[: len(asked)])


def _generator(state: int | Mapping[str, Any]) -> np.random.Generator:
    if not isinstance(state, Mapping):
        return np.random.default_rng(state)
    bits = np.random.PCG64()
    bits.state = dict(state)  # type: ignore[assignment]
    return np.random.Generator(bits)
