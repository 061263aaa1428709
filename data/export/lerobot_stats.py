"""The ten statistics that LeRobot keeps per feature: min, max, mean, std, count and five quantiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUANTILES", "ColumnStats", "ImageStats"]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
IMAGE_SAMPLES = 32
"""Frames per episode and camera that are counted."""
_MOST_ROWS = 1 << 20


@dataclass(frozen=True, eq=False)
class ColumnStats:
    """Statistics of rows that are kept: exact up to a million rows, from a thinned set of them beyond."""

    rows: NDArray[np.float64]
    count: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any]) -> ColumnStats:
        """Of rows [n, C] or [n]."""
        rows = np.asarray(values, np.float64).reshape(len(values), -1)
        mean = rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        return cls(rows, len(rows), rows.min(axis=0), rows.max(axis=0), rows.sum(axis=0), squares)

    def merged(self, other: ColumnStats) -> ColumnStats:
        """Of both sets of rows; moments by Chan, Golub and LeVeque (1979)."""
        count = self.count + other.count
        apart = other.total / other.count - self.total / self.count
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        rows = np.concatenate([self.rows, other.rows])
        if rows.size > _MOST_ROWS * 4:
            rows = rows[::2]
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return ColumnStats(rows, count, low, high, self.total + other.total, squares)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists under LeRobot's names."""
        quantiles = np.quantile(self.rows, list(QUANTILES.values()), axis=0)
        return {
            "min": self.low.tolist(),
            "max": self.high.tolist(),
            "mean": (self.total / self.count).tolist(),
            "std": np.sqrt(self.squares / self.count).tolist(),
            "count": [self.count],
            **{name: row.tolist() for name, row in zip(QUANTILES, quantiles, strict=True)},
        }


class ImageStats:
    """Statistics of frames in [0, 1] per colour, from a histogram of some of them; lists have LeRobot's shape 3x1x1."""

    def __init__(self, length: int):
        """Count every ``length / 32``-th frame of an episode of that length."""
        self._every = max(1, length // IMAGE_SAMPLES)
        self.histogram = np.zeros((3, 256), np.int64)
        self.frames = 0

    def watched(self, frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """``frames`` as they are, counted on their way."""
        for number, frame in enumerate(frames):
            if number % self._every == 0:
                self.frames += 1
                for colour in range(3):
                    self.histogram[colour] += np.bincount(frame[..., colour].reshape(-1), minlength=256)
            yield frame

    def merged(self, other: ImageStats) -> ImageStats:
        """Of both sets of frames."""
        out = ImageStats(1)
        out.histogram, out.frames = self.histogram + other.histogram, self.frames + other.frames
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain lists under LeRobot's names."""
        levels = np.arange(256) / 255.0
        pixels = self.histogram.sum(axis=1)
        mean = self.histogram @ levels / pixels
        std = np.sqrt(np.maximum(self.histogram @ levels**2 / pixels - mean**2, 0.0))
        below = np.cumsum(self.histogram, axis=1) / pixels[:, None]
        seen = self.histogram > 0
        named = {
            "min": levels[seen.argmax(axis=1)],
            "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": std,
            **{name: levels[(below >= q).argmax(axis=1)] for name, q in QUANTILES.items()},
        }
        return {name: value.reshape(3, 1, 1).tolist() for name, value in named.items()} | {"count": [self.frames]}
