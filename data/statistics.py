"""Statistics of low-dimensional streams, updated at every commit without ever reading an image.

Moments by the parallel update of Chan, Golub and LeVeque (1979, STAN-CS-79-773, eq. 2.1) in float64. Quantiles from a
bottom-k sample: every row has a key that is a pure function of its index in the store (splitmix64, Steele et al. 2014),
and the :data:`SAMPLE_ROWS` rows with the smallest keys are kept. That is a uniform sample without replacement which
does not depend on how the rows were grouped into appends, merges by taking the smallest keys of a union, and can be
rebuilt from the data alone. Up to 16,384 rows the quantiles are exact; beyond, a quantile q has a standard error in
*rank* of sqrt(q (1 - q) / 16384), that is 0.0008 for q01 and q99.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["SAMPLE_ROWS", "RowSample", "RunningMoments", "Statistics", "row_keys", "sampled_rows"]

SAMPLE_ROWS = 16_384
"""Size of the quantile sample of one store."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Per-channel statistics of one stream, in the stream's units.

    Attributes:
        count: Rows that were counted.
        min, max, mean: f64 [C].
        std: f64 [C], population standard deviation (divided by ``count``).
        q01, q99: f64 [C], 1 % and 99 % quantiles (linear interpolation) of the sample described above.
    """

    count: int
    min: FloatArray
    max: FloatArray
    mean: FloatArray
    std: FloatArray
    q01: FloatArray
    q99: FloatArray

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; JSON keeps every bit of a float64."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else int(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Statistics:
        """Inverse of :meth:`to_dict`.

        Raises:
            DataError: an entry is missing, or the widths differ.
        """
        try:
            arrays = {k: np.asarray(entry[k], np.float64) for k in ("min", "max", "mean", "std", "q01", "q99")}
            count = int(entry["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(explain(f"statistics are incomplete: {error}", given=sorted(entry))) from error
        if len({a.shape for a in arrays.values()}) != 1 or arrays["min"].ndim != 1:
            raise DataError(explain("statistics of unequal widths", given={k: a.shape for k, a in arrays.items()}))
        return cls(count=count, **arrays)


@dataclass(frozen=True, eq=False)
class RunningMoments:
    """Count, extremes, mean and sum of squared deviations; merging is associative up to rounding.

    Attributes:
        count: Rows.
        min, max, mean, m2: f64 [C].
    """

    count: int
    min: FloatArray
    max: FloatArray
    mean: FloatArray
    m2: FloatArray

    @classmethod
    def empty(cls, width: int) -> RunningMoments:
        """Of no rows at all."""
        return cls(0, np.full(width, np.inf), np.full(width, -np.inf), np.zeros(width), np.zeros(width))

    @classmethod
    def of(cls, rows: NDArray[Any]) -> RunningMoments:
        """Of ``rows`` [n, C], n >= 1."""
        x = rows.astype(np.float64)
        mean = x.mean(axis=0)
        return cls(len(x), x.min(axis=0), x.max(axis=0), mean, ((x - mean) ** 2).sum(axis=0))

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Moments of the union (Chan et al., eq. 2.1)."""
        if not self.count:
            return other
        if not other.count:
            return self
        count = self.count + other.count
        delta = other.mean - self.mean
        return RunningMoments(
            count,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + delta**2 * (self.count * other.count / count),
        )

    def statistics(self, sample: NDArray[Any]) -> Statistics:
        """Together with the quantiles of ``sample`` [k, C]."""
        by_channel = np.ascontiguousarray(sample.T, np.float64)  # partitioning columns in place is three times slower
        q01, q99 = np.quantile(by_channel, [0.01, 0.99], axis=1)
        std = np.sqrt(self.m2 / max(self.count, 1))
        return Statistics(self.count, self.min, self.max, self.mean, std, q01, q99)


def row_keys(start: int, stop: int) -> NDArray[np.uint64]:
    """uint64 [stop - start]: splitmix64 of the row indices, each distinct and uniformly spread."""
    with np.errstate(over="ignore"):
        z = (np.arange(start, stop, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def sampled_rows(num_rows: int, dead: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Sorted indices of the rows that the sample of a store of ``num_rows`` rows consists of.

    Args:
        num_rows: Stored rows.
        dead: bool [num_rows], rows of deleted episodes, which are never in the sample.
    """
    alive = np.arange(num_rows, dtype=np.int64) if dead is None else np.flatnonzero(~dead).astype(np.int64)
    if len(alive) <= SAMPLE_ROWS:
        return alive
    keys = row_keys(0, num_rows)[alive]
    return np.sort(alive[np.argpartition(keys, SAMPLE_ROWS)[:SAMPLE_ROWS]])


@dataclass(frozen=True, eq=False)
class RowSample:
    """The bottom-k sample of one store; all streams share its rows.

    Attributes:
        keys: uint64 [k].
        rows: Per stream, [k, C].
    """

    keys: NDArray[np.uint64]
    rows: dict[str, NDArray[Any]]

    def extended(self, start: int, streams: Mapping[str, NDArray[Any]]) -> RowSample:
        """With rows ``start ..`` of every stream offered to it; this object stays as it is."""
        length = len(next(iter(streams.values())))
        new = row_keys(start, start + length)
        keys = np.concatenate([self.keys, new])
        if len(keys) <= SAMPLE_ROWS:
            return RowSample(keys, {k: np.concatenate([v, streams[k]]) for k, v in self.rows.items()})
        limit = np.partition(keys, SAMPLE_ROWS - 1)[SAMPLE_ROWS - 1]
        old, add = self.keys <= limit, new <= limit
        return RowSample(
            np.concatenate([self.keys[old], new[add]]),
            {k: np.concatenate([v[old], streams[k][add]]) for k, v in self.rows.items()},
        )
