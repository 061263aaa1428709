"""Low-dimensional arrays: chunk files of 65,536 rows, compressed with zstd and its checksum.

A chunk file always holds a whole chunk, padded with zeros. Appending rewrites the last chunk beside the old one and
renames it; earlier rows keep their values, so a reader that knows only the earlier rows reads the same from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from robopolicy.data.layout import ColumnLayout
from robopolicy.errors import DataError, explain

__all__ = ["ColumnTail", "read_column"]

_DAMAGE = "the file is damaged; restore it from a copy of the store, or collect the data again"


def read_column(folder: Path, layout: ColumnLayout, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start .. stop`` -> [stop - start, *width].

    Raises:
        DataError: a chunk is missing, cut short or altered.
    """
    out = np.empty((stop - start, *layout.width), layout.dtype)
    size = layout.chunk_rows
    for chunk in range(start // size, -(-stop // size)):
        rows = _read_chunk(folder / layout.key(chunk), layout)
        lower, upper = max(start, chunk * size), min(stop, (chunk + 1) * size)
        out[lower - start : upper - start] = rows[lower - chunk * size : upper - chunk * size]
    return out


def _read_chunk(path: Path, layout: ColumnLayout) -> NDArray[Any]:
    shape = (layout.chunk_rows, *layout.width)
    try:
        raw = Zstd().decode(path.read_bytes())
        return np.frombuffer(raw, layout.dtype).reshape(shape)
    except FileNotFoundError as error:
        raise DataError(explain(f"{path} is missing", mend=_DAMAGE)) from error
    except (RuntimeError, ValueError) as error:
        raise DataError(explain(f"{path} cannot be decoded: {error}", mend=_DAMAGE)) from error


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
