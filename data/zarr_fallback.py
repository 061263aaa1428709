"""The slow way through zarr-python, for arrays that are laid out otherwise than our own readers know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["ZarrImages", "open_array", "read_through_zarr"]


def open_array(path: Path, name: str) -> Any:
    """The array ``name`` of the store at ``path`` as a ``zarr.Array``, opened for reading.

    Raises:
        DataError: zarr-python cannot open it.
    """
    import zarr

    from robopolicy.data.jpeg_codec import register_jpeg_codec

    register_jpeg_codec()
    try:
        return zarr.open_group(str(path), mode="r")[name]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise DataError(explain(f"zarr cannot open {path / name}: {type(error).__name__}: {error}")) from error


def read_through_zarr(path: Path, name: str, rows: int) -> NDArray[Any]:
    """The first ``rows`` rows of an array.

    Raises:
        DataError: zarr-python cannot read it.
    """
    array = open_array(path, name)
    try:
        return np.array(array[:rows])
    except (ValueError, OSError, RuntimeError) as error:
        raise DataError(explain(f"zarr cannot read {path / name}: {type(error).__name__}: {error}")) from error


class ZarrImages:
    """Same interface as :class:`robopolicy.data.shard.ImageReader`, about ten times slower."""

    def __init__(self, path: Path, name: str):
        """Nothing is opened yet."""
        self.path, self.name = path, name
        self._array: Any = None

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames ``start .. stop`` -> uint8 [stop - start, H, W, C]."""
        return np.asarray(self._opened()[start:stop])

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n], in that order, into ``out`` uint8 [n, H, W, C]."""
        array = self._opened()
        for i, row in enumerate(rows.tolist()):
            out[i] = array[row]

    def _opened(self) -> Any:
        if self._array is None:
            self._array = open_array(self.path, self.name)
        return self._array
