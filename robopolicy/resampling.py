"""One stated rule for rows at other times: linear, rotations on the shortest arc, grippers and pictures held.

At a new time t between the rows l (last at or before t) and l + 1, with w = (t - t_l) / (t_{l+1} - t_l)::

    positions, joints, velocities    (1 - w) x_l + w x_{l+1}
    rotations (6-D)                  R_l exp(w log(R_l^T R_{l+1})), then 6-D again           (SLERP, Shoemake 1985)
    grippers, discrete, pictures     x_l

Outside of the recording its first or last row is held. Actions are targets: row i is to be *reached* at t_i + 1 / fps,
and that path is read at the new rows' own reach times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import ChannelGroup
from robopolicy.embodiment import Embodiment
from robopolicy.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)

__all__ = ["Blend", "blend_of", "places"]

HELD_UNITS = ("discrete", "boolean", "index")


def places(source_ns: NDArray[np.int64], wanted_ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where new times lie among recorded ones.

    Args:
        source_ns: int64 [n], strictly increasing, n >= 1.
        wanted_ns: int64 [m].

    Returns:
        int64 [m] row at or before (the first, for earlier times), f64 [m] share of the next row, 0 <= w < 1.
    """
    lower = np.clip(np.searchsorted(source_ns, wanted_ns, side="right") - 1, 0, len(source_ns) - 1)
    upper = np.minimum(lower + 1, len(source_ns) - 1)
    gap = np.maximum(source_ns[upper] - source_ns[lower], 1)
    weight = np.where(upper > lower, (wanted_ns - source_ns[lower]) / gap, 0.0)
    return lower.astype(np.int64), np.clip(weight, 0.0, 1.0)


@dataclass(frozen=True)
class Blend:
    """The rule for the columns of one stream.

    Attributes:
        rotations: Six columns each.
        held: Columns that are not interpolated.
    """

    rotations: tuple[tuple[int, ...], ...] = ()
    held: tuple[int, ...] = ()

    def rows(self, lower: NDArray[Any], upper: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows [..., C] before and after, share of the latter [...] -> f64 [..., C]."""
        before, after = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        share = np.asarray(weight, np.float64)[..., None]
        out = before + share * (after - before)
        for columns in self.rotations:
            first = rotation_6d_to_matrix(before[..., columns])
            turn = matrix_to_axis_angle(np.swapaxes(first, -1, -2) @ rotation_6d_to_matrix(after[..., columns]))
            between = matrix_to_rotation_6d(first @ axis_angle_to_matrix(share * turn))
            out[..., columns] = np.where(share > 0, between, before[..., columns])  # recorded rows stay as they are
        out[..., list(self.held)] = before[..., list(self.held)]
        return out


def blend_of(channels: ChannelGroup, embodiment: Embodiment) -> Blend:
    """The rule for named channels: complete 6-D rotations by their names, grippers by the card or their name."""
    grippers = {arm.gripper for arm in embodiment.arms if arm.gripper}
    names = channels.names
    stems = _unique(
        n.rpartition(".")[0] for n, c in zip(names, channels.channels, strict=True) if c.unit == "rotation_6d"
    )
    six = [[f"{stem}.{i}" for i in range(6)] for stem in stems]
    held = [
        i
        for i, c in enumerate(channels.channels)
        if c.name in grippers or c.name.endswith("gripper") or c.unit in HELD_UNITS
    ]
    return Blend(
        rotations=tuple(tuple(names.index(n) for n in group) for group in six if set(group) <= set(names)),
        held=tuple(held),
    )


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
