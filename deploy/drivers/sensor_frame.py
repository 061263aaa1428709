"""What a simulated scene senses, as a record of the ring ``frames``."""

from __future__ import annotations

import numpy as np

from robopolicy.deploy.shm import RecordRing
from robopolicy.sim.plant import Sensed

__all__ = ["write_frame"]


def write_frame(
    ring: RecordRing, sensed: Sensed, *, time_ns: int, scene: int, step: int, split: str, index: int
) -> None:
    """Publish one frame.

    Args:
        ring: ``frames``.
        sensed: By the plant.
        time_ns: Of the frame.
        scene: Resets so far.
        step: Control steps since the last one.
        split, index: Of the scene.
    """
    record = np.zeros((), ring.dtype)
    record["time_ns"], record["scene"], record["step"] = time_ns, scene, step
    record["index"], record["split"], record["success"] = index, split.encode(), sensed.success
    record["state"], record["joint_position"] = sensed.state, sensed.joint_position
    width = len(sensed.environment_state)
    record["environment_width"] = width
    record["environment_state"][:width] = sensed.environment_state
    for name, image in sensed.image.items():
        record[f"image/{name}"] = image
    ring.write(record)
