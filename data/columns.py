"""Low-dimensional arrays: chunk files of up to 65,536 rows, compressed with zstd and its checksum.

A chunk file always holds a whole chunk, padded with zeros. Appending rewrites the last chunk beside the old one and
renames it; earlier rows keep their values, so a reader that knows only the earlier rows reads the same from both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from robopolicy.data.files import DAMAGE, Files, LocalFiles
from robopolicy.data.layout import ColumnLayout
from robopolicy.errors import DataError, explain

__all__ = ["ColumnTail", "read_column"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNKS_AT_ONCE = 32


def read_column(folder: Path | Files, layout: ColumnLayout, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start .. stop`` -> [stop - start, *width].

    Raises:
        DataError: a chunk is missing, cut short or altered.
    """
    files: Files = LocalFiles(folder) if isinstance(folder, Path) else folder
    size = layout.chunk_rows
    chunks = range(start // size, -(-stop // size))
    # The last file comes first: an absurd length is noticed by its absence, before memory is asked for.
    known = {chunks[-1]: files.read(layout.key(chunks[-1]))} if chunks else {}
    out = np.empty((stop - start, *layout.width), layout.dtype)
    for first in range(chunks.start, chunks.stop, _CHUNKS_AT_ONCE):
        some = range(first, min(first + _CHUNKS_AT_ONCE, chunks.stop))
        missing = [chunk for chunk in some if chunk not in known]
        known.update(zip(missing, files.read_many([layout.key(chunk) for chunk in missing]), strict=True))
        for chunk in some:
            rows = _decoded(known.pop(chunk), layout, files.where(layout.key(chunk)))
            lower, upper = max(start, chunk * size), min(stop, (chunk + 1) * size)
            out[lower - start : upper - start] = rows[lower - chunk * size : upper - chunk * size]
    return out


def _decoded(raw: bytes, layout: ColumnLayout, where: str) -> NDArray[Any]:
    """One chunk file -> [chunk_rows, *width]."""
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    shape = (layout.chunk_rows, *layout.width)
    expected = math.prod(shape) * dtype.itemsize
    stated, checked = _zstd_frame(raw)
    if stated != expected or not checked:
        given = {"decoded bytes": stated, "checksum": checked}
        raise DataError(explain(f"{where} cannot be decoded", given=given, allowed=f"{expected} B", mend=DAMAGE))
    try:
        return np.frombuffer(Zstd().decode(raw), dtype).reshape(shape)
    except (RuntimeError, ValueError) as error:
        raise DataError(explain(f"{where} cannot be decoded: {error}", mend=DAMAGE)) from error


def _zstd_frame(raw: bytes) -> tuple[int | None, bool]:
    """Decoded size that a zstd frame states, and whether it ends with a checksum (RFC 8878, section 3.1.1.1).

    zstd believes the size and asks for that much memory, so it is compared before decoding.
    """
    if len(raw) < 6 or raw[:4] != _ZSTD_MAGIC:
        return None, False
    descriptor = raw[4]
    single, dictionary = bool(descriptor & 0x20), (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (int(single), 2, 4, 8)[descriptor >> 6]
    at = 5 + (not single) + dictionary
    if not size_bytes or dictionary or len(raw) < at + size_bytes:
        return None, False
    stated = int.from_bytes(raw[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    return stated, bool(descriptor & 0x04)


@dataclass(frozen=True)
class ColumnTail:
    """The rows of the last, unfinished chunk of an array that is being appended to.

    Attributes:
        folder: Of the array.
        layout: With ``rows`` = what is committed.
        tail: [rows % chunk_rows, *width].
    """

    folder: Path
    layout: ColumnLayout
    tail: NDArray[Any]

    @classmethod
    def open(cls, folder: Path, layout: ColumnLayout) -> ColumnTail:
        """Read the tail of what is committed."""
        first = layout.rows - layout.rows % layout.chunk_rows
        return cls(folder, layout, read_column(folder, layout, first, layout.rows))

    def extended(self, rows: NDArray[Any]) -> tuple[ColumnTail, dict[Path, list[bytes]]]:
        """The tail after ``rows``, and the chunk files that have to be written for it. Writes nothing itself."""
        size = self.layout.chunk_rows
        pending = np.concatenate([self.tail, np.asarray(rows, self.layout.dtype)])
        first = self.layout.rows // size
        files: dict[Path, list[bytes]] = {}
        compressor = Zstd(level=1, checksum=True)
        for i in range(-(-len(pending) // size)):
            part = pending[i * size : (i + 1) * size]
            whole = np.zeros((size, *self.layout.width), self.layout.dtype)
            whole[: len(part)] = part
            files[self.folder / self.layout.key(first + i)] = [bytes(compressor.encode(whole))]
        layout = ColumnLayout(self.layout.dtype, self.layout.width, size, self.layout.rows + len(rows))
        keep = len(pending) - len(pending) % size
        return ColumnTail(self.folder, layout, pending[keep:].copy()), files
