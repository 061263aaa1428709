"""Memory for batches, used again when nobody holds the batch any more.

A fresh array of some megabytes comes from the kernel page by page, each one zeroed when it is first touched: at 64
windows of two 96x96 cameras that costs 35 us a window, where copying the frames out of a decoded cache costs 13.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import FRAME_OFFSET
from robopolicy.data.shared_block import PAGE_BYTES

__all__ = ["BatchMemory"]

_SMALL = 1 << 16
"""Smaller arrays come from the allocator, which keeps them."""
_LARGE = 1 << 22
"""From this size on numpy asks for huge pages, which makes copies a tenth faster; pages not touched are not taken."""
_KEPT = 8
"""Free pieces of one size, and sizes."""


class BatchMemory:
    """Gives arrays that belong to the caller; their memory comes back by itself when the last view of it is gone."""

    def __init__(self) -> None:
        self._free: OrderedDict[int, deque[NDArray[np.uint8]]] = OrderedDict()

    def empty(self, layout: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], count: int) -> dict[str, NDArray[Any]]:
        """Arrays of a batch, name -> [count, ...], with whatever was in them.

        Frames can be decoded straight into them, see :func:`robopolicy.data.codecs.decoder_into`.

        Args:
            layout: Name -> (shape without the batch, dtype).
            count: Samples.
        """
        return {name: self._array((count, *shape), dtype) for name, (shape, dtype) in layout.items()}

    def _array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        if size < _SMALL:
            return np.empty(shape, dtype)
        return self._piece(size).view(dtype).reshape(shape)

    def _piece(self, size: int) -> NDArray[np.uint8]:
        free = self._free.setdefault(size, deque(maxlen=_KEPT))
        self._free.move_to_end(size)
        if len(self._free) > _KEPT:
            self._free.popitem(last=False)
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(max(size + 2 * PAGE_BYTES, _LARGE), np.uint8)
        first = -memory.ctypes.data % PAGE_BYTES + FRAME_OFFSET
        # over a memoryview: every view of this array keeps this array, not the memory below it
        piece = np.frombuffer(memory.data, np.uint8, size, first)
        weakref.finalize(piece, free.append, memory).atexit = False
        return piece
