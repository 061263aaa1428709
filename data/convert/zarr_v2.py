"""zarr v2 groups, as a folder or a zip file, read a few rows at a time through zarr-python.

What this adds to zarr-python: image codecs of ``imagecodecs`` are registered only when an array asks for them; a chunk
that is not there is counted instead of passing for zeros; what a cut or damaged file raises becomes one DataError that
names array and rows; and the last chunk of each array is kept, because such data sets hold all rows of a
low-dimensional array in one chunk.
"""

from __future__ import annotations

import itertools
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, MissingDependencyError, explain

__all__ = ["ArrayHeader", "ZarrV2", "find_array", "register_image_codecs"]

EXTRA = "formats"
_BROKEN = (RuntimeError, ValueError, OSError, KeyError, EOFError, struct.error, zlib.error, zipfile.BadZipFile)
"""What zarr-python, numcodecs, imagecodecs and zipfile raise on damaged data."""


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's ``.zarray`` says.

    Attributes:
        shape: Of the whole array, rows first.
        chunks: Of one chunk.
        dtype: numpy dtype.
        codecs: Ids of compressor and filters.
        attributes: Its ``.zattrs``.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: tuple[str, ...]
    attributes: Mapping[str, Any]
    separator: str = "."

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def width(self) -> tuple[int, ...]:
        """Shape without the first axis."""
        return self.shape[1:]

    def chunk_keys(self, start: int, stop: int) -> Iterator[str]:
        """Names of the chunks that hold rows ``start .. stop``."""
        first, last = start // self.chunks[0], -(-stop // self.chunks[0])
        others = [range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True)]
        for index in itertools.product(range(first, last), *others):
            yield self.separator.join(map(str, index))


def register_image_codecs() -> None:
    """Make numcodecs know the codecs of imagecodecs (JPEG 2000, JPEG XL ...).

    Raises:
        MissingDependencyError: imagecodecs is not installed.
    """
    try:
        from imagecodecs import numcodecs
    except ImportError as error:
        raise MissingDependencyError(
            explain("these images need the package imagecodecs", mend=f"pip install 'robopolicy[{EXTRA}]'")
        ) from error
    numcodecs.register_codecs(verbose=False)


def find_array(path: Path, array: str) -> str | None:
    """Where in ``path`` the group lies that holds ``array``: '' at the top, 'a/b' below, None when there is none.

    Reads the directory of a zip file, or looks for one file of a folder; a damaged zip has none.
    """
    wanted = f"{array}/.zarray"
    if path.is_dir():
        return "" if (path / wanted).is_file() else None
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    try:
        _, documents = _listing(path)
    except _BROKEN:
        return None
    found = [n for n in documents if n == wanted or n.endswith(f"/{wanted}")]
    return min((n[: -len(wanted)].strip("/") for n in found), key=len, default=None)


def _listing(path: Path) -> tuple[frozenset[str], Mapping[str, bytes]]:
    """Names in a zip file, and the contents of its metadata documents."""
    about = path.stat()
    return _read_listing(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1)
def _read_listing(path: Path, mtime_ns: int, size: int) -> tuple[frozenset[str], Mapping[str, bytes]]:
    """The directory of a zip with 200,000 frames takes a second to read: once for all who ask about the same file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        documents = {n: archive.read(n) for n in names if n.endswith((".zarray", ".zattrs"))}
    return frozenset(names), documents


class ZarrV2:
    """An open group. One process and one thread at a time."""

    def __init__(self, path: Path, root: str = ""):
        """Open for reading.

        Args:
            path: Folder or zip file.
            root: Where in it the group lies, see :func:`find_array`.

        Raises:
            DataError: not a zarr v2 group, or a cut zip file.
        """
        self.path, self.root = path, root
        self._zipped = not path.is_dir()
        self._names: frozenset[str] = frozenset()
        self._documents: Mapping[str, bytes] = {}
        self._store: Any = None
        self._arrays: dict[str, Any] = {}
        self._kept: dict[str, tuple[int, NDArray[Any]]] = {}
        if self._zipped:
            try:
                self._names, self._documents = _listing(path)
            except _BROKEN as error:
                raise DataError(
                    explain(
                        f"{path} cannot be read as a zip file: {error}",
                        mend="the directory of a zip is at its end: copy or download the file again, whole",
                    )
                ) from error

    def close(self) -> None:
        """Give up files and what is cached."""
        self._arrays, self._kept = {}, {}
        if self._store is not None:
            self._store.close()
            self._store = None

    def arrays(self, group: str) -> dict[str, ArrayHeader]:
        """Headers of the arrays directly below ``group``, by name.

        Raises:
            DataError: damaged metadata.
        """
        prefix = self._key(group)
        if self._zipped:
            names = [
                n[len(prefix) + 1 :] for n in self._documents if n.startswith(f"{prefix}/") and n.endswith("/.zarray")
            ]
            found = [n.removesuffix("/.zarray") for n in names if n.count("/") == 1]
        else:
            found = [f.parent.name for f in (self.path / prefix).glob("*/.zarray")]
        return {name: self.header(f"{group}/{name}") for name in sorted(found)}

    def header(self, array: str) -> ArrayHeader:
        """The header of one array.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            meta = json.loads(self._file(f"{array}/.zarray"))
            if meta["zarr_format"] != 2:
                raise ValueError(f"zarr_format {meta['zarr_format']}")
            codecs = [c["id"] for c in (*(meta.get("filters") or ()), meta.get("compressor")) if c]
            header = ArrayHeader(
                shape=tuple(int(n) for n in meta["shape"]),
                chunks=tuple(int(n) for n in meta["chunks"]),
                dtype=np.dtype(meta["dtype"]),
                codecs=tuple(codecs),
                attributes=self.attributes(array),
                separator=meta.get("dimension_separator", "."),
            )
            if not header.shape or len(header.shape) != len(header.chunks) or min(header.chunks) < 1:
                raise ValueError(f"shape {header.shape}, chunks {header.chunks}")
        except (*_BROKEN, TypeError) as error:
            raise DataError(explain(f"{self.path}: '{array}' has no readable zarr v2 metadata: {error}")) from error
        if header.dtype.kind not in "biuf":
            raise DataError(explain(f"{self.path}: '{array}' does not hold numbers", given=header.dtype))
        return header

    def read(self, array: str, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start .. stop`` of an array, chunk by chunk.

        Raises:
            DataError: a damaged chunk; array and rows are named.
            MissingDependencyError: the codec's package is not installed.
        """
        handle = self._array(array)
        size = handle.chunks[0]
        try:
            if size == 1:
                return np.asarray(handle[start:stop])
            parts = [
                self._block(array, i)[max(start - i * size, 0) : stop - i * size]
                for i in range(start // size, -(-stop // size))
            ]
        except _BROKEN as error:
            raise DataError(
                explain(
                    f"{self.path}: '{array}' cannot be read in rows {start} to {stop}: {error}",
                    mend="copy or download the data set again; other episodes are not affected",
                )
            ) from error
        return parts[0].copy() if len(parts) == 1 else np.concatenate(parts)

    def missing_chunks(self, array: str, start: int, stop: int, header: ArrayHeader) -> int:
        """How many chunks of rows ``start .. stop`` are not there; zarr would deliver its fill value for them."""
        base = self._key(array)
        if self._zipped:
            return sum(f"{base}/{key}" not in self._names for key in header.chunk_keys(start, stop))
        return sum(not (self.path / base / key).is_file() for key in header.chunk_keys(start, stop))

    def _block(self, array: str, index: int) -> NDArray[Any]:
        kept = self._kept.get(array)
        if kept is None or kept[0] != index:
            handle = self._array(array)
            size = handle.chunks[0]
            kept = index, np.asarray(handle[index * size : (index + 1) * size])
            self._kept[array] = kept
        return kept[1]

    def _array(self, array: str) -> Any:
        if array not in self._arrays:
            header = self.header(array)
            if any(c.startswith("imagecodecs_") for c in header.codecs):
                register_image_codecs()
            import zarr

            try:
                if self._store is None and self._zipped:
                    self._store = zarr.storage.ZipStore(self.path, mode="r")
                store = self.path if self._store is None else self._store
                self._arrays[array] = zarr.open_array(store, path=self._key(array), mode="r", zarr_format=2)
            except _BROKEN as error:
                raise DataError(
                    explain(f"{self.path}: '{array}' cannot be opened: {error}", given=f"codecs {header.codecs}")
                ) from error
        return self._arrays[array]

    def _key(self, name: str) -> str:
        return f"{self.root}/{name}" if self.root else name

    def _file(self, name: str) -> bytes:
        key = self._key(name)
        return self._documents[key] if self._zipped else (self.path / key).read_bytes()

    def attributes(self, node: str = "") -> Mapping[str, Any]:
        """The ``.zattrs`` of an array or group, the root for no name; empty where it has none.

        Raises:
            DataError: no JSON.
        """
        name = f"{node}/.zattrs" if node else ".zattrs"
        try:
            attributes = json.loads(self._file(name))
        except (KeyError, FileNotFoundError):
            return {}
        except _BROKEN as error:
            raise DataError(explain(f"{self.path}: '{name}' cannot be read: {error}")) from error
        return attributes if isinstance(attributes, dict) else {}
