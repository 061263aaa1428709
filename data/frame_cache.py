"""Where the frames of each camera come from: chosen from a budget of bytes, reported in words.

=================  ===================================================================================================
``decoded RAM``    uint8 at the policy's size in memory; the fastest
``decoded file``   the same in a file of a cache folder, where one was given; kept for later runs, shared by processes
``encoded``        JPEG files in memory, decoded at every use
``stream``         from the disk at every use; resident memory stays flat
=================  ===================================================================================================

Cameras are served in the order of the recipe, each by the best tier that still fits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.decoded_cache import DecodedFile, DecodedRam
from robopolicy.data.encoded_cache import EncodedRam
from robopolicy.data.frame_stream import FrameStream, ShardFrames, open_stream
from robopolicy.data.goal_pictures import EpisodePictures
from robopolicy.errors import DataError, explain

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "DEFAULT_FILE_BYTES",
    "CacheBudget",
    "FrameReader",
    "FrameTier",
    "StreamTier",
    "default_cache_bytes",
    "open_tier",
]

DEFAULT_CACHE_BYTES = 4 << 30
"""Upper end of the default budget of all cameras together."""
DEFAULT_FILE_BYTES = 64 << 30
"""Cap of a cache folder."""


class FrameReader(Protocol):
    """Anything that reads frames by row."""

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n] into ``out`` uint8 [n, H, W, C]."""
        ...


class FrameTier(Protocol):
    """A camera's frames in some tier.

    Attributes:
        label: The tier in words.
        by_row: Whether frames are asked for by row of the store, or by place in the rows that were planned for.
        frame: (h, w, C) handed out.
        dtype: uint8, or uint16 for depth.
    """

    label: str
    by_row: bool
    frame: tuple[int, ...]
    dtype: np.dtype[Any]

    def gather(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames at ``places`` [n] into ``out`` [n, h, w, C]."""
        ...

    def gather_filled(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """The same after :meth:`prepare`, also in a process that did not prepare it."""
        ...

    def prepare(self) -> None:
        """Do now what would be done at first use."""
        ...

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON and descriptors from which another process opens the same."""
        ...


class StreamTier:
    """Every frame from the disk."""

    label = "stream"
    by_row = True

    def __init__(self, stream: FrameStream, frame: tuple[int, ...]):
        """Nothing is opened.

        Args:
            stream: Where frames come from.
            frame: (h, w, C) handed out.
        """
        self.stream, self.frame, self.dtype = stream, tuple(frame), stream.dtype

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames at ``rows`` [n] into ``out`` [n, h, w, C]."""
        self.stream.gather(rows, out)

    gather_filled = gather

    def prepare(self) -> None:
        """Nothing to do."""

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON for another process."""
        return {"tier": self.label, "frame": list(self.frame), "stream": self.stream.describe()}, []

    @classmethod
    def open(cls, entry: Mapping[str, Any]) -> StreamTier:
        """The same in another process."""
        return cls(open_stream(entry["stream"]), tuple(entry["frame"]))


def open_tier(entry: Mapping[str, Any]) -> FrameTier:
    """Inverse of ``describe``, in another process."""
    kinds: dict[str, Any] = {k.label: k for k in (DecodedRam, DecodedFile, EncodedRam, EpisodePictures, StreamTier)}
    tier: FrameTier = kinds[entry["tier"]].open(entry)
    return tier


def default_cache_bytes(upper: int = DEFAULT_CACHE_BYTES) -> int:
    """``upper``, or half of the memory that is free now where that is less; divided among a launcher's processes."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass  # not Linux: free pages are the best guess
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return min(upper, available // 2) // max(int(processes) if processes.isdigit() else 1, 1)


@dataclass
class CacheBudget:
    """What is still free while tiers are chosen; camera after camera takes from it.

    Attributes:
        ram_bytes: Memory for frames.
        folder: Where decoded frames may be kept as files; None for nowhere.
        file_bytes: Cap of that folder.
    """

    ram_bytes: int
    folder: Path | None = None
    file_bytes: int = DEFAULT_FILE_BYTES

    def __post_init__(self) -> None:
        if self.ram_bytes < 0 or self.file_bytes < 0:
            given = (self.ram_bytes, self.file_bytes)
            raise DataError(explain("a cache budget below zero", given=given, allowed=">= 0"))
        self._resident = max(self.ram_bytes, 64 << 20)

    def choose(
        self,
        stream: FrameStream,
        rows: NDArray[np.int64],
        frame: tuple[int, ...],
        content: Mapping[str, Any],
    ) -> FrameTier:
        """The best tier for one camera that still fits.

        Args:
            stream: Its frames.
            rows: int64 [n] rows that windows are made of.
            frame: (h, w, C) handed out.
            content: Identity of the stream, for the name of a cache file.
        """
        whole = DecodedRam.nbytes_of(len(rows), frame, stream.dtype)
        if whole <= self.ram_bytes:
            self.ram_bytes -= whole
            return DecodedRam(stream, rows, frame)
        if self.folder is not None:
            kept = DecodedFile(
                stream,
                frame,
                folder=self.folder,
                content=content,
                cap_bytes=self.file_bytes,
                resident_bytes=self._resident,
            )
            if kept.size <= self.file_bytes:
                return kept
        if isinstance(stream, ShardFrames) and stream.layout.codec == "jpeg" and self.ram_bytes:
            lengths = stream.lengths(rows)
            if EncodedRam.nbytes_of(lengths) <= self.ram_bytes:
                self.ram_bytes -= EncodedRam.nbytes_of(lengths)
                return EncodedRam(stream, rows, frame, lengths)
        return StreamTier(stream, frame)
