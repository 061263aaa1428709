"""From samples at their own times to the rows of one clock: pure functions, no format.

::

    samples   s0 .... s1 .. s2 .............. s3
    rows      |     |     |     |     |     |
    last      s0    s0    s2    s2    s2    s3      the newest sample at or before the row: never from the future
    step_end  .     s1    s2    s2    s2    s3      the newest sample at or before the row plus one step (commands)
    interpolate                                     between the two neighbours in time; positions on a line, rotations
                                                    on the great circle

A row's ``action`` is decided from its observation, so a command that is published after the row is the one that
answers it: ``step_end`` takes the newest one within the step that follows the row. The stamps of the samples used are
returned, so that what was chosen can be checked afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.rotations import quaternion_to_matrix

__all__ = ["RULES", "Choice", "choose", "interpolate", "ordered", "row_times", "slerp"]

RULES = ("last", "step_end", "interpolate")
Times = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """Which samples a stream's rows come from.

    Attributes:
        before: int64 [T] index of the sample used; for ``interpolate`` the earlier neighbour.
        after: int64 [T] the later neighbour; equal to ``before`` for the other rules and where a stamp meets the row.
        weight: float64 [T] share of ``after``.
        stamp_ns: int64 [T] stamp of ``before``.
        age_ns: int64 [T] largest distance of a sample used from where the rule looks (the row, or the row's end).
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    weight: NDArray[np.float64]
    stamp_ns: Times
    age_ns: Times


def ordered(stamps_ns: Times) -> tuple[NDArray[np.int64], int]:
    """Order of the samples by stamp, the last to arrive of equal stamps only. -> (indices, how many ran backwards)."""
    stamps = np.asarray(stamps_ns, np.int64)
    backwards = int((np.diff(stamps) < 0).sum())
    order = np.argsort(stamps, kind="stable")
    if len(order):
        newest = np.append(np.diff(stamps[order]) > 0, True)
        order = order[newest]
    return order, backwards


def row_times(first_ns: int, last_ns: int, rate_hz: float) -> Times:
    """A regular clock: ``first_ns``, then every ``1 / rate_hz`` up to ``last_ns``.

    Raises:
        DataError: not even one row fits.
    """
    if last_ns < first_ns:
        raise DataError(
            explain(
                "the streams have no time in common",
                given=f"{(first_ns - last_ns) / 1e9:.3f} s lie between the end of one and the beginning of another",
                mend="see whether a topic is silent or on another clock",
            )
        )
    rows = int((last_ns - first_ns) * rate_hz / 1e9 + 1e-6) + 1
    return first_ns + np.round(np.arange(rows) * (1e9 / rate_hz)).astype(np.int64)


def choose(stamps_ns: Times, rows_ns: Times, rule: str, step_ns: int = 0) -> Choice:
    """Pick the samples for each row.

    Args:
        stamps_ns: int64 [N] strictly increasing.
        rows_ns: int64 [T].
        rule: One of :data:`RULES`.
        step_ns: One row, for ``step_end``.

    Raises:
        DataError: unknown rule, no samples, or a row that lies before the first (or, interpolating, after the last).
    """
    if rule not in RULES:
        raise DataError(explain("unknown resampling rule", given=rule, allowed=RULES))
    if not len(stamps_ns):
        raise DataError(explain("a stream has no samples", mend="check its topic"))
    look = rows_ns + step_ns if rule == "step_end" else rows_ns
    before = np.searchsorted(stamps_ns, look, side="right") - 1
    if len(before) and before.min() < 0:
        short = (int(stamps_ns[0]) - int(look[np.argmin(before)])) / 1e9
        raise DataError(explain(f"the first row lies {short:.3f} s before the first sample of a stream"))
    after, weight = before, np.zeros(len(before))
    if rule == "interpolate":
        between = stamps_ns[before] < look
        after = before + between
        if len(after) and after.max() >= len(stamps_ns):
            raise DataError(explain("the last row lies after the last sample of a stream that is interpolated"))
        gap = np.where(between, stamps_ns[after] - stamps_ns[before], 1)
        weight = np.where(between, (look - stamps_ns[before]) / gap, 0.0)
    age = np.maximum(look - stamps_ns[before], stamps_ns[after] - look)
    return Choice(before, after, weight, stamps_ns[before], age)


def interpolate(values: NDArray[np.floating], choice: Choice) -> NDArray[np.float64]:
    """Samples [N, C] -> rows [T, C], on the line between the chosen neighbours; a sample itself at weight 0."""
    x = np.asarray(values, np.float64)
    w = choice.weight[:, None]
    return np.where(w == 0, x[choice.before], (1 - w) * x[choice.before] + w * x[choice.after])


def slerp(quaternions: NDArray[np.floating], choice: Choice) -> NDArray[np.float64]:
    """Unit quaternions wxyz [N, 4] -> rotation matrices [T, 3, 3] on the shorter arc (Shoemake 1985).

    Raises:
        DataError: a quaternion of length zero.
    """
    q = np.asarray(quaternions, np.float64)
    norm = np.linalg.norm(q, axis=-1, keepdims=True)
    if not (np.isfinite(norm).all() and (norm > 1e-6).all()):
        raise DataError(explain("a quaternion has no direction", given=q[np.argmin(norm[:, 0])].tolist()))
    q = q / norm
    a, b, w = q[choice.before], q[choice.after], choice.weight[:, None]
    dot = np.sum(a * b, axis=-1, keepdims=True)
    b, dot = np.where(dot < 0, -b, b), np.minimum(np.abs(dot), 1.0)
    angle = np.arccos(dot)
    near = angle < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    left = np.where(near, 1 - w, np.sin((1 - w) * angle) / sine)
    right = np.where(near, w, np.sin(w * angle) / sine)
    return np.asarray(quaternion_to_matrix(np.where(w == 0, a, left * a + right * b)), np.float64)
