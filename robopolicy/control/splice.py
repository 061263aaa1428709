"""Joins a new chunk to what is scheduled, so that the reference neither jumps nor kinks.

::

    old    ----o----o----o----o
    new         (dropped) |  x----x----x----x----x     knots that lie in the past are dropped by time
    result ---------------*~~y~~~~y----x----x----x     * the join: value and rate of the old path
                             '-- blend --'             y between old and new by a smooth weight
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.curve import Curve

__all__ = ["blend_weight", "splice"]


def blend_weight(elapsed_ns: NDArray[np.int64], window_ns: int) -> NDArray[np.floating]:
    """Weight of the new chunk, ``3u^2 - 2u^3`` of ``u = elapsed / window`` clipped to [0, 1]; 1 for an empty window."""
    if window_ns <= 0:
        return np.ones(len(elapsed_ns))
    u = np.clip(elapsed_ns / window_ns, 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def splice(
    old: Curve,
    start_ns: int,
    time_ns: NDArray[np.int64],
    values: NDArray[np.floating],
    *,
    blend_ns: int,
    lateness_ns: int,
    tail_ns: int,
) -> Curve:
    """The path from ``old`` at ``start_ns`` into the new knots.

    Where old and new overlap, the knots of the first ``blend_ns`` (at most the overlap) move from the old path to the
    new. Where the old path has run out, a chunk that comes on time is followed at once, and one that is late is caught
    up with in as much time as it is late.

    Args:
        old: What was scheduled; evaluated beyond its end it gives its tail and its last knot.
        start_ns: Where the new path begins, with value and rate of the old.
        time_ns: [K] times of the new knots, all after ``start_ns``.
        values: [K, A] of the new knots, rotations orthonormal.
        blend_ns: Longest blend.
        lateness_ns: How long before ``start_ns`` the chunk's own time began.
        tail_ns: Stop tail of the result.
    """
    overlap_ns = old.end_ns - start_ns
    window_ns = min(blend_ns, overlap_ns) if overlap_ns > 0 else min(blend_ns, max(lateness_ns, 0))
    if window_ns > 0 and time_ns[0] - start_ns < window_ns:
        weight = blend_weight(time_ns - start_ns, window_ns)
        count = int((weight < 1.0).sum())
        before = np.array([old.at(int(t)) for t in time_ns[:count]])
        values = values.copy()
        values[:count] = old.layout.between(before, values[:count], weight[:count])
    return old.joined(start_ns, time_ns, values, tail_ns)
