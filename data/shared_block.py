"""Memory that several processes see, without a name: nothing can be left behind in ``/dev/shm``.

A ``memfd`` (Linux) lives as long as a descriptor or a mapping of it, whatever becomes of the process that made it, and
does not count against the size of ``/dev/shm``, which containers keep small. Elsewhere an unlinked temporary file does
the same.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from robopolicy.errors import StorageError, explain

__all__ = ["PAGE_BYTES", "SharedBlock", "aligned"]

PAGE_BYTES = 4096


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to whole pages."""
    return -(-nbytes // PAGE_BYTES) * PAGE_BYTES


class SharedBlock:
    """A piece of memory that child processes can map through its descriptor. Pages are taken when first touched."""

    def __init__(self, nbytes: int, fd: int | None = None):
        """Make a block, or map one that another process made.

        Args:
            nbytes: Size.
            fd: Descriptor of an existing block, owned by this object from now on.

        Raises:
            StorageError: the system refuses.
        """
        self.nbytes = nbytes
        try:
            self.fd = _anonymous(max(nbytes, 1)) if fd is None else fd
            self.memory = mmap.mmap(self.fd, max(nbytes, 1))
        except OSError as error:
            raise StorageError(
                explain(f"no shared memory of {nbytes} B: {error}", mend="lower the cache budget or the batch size")
            ) from error
        weakref.finalize(self, os.close, self.fd)

    def array(self, shape: Sequence[int], dtype: DTypeLike = np.uint8, offset: int = 0) -> NDArray[Any]:
        """A view of part of the block; it keeps the memory alive by itself."""
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self.memory, dtype, count, offset).reshape(shape)


def _anonymous(nbytes: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("robopolicy", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as stream:
            fd = os.dup(stream.fileno())
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        os.close(fd)
        raise
    return fd
