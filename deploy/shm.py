"""Shared memory between the processes of the daemon: anonymous segments, sequence-locked rings, heartbeat words.

A segment is a sealed ``memfd``: it has no name in any file system, so nothing is left behind however the processes
end, and nobody can shrink it under a reader. The descriptors are inherited by the child processes.

A :class:`RecordRing` has one writer and any number of readers; there is no lock, a writer never waits, and a reader
never sees half a record: each slot carries a sequence number, written as 0 while the payload changes, and a CRC-32
over number and payload. All times are ``CLOCK_MONOTONIC`` nanoseconds, which every process of a machine shares.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DeployError, explain

__all__ = ["Heartbeat", "RecordRing", "Segment", "monotonic_ns"]

HEADER_BYTES = 64
"""Head of a ring: magic word, capacity, record size, newest sequence number; one cache line."""
MAGIC = 0x524F424F_50303031
SLOT_HEADER = struct.Struct("<QII")  # sequence number, CRC-32, padding


def monotonic_ns() -> int:
    """Nanoseconds of ``CLOCK_MONOTONIC``."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Segment:
    """A piece of anonymous shared memory behind a file descriptor.

    Args:
        fd: Descriptor of an existing segment; the object takes it over.
        writable: False maps it read-only, so that a defect of a reader cannot touch another process.
    """

    def __init__(self, fd: int, *, writable: bool = True):
        self.fd = fd
        size = os.fstat(fd).st_size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._map = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=protection)
        self.size = size

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """A new zeroed segment of ``size`` bytes; ``name`` is shown in /proc only."""
        fd = os.memfd_create(f"robopolicy-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd)

    def array(self, dtype: Any, count: int, offset: int = 0) -> NDArray[Any]:
        """A view [count] of ``dtype`` beginning at byte ``offset``."""
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._map)

    def close(self) -> None:
        """Give the descriptor back; the mapping goes with its last view."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class RecordRing:
    """A ring of fixed-dtype records: one writer overwrites the oldest, readers detect what they missed.

    Args:
        segment: Memory of at least :meth:`nbytes`.
        dtype: Structured dtype of one record.
        capacity: Number of slots, at least 2.
        create: Write the head (the creator does it once).
    """

    def __init__(self, segment: Segment, dtype: np.dtype[Any], capacity: int, *, create: bool = False):
        if capacity < 2:
            raise DeployError(explain("a ring needs at least 2 slots", given=capacity))
        self.segment, self.dtype, self.capacity = segment, np.dtype(dtype), capacity
        self._slot = _slot_bytes(self.dtype)
        if segment.size < self.nbytes(self.dtype, capacity):
            raise DeployError(
                explain("segment too small for the ring", given=segment.size, allowed=self.nbytes(self.dtype, capacity))
            )
        self._view = segment.view()
        # One aligned 8-byte word per access: numpy stores and loads it in one instruction.
        self._head = segment.array(np.uint64, HEADER_BYTES // 8)
        if create:
            self._head[:4] = (MAGIC, capacity, self.dtype.itemsize, 0)
        elif tuple(int(x) for x in self._head[:3]) != (MAGIC, capacity, self.dtype.itemsize):
            raise DeployError(
                explain(
                    "the shared memory has another layout",
                    given=[int(x) for x in self._head[:3]],
                    allowed=[MAGIC, capacity, self.dtype.itemsize],
                    mend="start all processes from one installation",
                )
            )
        self.torn = 0
        """Records that this reader dropped because they were overwritten while being read, or failed their CRC."""

    @staticmethod
    def nbytes(dtype: np.dtype[Any], capacity: int) -> int:
        """Bytes that a ring of ``capacity`` records needs."""
        return HEADER_BYTES + capacity * _slot_bytes(np.dtype(dtype))

    @property
    def newest(self) -> int:
        """Sequence number of the newest record, 0 while there is none; numbers count from 1."""
        return int(self._head[3])

    def write(self, record: NDArray[Any] | np.void) -> int:
        """Publish one record; never waits. -> its sequence number."""
        payload = np.asarray(record, dtype=self.dtype).tobytes()
        number = self.newest + 1
        at = self._offset(number)
        word = self.segment.array(np.uint64, 1, at)
        word[0] = 0
        self._view[at + SLOT_HEADER.size : at + SLOT_HEADER.size + len(payload)] = payload
        SLOT_HEADER.pack_into(self._view, at, 0, _crc(number, payload), 0)
        word[0] = number
        self._head[3] = number
        return number

    def read(self, number: int) -> np.void | None:
        """Record ``number``, or None when it was overwritten, is being written, or is damaged."""
        at = self._offset(number)
        found, crc, _ = SLOT_HEADER.unpack_from(self._view, at)
        if found != number:
            return None
        start = at + SLOT_HEADER.size
        payload = bytes(self._view[start : start + self.dtype.itemsize])
        if SLOT_HEADER.unpack_from(self._view, at)[0] != number or _crc(number, payload) != crc:
            return None
        record: np.void = np.frombuffer(payload, dtype=self.dtype)[0]
        return record

    def latest(self) -> tuple[int, np.void] | None:
        """Newest whole record with its number, or None; damaged ones are counted in ``torn`` and passed over."""
        newest = self.newest
        for number in range(newest, max(newest - self.capacity, 0), -1):
            record = self.read(number)
            if record is not None:
                return number, record
            self.torn += 1
        return None

    def since(self, cursor: int) -> tuple[list[np.void], int, int]:
        """Every record after number ``cursor``, oldest first.

        Returns:
            (records, new cursor, how many were lost to overwriting or damage).
        """
        newest = self.newest
        records, lost = [], 0
        for number in range(cursor + 1, newest + 1):
            # Slots older than one round are gone for certain; do not visit them one by one.
            record = self.read(number) if number > newest - self.capacity else None
            if record is None:
                lost += 1
            else:
                records.append(record)
        return records, newest, lost

    def _offset(self, number: int) -> int:
        return HEADER_BYTES + (number % self.capacity) * self._slot


class Heartbeat:
    """One word per process: the monotonic time at which it last said that it is alive.

    Args:
        segment: Memory of ``8 * len(names)`` bytes.
        names: Who has a word, in order.
    """

    def __init__(self, segment: Segment, names: tuple[str, ...]):
        self.names = names
        self._words = segment.array(np.uint64, len(names))
        self._index = {name: i for i, name in enumerate(names)}

    @staticmethod
    def nbytes(names: tuple[str, ...]) -> int:
        """Bytes of the words."""
        return 8 * len(names)

    def beat(self, name: str, now_ns: int | None = None) -> None:
        """Say that ``name`` is alive."""
        self._words[self._index[name]] = monotonic_ns() if now_ns is None else now_ns

    def clear(self, name: str) -> None:
        """Forget ``name``: it has not started yet."""
        self._words[self._index[name]] = 0

    def age_s(self, name: str, now_ns: int | None = None) -> float | None:
        """Seconds since the last beat of ``name``; None before the first."""
        word = int(self._words[self._index[name]])
        if word == 0:
            return None
        return ((monotonic_ns() if now_ns is None else now_ns) - word) / 1e9


def _slot_bytes(dtype: np.dtype[Any]) -> int:
    return -(-(SLOT_HEADER.size + dtype.itemsize) // 8) * 8


def _crc(number: int, payload: bytes) -> int:
    return zlib.crc32(payload, number & 0xFFFFFFFF)
