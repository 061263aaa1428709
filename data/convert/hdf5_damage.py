"""Damaged HDF5 files: h5py raises errors of many kinds that name no file; here they become one that does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robopolicy.data.convert.source import Reading, Source, SourceInfo
from robopolicy.errors import DataError, RobopolicyError, explain

__all__ = ["guarded", "hdf5_errors"]


@contextlib.contextmanager
def hdf5_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises inside into a :class:`DataError`; errors that come from elsewhere are left alone.

    Raises:
        DataError: with the file and h5py's words.
    """
    try:
        yield
    except RobopolicyError:
        raise
    except Exception as error:
        if not _of_h5py(error):
            raise
        raise DataError(explain(f"{path} is damaged: {error}", mend="fetch the file again")) from error


def guarded(kind: Callable[[Path, Any], Source]) -> Callable[[Path, Any], Source]:
    """The way to open a source, and to read from it, with :func:`hdf5_errors` about it."""

    def opened(path: Path, options: Any) -> Source:
        with hdf5_errors(path):
            return _Guarded(path, kind(path, options))

    return opened


class _Guarded:
    """A source whose damage is named."""

    def __init__(self, path: Path, source: Source):
        self._path, self._source = path, source

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    def read(self, episode: str) -> Reading:
        with hdf5_errors(self._path):
            return self._source.read(episode)

    def close(self) -> None:
        self._source.close()


def _of_h5py(error: Exception) -> bool:
    """Whether the error was raised inside h5py."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "h5py" in trace.tb_frame.f_code.co_filename
