"""What the converters of HDF5 recordings share: opening, reading with messages that help, frames, nominal time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.hdf5_damage import hdf5_errors
from robopolicy.data.episode import StreamSpec
from robopolicy.errors import DataError, MissingDependencyError, NonFiniteError, ShapeError, explain, suggest

__all__ = [
    "Hdf5File",
    "hdf5_files",
    "is_hdf5",
    "leaves",
    "natural_order",
    "nominal_time_ns",
    "numbered_channels",
    "require_rows",
    "vector_stream",
]

SUFFIXES = (".hdf5", ".h5")
_BLOCK_FRAMES = 32
Turn = Callable[[NDArray[Any]], NDArray[Any]]
"""What is done to a block of frames [n, H, W, 3]."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as HDF5 files do."""
    try:
        with open(path, "rb") as stream:
            return stream.read(8) == _SIGNATURE
    except OSError:
        return False


def hdf5_files(path: Path) -> list[Path]:
    """The file itself, or the HDF5 files of a folder in natural order, without those in folders below."""
    if path.is_file():
        return [path] if path.suffix in SUFFIXES else []
    if not path.is_dir():
        return []
    found = {p.name: p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()}
    return [found[name] for name in natural_order(found)]


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorted so that ``demo_10`` follows ``demo_9``."""

    def key(name: str) -> tuple[Any, ...]:
        parts = re.split(r"(\d+)", str(name))
        return (*((1, int(p), p) if p.isdigit() else (0, 0, p) for p in parts),)

    return sorted(names, key=key)


def nominal_time_ns(rows: int, fps: float) -> NDArray[np.int64]:
    """int64 [rows] from 0, for a source that keeps no times."""
    return np.round(np.arange(rows) * (1e9 / fps)).astype(np.int64)


def numbered_channels(prefix: str, width: int) -> tuple[str, ...]:
    """``prefix.0`` ... for channels that the source does not name."""
    return tuple(f"{prefix}.{i}" for i in range(width))


def vector_stream(prefix: str, width: int, *, unit: str = "unknown", kind: str = "", source: str = "") -> StreamSpec:
    """A float32 stream of numbered channels."""
    return StreamSpec("float32", (width,), numbered_channels(prefix, width), (unit,) * width, kind, "", source)


def require_rows(where: str, lengths: dict[str, int], rows: int) -> None:
    """Refuse arrays of another length than ``rows``.

    Raises:
        DataError: naming all of them.
    """
    wrong = {name: n for name, n in lengths.items() if n != rows}
    if wrong:
        raise DataError(
            explain(
                f"{where}: arrays of unequal length",
                given=wrong,
                allowed=f"{rows} rows",
                mend="leave the episode out",
            )
        )


def leaves(group: Any, prefix: str = "") -> list[str]:
    """Paths of all arrays below a group, sorted."""
    found: list[str] = []
    for name in natural_order(group.keys()):
        item = group[name]
        found += leaves(item, f"{prefix}{name}/") if hasattr(item, "keys") else [prefix + name]
    return found


class Hdf5File:
    """An HDF5 file open for reading. A context manager."""

    def __init__(self, path: Path):
        """Open it.

        Raises:
            DataError: missing, cut, or no HDF5.
            MissingDependencyError: h5py is not installed.
        """
        try:
            import h5py
        except ImportError as error:
            raise MissingDependencyError(explain("reading HDF5 needs h5py", mend="pip install h5py")) from error
        self.path = path
        if not path.is_file():
            raise DataError(explain(f"no such file: {path}", mend="check the path"))
        try:
            self.root = h5py.File(path, "r")
        except OSError as error:
            size = path.stat().st_size
            raise DataError(
                explain(f"{path} cannot be opened: {error}", given=f"{size} bytes", mend="it is cut; fetch it again")
            ) from error

    def close(self) -> None:
        """Close it. Harmless when done twice."""
        self.root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self.root

    def node(self, key: str) -> Any:
        """Group or array at ``key``.

        Raises:
            DataError: there is none; the message lists what its parent holds.
        """
        try:
            node = self.root[key]
            if hasattr(node, "shape") or hasattr(node, "keys"):
                return node
            raise DataError(explain(f"{self.path}: '{key}' is neither group nor array", given=type(node).__name__))
        except KeyError:
            parent, _, name = key.rpartition("/")
            while parent and parent not in self.root:
                parent, _, name = parent.rpartition("/")
            held = natural_order(self.root[parent or "/"].keys())
            raise DataError(
                explain(f"{self.path} has no '{key}'", given=held, mend=suggest(name, held) or "see what it holds")
            ) from None
        except (OSError, RuntimeError) as error:
            raise self._damaged(key, error) from error

    def read(self, key: str, rows: slice = slice(None)) -> NDArray[Any]:
        """An array, or some of its rows.

        Raises:
            DataError: missing, no array, or damaged.
        """
        node = self.node(key)
        if not hasattr(node, "dtype"):
            raise DataError(explain(f"{self.path}: '{key}' is a group, not an array", given=list(node.keys())))
        try:
            return np.asarray(node[rows] if node.shape else node[()])
        except (OSError, RuntimeError) as error:
            raise self._damaged(key, error) from error

    def vectors(self, key: str, width: int | None = None, rows: slice = slice(None)) -> NDArray[np.float64]:
        """A finite array of numbers as f64 [T, width]; [T] becomes [T, 1].

        Raises:
            DataError, ShapeError: missing, of another rank or width, no numbers.
            NonFiniteError: with row and column of the first.
        """
        array = self.read(key, rows)
        where = f"{self.path}: '{key}'"
        if array.dtype.kind not in "fiub":
            raise ShapeError(explain(f"{where} holds no numbers", given=array.dtype))
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or (width is not None and array.shape[1] != width):
            raise ShapeError(
                explain(f"{where} has the wrong shape", given=array.shape, allowed=f"[T, {width if width else 'n'}]")
            )
        values = array.astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise NonFiniteError(
                explain(
                    f"{where} is not finite at row {row}, column {column} ({int((~finite).sum())} values in all)",
                    given=values[row, column],
                    mend="leave the episode out or repair its source",
                )
            )
        return values

    def frame_size(self, key: str) -> tuple[int, int]:
        """(height, width) of colour frames stored as an array u8 [T, H, W, 3], without reading them.

        Raises:
            ShapeError: another rank or dtype.
        """
        node = self.node(key)
        shape: tuple[int, ...] = getattr(node, "shape", ())
        dtype = getattr(node, "dtype", None)
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
            raise ShapeError(
                explain(
                    f"{self.path}: '{key}' holds no colour frames",
                    given=(shape, str(dtype)),
                    allowed="uint8 [T, H, W, 3]",
                    mend="store RGB frames as 8-bit integers, channels last",
                )
            )
        return int(shape[1]), int(shape[2])

    def frames(
        self, key: str, rows: slice, turn: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    ) -> FrameSequence:
        """Colour frames u8 [T, H, W, 3], read when they are encoded, a block at a time; the file is opened anew.

        Args:
            key: The array.
            rows: Which of them.
            turn: What is done to a block [n, H, W, 3], which must keep its shape.

        Raises:
            DataError, ShapeError: as :meth:`frame_size`; on iteration as :meth:`read`.
        """
        height, width = self.frame_size(key)
        node, path = self.node(key), self.path
        first, last, _ = rows.indices(len(node))
        # A chunk of several frames is unpacked whole: blocks as long as it are unpacked once.
        block = max(_BLOCK_FRAMES, node.chunks[0] if node.chunks else 0)

        def decode() -> Iterator[NDArray[np.uint8]]:
            with hdf5_errors(path), Hdf5File(path) as file:
                for start in range(first, last, block):
                    part = file.read(key, slice(start, min(start + block, last)))
                    yield from part if turn is None else turn(part)

        return FrameSequence(max(last - first, 0), (height, width, 3), decode)

    def attribute(self, key: str, name: str, default: Any = None) -> Any:
        """An attribute with bytes as text and numpy scalars as Python's, or ``default``."""
        value = self.node(key).attrs.get(name, default)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, str):  # h5py gives broken text with surrogates, which no JSON can hold
            return value.encode("utf-8", "replace").decode("utf-8")
        return value.item() if isinstance(value, np.generic) else value

    def json_attribute(self, key: str, name: str) -> dict[str, Any]:
        """An attribute that is a JSON object in text; {} where there is none.

        Raises:
            DataError: it is no JSON object.
        """
        text = self.attribute(key, name)
        if text is None:
            return {}
        try:
            loaded = json.loads(str(text))
        except ValueError as error:
            raise DataError(explain(f"{self.path}: attribute '{name}' of {key} is no JSON: {error}")) from error
        if not isinstance(loaded, dict):
            raise DataError(explain(f"{self.path}: attribute '{name}' of {key} is no JSON object", given=loaded))
        return loaded

    def _damaged(self, key: str, error: Exception) -> DataError:
        return DataError(explain(f"{self.path}: '{key}' is damaged: {error}", mend="it is cut; fetch it again"))
