"""The slow way through zarr-python, for arrays that are laid out otherwise than our own readers know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.files import DAMAGE, Files, LocalFiles
from robopolicy.errors import DataError, RobopolicyError, explain

__all__ = ["ZarrImages", "open_array", "read_through_zarr"]


def open_array(files: Files, name: str) -> Any:
    """The array ``name`` of a store as a ``zarr.Array``, opened for reading.

    Raises:
        DataError: zarr-python cannot open it.
    """
    import zarr

    from robopolicy.data.jpeg_codec import register_jpeg_codec

    register_jpeg_codec()
    with _zarr_errors(files, name):
        return zarr.open_group(files.zarr_store(), mode="r")[name]


@contextlib.contextmanager
def _zarr_errors(files: Files, name: str) -> Iterator[None]:
    """Whatever zarr-python and the codecs of other packages raise over a damaged array, as one error that names it."""
    try:
        yield
    except RobopolicyError:
        raise
    except Exception as error:  # every codec has exceptions of its own
        what = f"zarr cannot read {files.where(name)}: {type(error).__name__}: {error}"
        raise DataError(explain(what, mend=DAMAGE)) from error


def read_through_zarr(files: Files, name: str, rows: int) -> NDArray[Any]:
    """The first ``rows`` rows of an array.

    Raises:
        DataError: zarr-python cannot read it.
    """
    array = open_array(files, name)
    with _zarr_errors(files, name):
        values = np.array(array[:rows])
    if len(values) != rows:
        raise DataError(explain(f"{files.where(name)} is too short", given=len(values), allowed=rows, mend=DAMAGE))
    return values


class ZarrImages:
    """Same interface as :class:`robopolicy.data.shard.ImageReader`, about ten times slower."""

    def __init__(self, files: Files | Path, name: str):
        """Nothing is opened yet; ``name`` is that of the array within the store."""
        self.files: Files = LocalFiles(files) if isinstance(files, Path) else files
        self.name = name
        self._array: Any = None

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames ``start .. stop`` -> uint8 [stop - start, H, W, C]."""
        array = self._opened()
        with _zarr_errors(self.files, self.name):
            return np.asarray(array[start:stop])

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n], in that order, into ``out`` uint8 [n, H, W, C]."""
        array = self._opened()
        with _zarr_errors(self.files, self.name):
            for i, row in enumerate(rows.tolist()):
                out[i] = array[row]

    def _opened(self) -> Any:
        if self._array is None:
            self._array = open_array(self.files, self.name)
        return self._array
