"""A camera without hardware: a moving pattern, for trying a daemon out."""

from __future__ import annotations

import numpy as np

from robopolicy.deploy.sensors import Image
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.errors import DeployError, explain

__all__ = ["PatternCamera"]


class PatternCamera:
    """A bar that wanders from left to right once per second.

    Args:
        height, width: Of the pictures.
        freeze_after_s: From then on it gives its last picture, with that picture's time; 0 for never.
    """

    def __init__(self, height: int, width: int, *, freeze_after_s: float = 0.0):
        if freeze_after_s < 0:
            raise DeployError(explain("freeze_after_s is negative", given=freeze_after_s, allowed=">= 0"))
        self._shape, self._begin_ns, self._freeze_ns = (height, width, 3), monotonic_ns(), round(freeze_after_s * 1e9)

    def read(self) -> tuple[Image, int] | None:
        """The picture of now."""
        now_ns = monotonic_ns()
        if self._freeze_ns:
            now_ns = min(now_ns, self._begin_ns + self._freeze_ns)
        image = np.full(self._shape, 40, np.uint8)
        at = (now_ns // 1_000_000 % 1000) * self._shape[1] // 1000
        image[:, at : at + max(self._shape[1] // 16, 1)] = (220, 160, 60)
        return image, now_ns

    def close(self) -> None:
        """Nothing to give back."""
