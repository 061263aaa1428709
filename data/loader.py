"""Batches of torch tensors in a given order, gathered in this process or ahead of time by worker processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.batch_memory import BatchMemory
from robopolicy.data.frame_cache import FrameTier
from robopolicy.errors import DataError, RobopolicyError, explain

if TYPE_CHECKING:
    from robopolicy.data.ring import Ring
    from robopolicy.types import Batch

__all__ = ["BatchSource", "Loader"]

AHEAD = 2
"""Batches that each worker works on or has ready before they are asked for."""
LENT = 2
"""Batches that the caller can hold without a copy: the one in use and the one before."""


class BatchSource(Protocol):
    """What a loader asks of a data set; :class:`~robopolicy.data.windows.WindowDataset` is one."""

    def __len__(self) -> int: ...

    @property
    def frame_tiers(self) -> Mapping[str, FrameTier]:
        """Source of frames -> tier; named like its array, with ``#n`` behind it where several serve one array."""
        ...

    def array_layout(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Arrays of a batch: name -> (shape without B, dtype)."""
        ...

    def gather_low(self, indices: NDArray[np.integer], out: Mapping[str, NDArray[Any]]) -> None:
        """Write everything but frames."""
        ...

    def frame_places(self, indices: NDArray[np.integer]) -> Mapping[str, NDArray[np.int64]]:
        """Source -> int64 [B * To] place in its tier, -1 where another source delivers."""
        ...

    def to_batch(self, arrays: Mapping[str, NDArray[Any]], indices: NDArray[np.integer]) -> Batch:
        """Tensors over the arrays."""
        ...


class Loader:
    """Turns an order of windows into batches. The result depends on the order alone, never on ``workers``.

    A context manager; :meth:`close` ends the workers, and so does the end of this object or of the process.
    """

    def __init__(self, dataset: BatchSource, batch_size: int, workers: int = 0):
        """Nothing is read yet, no process is started yet.

        Args:
            dataset: Windows.
            batch_size: Windows per batch; the last batch of an order may be smaller.
            workers: Processes that gather frames ahead, see :mod:`robopolicy.data.ring`; 0 gathers in the calling
                thread, which is enough once frames are cached. Without cameras there is nothing for them to do and
                none are started.

        Raises:
            DataError: a batch size below 1 or a negative number of workers.
        """
        if batch_size < 1 or workers < 0:
            raise DataError(
                explain("unusable loader", given=(batch_size, workers), allowed="batch_size >= 1, workers >= 0")
            )
        self.dataset, self.batch_size = dataset, batch_size
        self.workers = workers if dataset.frame_tiers else 0
        self._memory = BatchMemory()
        self._ring: Ring | None = None
        self._jobs: deque[tuple[int, NDArray[np.integer]]] = deque()
        self._pid = os.getpid()
        self._round = 0

    def num_batches(self, num_windows: int) -> int:
        """Batches that an order of ``num_windows`` windows gives."""
        return -(-num_windows // self.batch_size)

    def batches(self, indices: NDArray[np.integer]) -> Iterator[Batch]:
        """Batches of the windows ``indices`` [n], in that order, as CPU tensors that the caller may keep.

        With workers one iteration at a time: a new one ends the one before.

        Raises:
            ShapeError, DataError: as :meth:`WindowDataset.gather`; a worker died; this iteration was ended by another.
        """
        parts = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        return self._from_ring(parts) if self.workers else map(self.batch, parts)

    def batch(self, indices: NDArray[np.integer]) -> Batch:
        """One batch of the windows ``indices`` [B], gathered here."""
        data = self.dataset
        arrays = self._memory.empty(data.array_layout(), len(indices))
        data.gather_low(indices, arrays)
        for name, places in data.frame_places(indices).items():
            tier, out = data.frame_tiers[name], arrays[name.partition("#")[0]]
            flat = out.reshape(-1, *tier.frame)
            wanted = places >= 0
            if wanted.all():
                tier.gather(places, flat)
            elif wanted.any():
                part = np.empty((int(wanted.sum()), *tier.frame), tier.dtype)
                tier.gather(places[wanted], part)
                flat[wanted] = part
        return data.to_batch(arrays, indices)

    def close(self) -> None:
        """End the workers; batches stay good, and a later iteration starts new ones. Harmless when done twice."""
        if self._ring is not None:
            self._ring.close()
        self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _from_ring(self, parts: list[NDArray[np.integer]]) -> Iterator[Batch]:
        self._abandon()
        self._round += 1
        mine, waiting = self._round, deque(parts)
        try:
            while waiting or self._jobs:
                if mine != self._round:
                    raise DataError(explain("another iteration over this loader has begun", mend="use two loaders"))
                ring = self._started()
                while waiting and len(self._jobs) < AHEAD * self.workers:
                    self._jobs.append(self._submit(ring, waiting.popleft()))
                slot, part = self._jobs.popleft()
                try:
                    ring.wait(slot)
                except RobopolicyError:
                    ring.free.append(slot)
                    raise
                yield self.dataset.to_batch(self._take(ring, slot, len(part)), part)
        finally:
            if mine == self._round:
                self._abandon()

    def _started(self) -> Ring:
        if self._ring is None or self._pid != os.getpid():
            from robopolicy.data.ring import Ring

            data, self._pid = self.dataset, os.getpid()
            slots = AHEAD * self.workers + LENT
            self._ring = Ring(data.array_layout(), data.frame_tiers, self.batch_size, slots, self.workers)
            self._jobs.clear()
        return self._ring

    def _submit(self, ring: Ring, part: NDArray[np.integer]) -> tuple[int, NDArray[np.integer]]:
        places = self.dataset.frame_places(part)
        slot = ring.free.pop()
        try:
            self.dataset.gather_low(part, ring.arrays(slot, len(part)))
            ring.submit(slot, len(part), places)
        except BaseException:
            ring.free.append(slot)
            raise
        return slot, part

    def _take(self, ring: Ring, slot: int, rows: int) -> dict[str, NDArray[Any]]:
        """Arrays of a filled slot: the slot itself, or copies where the caller holds enough slots already."""
        lent = ring.slots - len(ring.free) - len(self._jobs) - 1
        if lent < LENT:
            return ring.lend(slot, rows)
        copies = {name: values.copy() for name, values in ring.arrays(slot, rows).items()}
        ring.free.append(slot)
        return copies

    def _abandon(self) -> None:
        """Free what was submitted and is not wanted any more; forget a ring that has ended."""
        if self._ring is not None and not self._ring.alive:
            self._ring = None
        if self._ring is not None and self._pid == os.getpid():
            self._ring.abandon([slot for slot, _ in self._jobs])
        self._jobs.clear()
