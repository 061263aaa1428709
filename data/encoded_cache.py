"""Frames of one camera as JPEG files in shared memory: a tenth of the space, decoded at every use.

No faster than the disk while the page cache holds the store; it matters on slow or remote disks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import decoder_into
from robopolicy.data.frame_stream import ShardFrames, open_stream
from robopolicy.data.resize import resize_frame
from robopolicy.data.shared_block import SharedBlock, aligned
from robopolicy.errors import DataError, explain

__all__ = ["EncodedRam"]


class EncodedRam:
    """Stored bytes of the frames of some rows, read at first use, by place in the list of rows."""

    label = "encoded"
    by_row = False

    def __init__(
        self, stream: ShardFrames, rows: NDArray[np.int64], frame: tuple[int, ...], lengths: NDArray[np.int64]
    ):
        """Reserve the memory.

        Args:
            stream: Where frames come from, layout ``jpeg``.
            rows: int64 [n] row in the store of every place.
            frame: (h, w, C) handed out.
            lengths: int64 [n] stored bytes of each, see :meth:`ShardFrames.lengths`.
        """
        self.stream, self.frame, self.dtype = stream, tuple(frame), stream.dtype
        self._rows = rows
        size = int(lengths.sum())
        self.block = SharedBlock(self.nbytes_of(lengths))
        self._open(len(rows), size)
        self._offsets[0] = 0
        np.cumsum(lengths, out=self._offsets[1:])
        self._complete = False

    @staticmethod
    def nbytes_of(lengths: NDArray[np.int64]) -> int:
        """Memory for frames of these lengths."""
        return aligned(int(lengths.sum())) + 8 * (len(lengths) + 1)

    def _open(self, count: int, size: int) -> None:
        self._size = size
        self._bytes = self.block.array((size,)).data
        self._offsets = self.block.array((count + 1,), np.int64, aligned(size))

    def prepare(self) -> None:
        """Read every file now.

        Raises:
            DataError: a damaged shard.
        """
        if self._complete:
            return
        bounds = self._offsets.tolist()
        for place, row in enumerate(self._rows.tolist()):
            self._bytes[bounds[place] : bounds[place + 1]] = self.stream.payload(row)
        self._complete = True

    def gather(self, places: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames at ``places`` [n] into ``out`` uint8 [n, h, w, C].

        Raises:
            DataError: a damaged frame, named.
        """
        self.prepare()
        native = self.stream.native
        scratch = None if out.shape[1:] == native else np.empty(native, np.uint8)
        decode = self.stream.decode if scratch is not None else decoder_into(out, self.stream.decode)
        starts, stops = self._offsets[places].tolist(), self._offsets[places + 1].tolist()
        seen: dict[int, int] = {}
        for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if start in seen and stop > start:
                out[i] = out[seen[start]]
                continue
            if stop == start:
                out[i] = 0
                continue
            try:
                decode(self._bytes[start:stop], out[i] if scratch is None else scratch)
            except DataError as error:
                raise DataError(explain(f"{self.stream.folder}, place {int(places[i])}: {error}")) from error
            if scratch is not None:
                resize_frame(scratch, out[i])
            seen[start] = i

    gather_filled = gather

    def describe(self) -> tuple[dict[str, Any], list[int]]:
        """JSON and descriptors for another process; everything has to be read before."""
        entry = {"tier": self.label, "fd": self.block.fd, "count": len(self._offsets) - 1, "size": self._size}
        return {**entry, "frame": list(self.frame), "stream": self.stream.describe()}, [self.block.fd]

    @classmethod
    def open(cls, entry: Mapping[str, Any]) -> EncodedRam:
        """The same memory in another process."""
        made = cls.__new__(cls)
        stream = open_stream(entry["stream"])
        assert isinstance(stream, ShardFrames)
        made.stream, made.frame, made.dtype = stream, tuple(entry["frame"]), stream.dtype
        made.block = SharedBlock(aligned(entry["size"]) + 8 * (entry["count"] + 1), entry["fd"])
        made._open(entry["count"], entry["size"])
        made._complete = True
        return made
