"""Decoded frames at the size of the policy: in shared memory, or in a file that later runs and other processes use too.

Gathering is one ``np.take`` per camera and batch, straight into the batch: no Python per sample.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.cache_folder import building, finished, make_room
from robopolicy.data.durable import TEMPORARY_SUFFIX, storage_errors
from robopolicy.data.frame_stream import FrameStream, open_stream
from robopolicy.data.shared_block import PAGE_BYTES, SharedBlock, aligned
from robopolicy.errors import StorageError, explain

__all__ = ["FILE_VERSION", "DecodedFile", "DecodedRam"]

FILE_VERSION = 1
_STEP = 256
"""Frames decoded at a time: bounds the memory of a fill."""


class DecodedRam:
    """Frames of some rows in memory, decoded when first asked for, by place in the list of rows."""

    label = "decoded RAM"
    by_row = False

    def __init__(self, stream: FrameStream, rows: NDArray[np.int64], frame: tuple[int, ...]):
        """Reserve the memory; pages are taken as frames arrive.

        Args:
            stream: Where frames come from.
            rows: int64 [n] row in the store of every place.
            frame: (h, w, C) kept.
        """
        self.stream, self.frame, self.dtype = stream, tuple(frame), stream.dtype
        size = self.nbytes_of(len(rows), self.frame, self.dtype)
        self.block = SharedBlock(size + 8 * len(rows))
        self._open(len(rows))
        self._rows[:] = rows
        self._filled = np.zeros(len(rows), bool)
        self._complete = not len(rows)

    def _open(self, count: int) -> None:
        size = self.nbytes_of(count, self.frame, self.dtype)
        self._frames = self.block.array((count, *self.frame), self.dtype)
        self._rows = self.block.array((count,), np.int64, size)

    @staticmethod
    def nbytes_of(count: int, frame: tuple[int, ...], dtype: np.dtype[Any]) -> int:
        """Memory of ``count`` frames."""
        return aligned(count * int(np.prod(frame)) * dtype.itemsize)

    def gather(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames at ``places`` [n] into ``out`` [n, h, w, C]."""
        if not self._complete:
            self._load(places)
        np.take(self._frames, places, axis=0, out=out, mode="clip")

    def prepare(self) -> None:
        """Decode everything that is still missing, in storage order."""
        for start in range(0, len(self._rows), _STEP):
            self.fill(start, start + _STEP)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Pieces (start, stop) that are not decoded yet, for loader processes to share out."""
        starts = range(0, len(self._rows), _STEP)
        return [(s, s + _STEP) for s in starts if not self._filled[s : s + _STEP].all()]

    def fill(self, start: int, stop: int) -> None:
        """Decode the places ``start .. stop`` now."""
        if not self._complete:
            self._load(np.arange(start, min(stop, len(self._rows))))

    def finish(self) -> None:
        """Every place was filled, by other processes."""
        self._filled[:] = True
        self._complete = True

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON and descriptors for another process."""
        entry = {"tier": self.label, "fd": self.block.fd, "count": len(self._rows), "frame": list(self.frame)}
        return {**entry, "stream": self.stream.describe()}, [self.block.fd]

    @classmethod
    def open(cls, entry: Mapping[str, Any]) -> DecodedRam:
        """The same memory in another process, which fills only what it is told to."""
        made = cls.__new__(cls)
        made.stream, made.frame = open_stream(entry["stream"]), tuple(entry["frame"])
        made.dtype = made.stream.dtype
        count = entry["count"]
        made.block = SharedBlock(cls.nbytes_of(count, made.frame, made.dtype) + 8 * count, entry["fd"])
        made._open(count)
        made._filled, made._complete = np.zeros(count, bool), False
        return made

    def gather_filled(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """As :meth:`gather`, where the caller knows that everything is there."""
        np.take(self._frames, places, axis=0, out=out, mode="clip")

    def _load(self, places: NDArray[np.int64]) -> None:
        wanted = places[~self._filled[places]]
        if not len(wanted):
            return
        wanted = np.unique(wanted)
        if wanted[-1] - wanted[0] + 1 == len(wanted):
            self.stream.gather(self._rows[wanted], self._frames[wanted[0] : wanted[-1] + 1])
        else:
            decoded = np.empty((len(wanted), *self.frame), self.dtype)
            self.stream.gather(self._rows[wanted], decoded)
            self._frames[wanted] = decoded
        self._filled[wanted] = True
        self._complete = bool(self._filled.all())


class DecodedFile:
    """Frames of all rows of a store in one file of a cache folder, by row; made whole before it is used.

    The name is a hash of what is in it (content hash of the store, stream, size, rows, format), which also stands in
    its first page, so processes and runs share a file without asking each other. A reader maps it; when more than
    ``resident_bytes`` have been touched the mapping is emptied, so the resident memory stays bounded while the page
    cache keeps what it likes.
    """

    label = "decoded file"
    by_row = True

    def __init__(
        self,
        stream: FrameStream,
        frame: tuple[int, ...],
        *,
        folder: Path,
        content: Mapping[str, Any],
        cap_bytes: int,
        resident_bytes: int,
    ):
        """Nothing is opened or made yet.

        Args:
            stream: Where frames come from; all its rows are kept.
            frame: (h, w, C) kept.
            folder: Of the cache.
            content: What identifies the frames: hash of the store, name of the stream.
            cap_bytes: Files of the folder together; the ones unused for longest are removed for a new one.
            resident_bytes: See above.
        """
        self.stream, self.rows, self.frame, self.dtype = stream, stream.rows, tuple(frame), stream.dtype
        kept = {"frame": list(self.frame), "dtype": str(self.dtype), "rows": self.rows}
        self.header = json.dumps({"format": FILE_VERSION, **content, **kept}, sort_keys=True).encode()
        self.path = Path(folder) / f"{hashlib.sha256(self.header).hexdigest()[:32]}.frames"
        self.cap_bytes, self.resident_bytes = cap_bytes, resident_bytes
        self.size = PAGE_BYTES + self.rows * int(np.prod(self.frame)) * self.dtype.itemsize
        self._map: mmap.mmap | None = None
        self._frames: NDArray[Any] = np.empty((0, *self.frame), self.dtype)
        self._touched = 0

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames at ``rows`` [n] into ``out`` [n, h, w, C].

        Raises:
            StorageError: the file cannot be made.
        """
        if self._map is None:
            self.prepare()
        assert self._map is not None
        np.take(self._frames, rows, axis=0, out=out, mode="clip")
        self._touched += out.nbytes
        if self._touched > self.resident_bytes and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0

    gather_filled = gather

    def prepare(self) -> None:
        """Open the file; make it first if it is not there, or wait for the process that is making it.

        Raises:
            StorageError: the disk refuses; nothing is left behind.
        """
        if self._map is not None or self._open():
            return
        with building(self.path.parent):
            if self._open():
                return
            make_room(self.path.parent, self.size, self.cap_bytes)
            self._build()
        if not self._open():
            raise StorageError(explain(f"{self.path} vanished", mend="raise the cap of the cache folder, or empty it"))

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON and descriptors for another process."""
        self.prepare()
        entry = {"tier": self.label, "fd": self._fd, "rows": self.rows, "frame": list(self.frame)}
        return {**entry, "dtype": str(self.dtype), "resident_bytes": self.resident_bytes}, [self._fd]

    @classmethod
    def open(cls, entry: Mapping[str, Any]) -> DecodedFile:
        """The same file in another process."""
        made = cls.__new__(cls)
        made.rows, made.frame, made.dtype = entry["rows"], tuple(entry["frame"]), np.dtype(entry["dtype"])
        made.resident_bytes, made._touched = entry["resident_bytes"], 0
        made._show(entry["fd"])
        return made

    def _open(self) -> bool:
        found = finished(self.path, self.size, self.header)
        if found is not None:
            self._show(found)
        return found is not None

    def _show(self, descriptor: int) -> None:
        """Map the file behind ``descriptor``, which is owned from now on."""
        self._fd = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        flat = np.frombuffer(self._map, self.dtype, self.rows * int(np.prod(self.frame)), PAGE_BYTES)
        self._frames = flat.reshape(self.rows, *self.frame)

    def _build(self) -> None:
        temporary = self.path.with_name(self.path.name + TEMPORARY_SUFFIX)
        with storage_errors(self.path):
            try:
                with open(temporary, "wb") as out:
                    out.write(self.header.ljust(PAGE_BYTES, b"\0"))
                    for start in range(0, self.rows, _STEP):
                        rows = np.arange(start, min(start + _STEP, self.rows))
                        frames = np.empty((len(rows), *self.frame), self.dtype)
                        self.stream.gather(rows, frames)
                        out.write(frames.data)
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)
