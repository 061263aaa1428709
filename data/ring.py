"""Worker processes that fill batches in a ring of shared memory; no array is ever pickled or sent.

::

    parent                                       worker 0, 1, ...
    numbers and frame addresses -> slot 3        (slot, rows) over a socket: 24 bytes
                                                 decode / copy the frames into slot 3
    tensors over slot 3  <-  "slot 3 done"

**A slot is reused only when no array of its batch is alive.** Each batch is made of views of one array; the ring holds
a weak reference to it, and when the last tensor goes, the slot is free. A caller that keeps batches gets copies once
the ring runs short, never a batch that changes under it.

Workers are fresh interpreters (nothing is forked, so threads and locks of the parent do not matter), with one thread
each. If the parent dies, by ``kill -9`` too, they end by themselves, and the memory has no name to be left behind. If
one of them dies, the next batch raises at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy import errors
from robopolicy.data.codecs import FRAME_OFFSET
from robopolicy.data.frame_cache import FrameTier
from robopolicy.data.ring_worker import COMMAND, FILL, GATHER, REPLY, receive
from robopolicy.data.shared_block import SharedBlock, aligned
from robopolicy.errors import DataError, explain

__all__ = ["Layout", "Ring"]

_LOOK_S = 1.0

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Name -> (shape without the batch axis, dtype)."""


class Ring:
    """Slots of one batch each, and the processes that fill them."""

    def __init__(self, layout: Layout, tiers: Mapping[str, FrameTier], batch_size: int, slots: int, workers: int):
        """Start the workers and share out what has to be decoded beforehand.

        Args:
            layout: Arrays of a batch.
            tiers: Source number -> frames; the name is that of the array, or ``array#n`` where several sources
                serve one array.
            batch_size: Windows per slot.
            slots: Batches in memory.
            workers: Processes.

        Raises:
            DataError: a worker died or could not read.
            StorageError: no memory.
        """
        self.batch_size, self.slots, self._pid = batch_size, slots, os.getpid()
        self._layout, self._offsets, at = dict(layout), {}, 0
        for name, (shape, dtype) in layout.items():
            self._offsets[name] = at + FRAME_OFFSET
            at += aligned(FRAME_OFFSET + batch_size * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._sources = list(tiers)
        self._addresses: dict[str, tuple[int, int]] = {}
        for name in self._sources:
            per_window = int(layout[name.partition("#")[0]][0][0])
            self._addresses[name] = (at, per_window)
            at += aligned(8 * batch_size * per_window)
        self.slot_bytes = at
        for tier in tiers.values():
            if not hasattr(tier, "missing"):
                tier.prepare()
        self._block = SharedBlock(self.slot_bytes * slots)
        self.free = list(range(slots))
        self._busy: dict[int, int] = {}  # slot -> worker
        self._done: set[int] = set()
        self._failed: dict[int, Exception] = {}
        plan, fds = self._plan(tiers)
        self._workers = [_start(plan, fds) for _ in range(workers)]
        self._close = weakref.finalize(self, _stop, self._workers, self._pid)
        for number in range(workers):
            self._answer(number)
        self._fill(tiers)

    def arrays(self, slot: int, rows: int) -> dict[str, NDArray[Any]]:
        """Views of the first ``rows`` windows of a slot; see the module for how long they are good."""
        root = self._block.array((self.slot_bytes,), np.uint8, slot * self.slot_bytes)
        made = {}
        for name, (shape, dtype) in self._layout.items():
            size = rows * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            part = root[self._offsets[name] : self._offsets[name] + size]
            made[name] = part.view(dtype).reshape(rows, *shape)
        return made

    def submit(self, slot: int, rows: int, places: Mapping[str, NDArray[np.int64]]) -> None:
        """Have the frames of a slot filled.

        Args:
            slot: From :attr:`free`.
            rows: Windows.
            places: Source -> int64 [rows * per window], -1 where another source of the array delivers.

        Raises:
            DataError: the worker has died.
        """
        base = slot * self.slot_bytes
        for name in self._sources:
            at, per_window = self._addresses[name]
            self._block.array((rows * per_window,), np.int64, base + at)[:] = places[name]
        loads = [sum(w == number for w in self._busy.values()) for number in range(len(self._workers))]
        number = int(np.argmin(loads))
        self._busy[slot] = number
        self._send(number, GATHER, slot, rows)

    def wait(self, slot: int) -> None:
        """Return when a submitted slot is filled.

        Raises:
            RobopolicyError: what its worker raised.
            DataError: a worker died.
        """
        while slot not in self._done:
            self._collect()
        self._done.discard(slot)
        if slot in self._failed:
            raise self._failed.pop(slot)

    def abandon(self, slots: list[int]) -> None:
        """Wait for submitted slots that nobody wants any more, and free them."""
        for slot in slots:
            with contextlib.suppress(errors.RobopolicyError):
                self.wait(slot)
            self.free.append(slot)

    def lend(self, slot: int, rows: int) -> dict[str, NDArray[Any]]:
        """Arrays of a filled slot, which is freed when the last of them and of their views is gone."""
        arrays = self.arrays(slot, rows)
        root = next(iter(arrays.values())).base
        assert root is not None
        weakref.finalize(root, self.free.append, slot)
        return arrays

    @property
    def alive(self) -> bool:
        """Whether the workers have not been ended."""
        return self._close.alive

    @property
    def process_ids(self) -> list[int]:
        """Of the workers."""
        return [process.pid for process, _ in self._workers]

    def close(self) -> None:
        """End the workers. Batches that were handed out stay good. Harmless when done twice."""
        self._close()

    def _plan(self, tiers: Mapping[str, FrameTier]) -> tuple[dict[str, Any], list[int]]:
        frames, fds = [], [self._block.fd]
        for name, tier in tiers.items():
            entry, passed = tier.describe()
            fds += passed
            at, per_window = self._addresses[name]
            array = self._offsets[name.partition("#")[0]]
            frames.append({"tier": entry, "array": array, "addresses": at, "per_window": per_window})
        plan = {"fd": self._block.fd, "slot_bytes": self.slot_bytes, "slots": self.slots, "frames": frames}
        return plan, fds

    def _fill(self, tiers: Mapping[str, FrameTier]) -> None:
        """Decode what the tiers lack, a few hundred frames per command, all workers at once."""
        first = {id(tier): n for n, tier in reversed(list(enumerate(tiers.values())))}  # one may serve two arrays
        pieces = [
            (n, *piece)
            for n, tier in enumerate(tiers.values())
            if first[id(tier)] == n
            for piece in getattr(tier, "missing", [])
        ]
        waiting, running = list(reversed(pieces)), 0
        idle = [*range(len(self._workers))] * 2
        while waiting or running:
            while waiting and idle:
                number, (tier_number, start, stop) = idle.pop(), waiting.pop()
                self._send(number, FILL + tier_number, start, stop)
                running += 1
            for number in self._ready():
                self._answer(number)
                idle.append(number)
                running -= 1
        for tier in tiers.values():
            if hasattr(tier, "finish"):
                tier.finish()

    def _collect(self) -> None:
        for number in self._ready():
            try:
                _, slot = self._answer(number)
            except _FailedError as failed:
                slot = failed.slot
                self._failed[slot] = failed.error
            self._done.add(slot)
            del self._busy[slot]

    def _ready(self) -> list[int]:
        """Workers that have answered or died; waits for one."""
        if not self.alive:
            raise DataError(explain("the loader processes have ended", mend="make another iteration over the loader"))
        numbers = {connection.fileno(): n for n, (_, connection) in enumerate(self._workers)}
        poll = select.poll()
        for descriptor in numbers:
            poll.register(descriptor, select.POLLIN)
        while not (ready := poll.poll(1000 * _LOOK_S)):
            # A socket may be held open by a stranger that inherited it.
            for number, (process, _) in enumerate(self._workers):
                if process.poll() is not None:
                    raise self._dead(number)
        return [numbers[descriptor] for descriptor, _ in ready]

    def _send(self, number: int, *numbers: int) -> None:
        try:
            self._workers[number][1].sendall(COMMAND.pack(*numbers))
        except OSError:
            raise self._dead(number) from None

    def _answer(self, number: int) -> tuple[int, int]:
        connection = self._workers[number][1]
        try:
            head = receive(connection, REPLY.size)
            kind, first, size = REPLY.unpack(head) if len(head) == REPLY.size else (0, 0, -1)
            text = receive(connection, size) if size > 0 else b""
        except OSError:
            size, text = -1, b""
        if size < 0 or len(text) != size:
            raise self._dead(number)
        if not text:
            return kind, first
        name, message = json.loads(text)
        known = getattr(errors, name, None)
        error: Exception = DataError(f"a loader process failed: {name}: {message}")
        if isinstance(known, type) and issubclass(known, errors.RobopolicyError):
            error = known(message)
        if kind != GATHER:
            self.close()
            raise error
        raise _FailedError(first, error)

    def _dead(self, number: int) -> DataError:
        process = self._workers[number][0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        self.close()
        return DataError(
            explain(
                f"a loader process died (process {process.pid}, exit code {process.returncode})",
                mend="if it was killed for want of memory, lower the cache budget, the batch size or workers; "
                "workers=0 loads in this process",
            )
        )


class _FailedError(Exception):
    """What a worker raised while it filled a slot."""

    def __init__(self, slot: int, error: Exception):
        super().__init__(str(error))
        self.slot, self.error = slot, error


def _start(plan: Mapping[str, Any], fds: list[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)  # imports as this process does
    command = [sys.executable, "-P", "-m", "robopolicy.data.ring_worker", str(theirs.fileno()), str(os.getpid())]
    # Blocked until the worker ignores it, or a Ctrl-C in this moment would end it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno(), *set(fds)]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    document = json.dumps(plan).encode()
    with contextlib.suppress(OSError):  # its absence is noticed at the first answer
        ours.sendall(len(document).to_bytes(8, "little") + document)
    return process, ours


def _stop(workers: list[tuple[subprocess.Popen[bytes], socket.socket]], pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child has copies of the descriptors, not the right to end the workers
    for _, connection in workers:
        connection.close()
    for process, _ in workers:
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
