"""Judges a stream of setpoints where it arrives, by finite differences against the card; trusts nobody before it.

Used by everything that plays a robot, in a process other than the one that made the setpoints, so that the record of
violations does not depend on the code that is being judged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.embodiment import Embodiment

__all__ = ["VIOLATIONS", "SetpointCheck"]

Vector = NDArray[np.float64]

VIOLATIONS = ("position", "velocity", "acceleration", "jerk", "jump", "non_finite", "order")
"""What can be wrong with a setpoint: the card's four limits by finite differences, a stream that does not begin where
the robot stands, a NaN, a time that does not advance."""


class SetpointCheck:
    """Judges a stream of setpoints by finite differences: position, velocity, acceleration, jerk.

    Args:
        card: Whose limits.
        jump: Largest distance between the first setpoint of a stream and where the robot stands, in channel units.
        tolerance: Relative excess that is still rounding.
        tick_s: Nominal time between two setpoints; the card's by default.
        resolution: [J] or one number: smallest step that the wire can say, in channel units. A difference of order n
            of rounded values is off by up to 2^(n-1) steps.

    Attributes:
        violations: Counts by kind, in the order of :data:`VIOLATIONS`.
        worst: Largest value over its limit, by kind; 1 is the limit.
    """

    def __init__(
        self,
        card: Embodiment,
        *,
        jump: float = 0.05,
        tolerance: float = 1e-6,
        tick_s: float | None = None,
        resolution: ArrayLike = 0.0,
    ):
        joints = card.joints
        self._lower, self._upper = joints.lower, joints.upper
        self._limits = {kind: joints.limit(f"max_{kind}") for kind in ("velocity", "acceleration", "jerk")}
        self._jump, self._tolerance, self._tick_s = jump, tolerance, tick_s or card.tick_s
        self._resolution = np.broadcast_to(np.asarray(resolution, float), (len(joints),))
        self.reset_counts()
        self.restart(None)

    def reset_counts(self) -> None:
        """Forget what was counted."""
        self.violations = dict.fromkeys(VIOLATIONS, 0)
        self.worst = dict.fromkeys(VIOLATIONS, 0.0)

    def restart(self, standing: Vector | None) -> None:
        """A new stream begins; its first setpoint must lie where the robot stands ([J], or None to accept any)."""
        self._standing = None if standing is None else standing.copy()
        self._time_ns: int | None = None
        self._derivatives: list[tuple[float, Vector]] = []

    def check(self, time_ns: int, position: Vector) -> list[str]:
        """Judge the next setpoint. -> kinds violated."""
        if not np.isfinite(position).all():
            return self._count({"non_finite": np.inf})
        found: dict[str, float] = {}
        span = self._upper - self._lower
        outside = (np.maximum(self._lower - position, position - self._upper) - self._resolution) / span
        if outside.max() > self._tolerance:
            found["position"] = 1.0 + float(outside.max())
        if self._time_ns is None:
            if self._standing is not None and (distance := float(np.abs(position - self._standing).max())) > self._jump:
                found["jump"] = distance / self._jump
            self._derivatives = [(0.0, position.copy())]
        elif time_ns <= self._time_ns:
            return self._count({"order": 1.0})
        else:
            dt = (time_ns - self._time_ns) / 1e9
            found |= self._differences(dt, position)
        self._time_ns = time_ns
        return self._count(found)

    def _differences(self, dt: float, position: Vector) -> dict[str, float]:
        """Backward differences up to the third; each order appears once enough setpoints have been seen."""
        found = {}
        hole = dt > 1.5 * self._tick_s
        fresh: list[tuple[float, Vector]] = [(dt, position.copy())]
        for kind, (_, before) in zip(self._limits, self._derivatives, strict=False):
            rate = (fresh[-1][1] - before) / dt
            # Rounding of the positions grows by 2 / dt with each order.
            noise = (1e-14 + 2.0 ** (len(fresh) - 1) * self._resolution) / dt ** len(fresh)
            over = np.abs(rate) / (self._limits[kind] + noise)
            if hole and kind != "velocity":
                break
            self.worst[kind] = max(self.worst[kind], float(over.max()))
            if over.max() > 1 + self._tolerance:
                found[kind] = float(over.max())
            fresh.append((dt, rate))
        # Across a hole only the mean velocity is known; the gap itself is counted by the controller.
        self._derivatives = fresh[: 1 if hole else 3]
        return found

    def _count(self, found: dict[str, float]) -> list[str]:
        for kind, size in found.items():
            self.violations[kind] += 1
            self.worst[kind] = max(self.worst[kind], size)
        return list(found)
