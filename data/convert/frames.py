"""Frames that are decoded one at a time, when the engine encodes them; no episode of video stands in memory whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["FrameSequence"]


class FrameSequence:
    """Colour frames of one camera and one episode, decoded anew at every iteration.

    A converter may put one in ``Episode.streams`` in the place of an array uint8 [T, H, W, 3]; the engine resizes and
    encodes it frame by frame, ``np.asarray`` makes the array.
    """

    def __init__(self, length: int, frame: tuple[int, int, int], decode: Callable[[], Iterable[NDArray[np.uint8]]]):
        """Nothing is decoded yet.

        Args:
            length: T.
            frame: (H, W, 3).
            decode: Gives the T frames uint8 [H, W, 3] in order; called once per iteration.
        """
        self.frame, self._length, self._decode = frame, length, decode

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3)."""
        return (self._length, *self.frame)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return np.dtype(np.uint8)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The frames in order.

        Raises:
            DataError: fewer or more than promised, or of another size.
        """
        count = 0
        for frame in self._decode():
            if frame.shape != self.frame:
                raise DataError(explain(f"frame {count} has another size", given=frame.shape, allowed=self.frame))
            count += 1
            yield frame
        if count != self._length:
            raise DataError(explain("frames are missing", given=count, allowed=self._length))

    def head(self, length: int) -> FrameSequence:
        """The first frames."""

        def decode() -> Iterator[NDArray[np.uint8]]:
            return itertools.islice(iter(self._decode()), length)

        return FrameSequence(length, self.frame, decode)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        out = np.empty(self.shape, np.uint8)
        for i, frame in enumerate(self):
            out[i] = frame
        return out if dtype is None else out.astype(dtype)
