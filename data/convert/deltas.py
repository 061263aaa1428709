"""Absolute targets from deltas, over whole episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.unify import apply_delta
from robopolicy.errors import DataError, explain

__all__ = ["DELTA_REFERENCES", "delta_targets", "rotation_held"]

Array = NDArray[np.float64]
DELTA_REFERENCES = ("measured", "target")
"""What a delta is added to: the pose measured in its row, or the target of the row before (of the first row: the
measured pose)."""


def delta_targets(
    position_m: Array,
    rotation: Array,
    delta_m: Array,
    delta_rotation: Array,
    *,
    frame: str = "base",
    reference: str = "measured",
) -> tuple[Array, Array]:
    """Absolute targets of a whole episode of deltas.

    Args:
        position_m: [T, 3] measured.
        rotation: [T, 3, 3] measured.
        delta_m: [T, 3].
        delta_rotation: [T, 3, 3].
        frame: See :func:`robopolicy.data.convert.unify.apply_delta`.
        reference: One of :data:`DELTA_REFERENCES`.

    Raises:
        DataError: unknown frame or reference.
    """
    if reference not in DELTA_REFERENCES:
        raise DataError(explain("unknown reference of a delta", given=reference, allowed=DELTA_REFERENCES))
    if reference == "measured":
        return apply_delta(position_m, rotation, delta_m, delta_rotation, frame=frame)
    positions, rotations = np.empty_like(position_m), np.empty_like(rotation)
    last = (position_m[0], rotation[0]) if len(position_m) else None
    for row in range(len(position_m)):
        assert last is not None
        last = apply_delta(*last, delta_m[row], delta_rotation[row], frame=frame)
        positions[row], rotations[row] = last
    return positions, rotations


def rotation_held(rotation: Array, targets: Array, still: NDArray[np.bool_]) -> Array:
    """Rotation targets of a controller that keeps its last one while it is given no rotation.

    Args:
        rotation: [T, 3, 3] measured; that of row 0 is held until the first rotation is given.
        targets: [T, 3, 3] where one is given.
        still: [T] rows without.
    """
    held = targets.copy()
    last = rotation[0] if len(rotation) else None
    for row in range(len(targets)):
        if still[row]:
            held[row] = last
        last = held[row]
    return held
