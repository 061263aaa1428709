"""Deleted episodes: still on disk, hidden from every reader, until ``robopolicy data compact`` leaves them out.

The commit record lists the stored indices of the deleted episodes. A reader then works in *live* indices: episodes
``0 .. num_episodes - 1`` and rows ``0 .. num_steps - 1`` without gaps, so whoever reads a store need not know that
anything was deleted. Only this module translates::

    stored episodes   0      1      2      3          tombstones [1]
    stored rows       0..4   5..9   10..14 15..19
    live episodes     0             1      2
    live rows         0..4          5..9   10..14

Other zarr software sees the stored rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, ShapeError, explain

__all__ = ["FrameSource", "LiveImages", "LiveRows", "check_tombstones", "dead_rows"]


class FrameSource(Protocol):
    """What :class:`LiveImages` needs of a reader of frames."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start .. stop``."""
        ...

    def gather(self, rows: NDArray[np.integer], out: NDArray[Any]) -> None:
        """Frames ``rows`` into ``out``."""
        ...


def check_tombstones(entry: Any, num_episodes: int) -> tuple[int, ...]:
    """The list of a commit record as stored indices.

    Args:
        entry: As read.
        num_episodes: Stored episodes, deleted ones included.

    Raises:
        DataError: not a rising list of stored episodes.
    """
    plain = isinstance(entry, (list, tuple)) and all(isinstance(i, int) and not isinstance(i, bool) for i in entry)
    inside = plain and all(0 <= i < num_episodes for i in entry)
    if not inside or list(entry) != sorted(set(entry)):
        raise DataError(explain("tombstones are not a rising list of episodes", given=entry, allowed=num_episodes))
    return tuple(entry)


def dead_rows(ends: NDArray[np.int64], tombstones: Sequence[int]) -> NDArray[np.bool_]:
    """bool [N]: which stored rows belong to deleted episodes.

    Args:
        ends: int64 [E], stored.
        tombstones: Stored indices.
    """
    dead = np.zeros(int(ends[-1]) if len(ends) else 0, bool)
    for i in tombstones:
        dead[int(ends[i - 1]) if i else 0 : int(ends[i])] = True
    return dead


@dataclass(frozen=True, eq=False)
class LiveRows:
    """Live rows of a store and where they are stored.

    Attributes:
        episodes: int64 [L], stored index of each live episode.
        starts: int64 [L], stored first row of each.
        ends: int64 [L], live, cumulative.
    """

    episodes: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, ends: NDArray[np.int64], tombstones: Sequence[int]) -> LiveRows:
        """From stored ``ends`` int64 [E] and stored indices of the deleted episodes."""
        keep = np.ones(len(ends), bool)
        keep[list(tombstones)] = False
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        lengths = (ends - starts)[keep]
        return cls(np.flatnonzero(keep).astype(np.int64), starts[keep], np.cumsum(lengths).astype(np.int64))

    @property
    def num_steps(self) -> int:
        """Live rows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def stored(self, live: NDArray[np.integer]) -> NDArray[np.int64]:
        """Live rows [n] -> stored rows [n].

        Raises:
            ShapeError: a row that is not live.
        """
        rows = live.astype(np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.num_steps):
            worst = int(rows.min() if rows.min() < 0 else rows.max())
            raise ShapeError(explain("no such row", given=worst, allowed=f"0 to {self.num_steps - 1}"))
        if not len(rows):
            return rows
        episode = np.searchsorted(self.ends, rows, side="right")
        return rows + self._shift[episode]

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Live rows ``start .. stop`` as (first, last + 1) of stored rows, neighbours joined."""
        spans: list[tuple[int, int]] = []
        first = int(np.searchsorted(self.ends, start, side="right"))
        for episode in range(first, len(self.ends)):
            shift = int(self._shift[episode])
            begin = int(self.ends[episode - 1]) if episode else 0
            lower, upper = max(begin, start) + shift, min(int(self.ends[episode]), stop) + shift
            if begin >= stop:
                break
            if spans and spans[-1][1] == lower:
                spans[-1] = (spans[-1][0], upper)
            else:
                spans.append((lower, upper))
        return spans

    def select(self, values: NDArray[Any]) -> NDArray[Any]:
        """Stored rows [N, ...] -> live rows [L, ...]."""
        parts = [values[a:b] for a, b in self.spans(0, self.num_steps)]
        return np.concatenate(parts) if parts else values[:0].copy()

    @property
    def _shift(self) -> NDArray[np.int64]:
        """int64 [L]: stored row minus live row, per episode."""
        return self.starts - np.concatenate([[0], self.ends[:-1]]).astype(np.int64)


class LiveImages:
    """A reader of frames in live rows. Same interface as the reader below it."""

    def __init__(self, reader: Any, live: LiveRows):
        """Nothing is opened.

        Args:
            reader: In stored rows.
            live: Which of them are live.
        """
        self.reader, self.live = reader, live

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start .. stop`` -> [stop - start, H, W, C]."""
        parts = [self.reader.read(a, b) for a, b in self._spans(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else self.reader.read(0, 0)

    def gather(self, rows: NDArray[np.integer], out: NDArray[Any]) -> None:
        """Frames ``rows`` [n], in that order, into ``out`` [n, H, W, C]."""
        self.reader.gather(self.live.stored(rows), out)

    def blobs(self, start: int, stop: int) -> list[bytes]:
        """Stored bytes of frames ``start .. stop``."""
        return [blob for a, b in self._spans(start, stop) for blob in self.reader.blobs(a, b)]

    def _spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        if not 0 <= start <= stop <= self.live.num_steps:
            raise ShapeError(explain("no such rows", given=(start, stop), allowed=f"0 to {self.live.num_steps}"))
        return self.live.spans(start, stop)
