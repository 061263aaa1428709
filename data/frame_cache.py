"""Decoded frames in RAM: each frame is decoded at most once, then windows are gathered with one copy per batch."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_CACHE_BYTES", "FrameCache", "FrameReader", "default_cache_bytes"]

DEFAULT_CACHE_BYTES = 4 << 30
"""Upper end of the default budget of all cameras together."""


class FrameReader(Protocol):
    """Anything that reads frames by row."""

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n] into ``out`` uint8 [n, H, W, C]."""
        ...


def default_cache_bytes() -> int:
    """4 GiB, or half of the memory that is available now where that is less."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux: free pages are the best guess
    return min(DEFAULT_CACHE_BYTES, available // 2)


class FrameCache:
    """The frames of some rows of one camera, filled on first use. Safe to use from several threads.

    Two threads may decode the same frame at the same time; both write the same bytes.
    """

    def __init__(self, reader: FrameReader, rows: NDArray[np.int64], frame: tuple[int, ...]):
        """Reserve address space; memory is taken as frames arrive.

        Args:
            reader: Where frames come from.
            rows: int64 [n] row in the store of every place in the cache.
            frame: (H, W, C).
        """
        self._reader, self._rows = reader, rows
        self._frames = np.empty((len(rows), *frame), np.uint8)
        self._filled = np.zeros(len(rows), bool)
        self._complete = not len(rows)

    def gather(self, places: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Frames at ``places`` [n] into ``out`` uint8 [n, H, W, C]."""
        self._load(places)
        np.take(self._frames, places, axis=0, out=out, mode="clip")

    def fill(self) -> None:
        """Decode everything that is still missing, in storage order."""
        for start in range(0, len(self._rows), 256):
            self._load(np.arange(start, min(start + 256, len(self._rows))))

    def _load(self, places: NDArray[np.int64]) -> None:
        if self._complete:
            return
        wanted = places[~self._filled[places]]
        if not len(wanted):
            return
        wanted = np.unique(wanted)
        decoded = np.empty((len(wanted), *self._frames.shape[1:]), np.uint8)
        self._reader.gather(self._rows[wanted], decoded)
        self._frames[wanted] = decoded
        self._filled[wanted] = True
        self._complete = bool(self._filled.all())
