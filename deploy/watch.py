"""Faults that only show in what the robot does: it does not follow, it pushes, or it is kept back without end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.verdict import Limit
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import ForceSensing
from robopolicy.schema import setting

__all__ = ["Watch", "WatchConfig"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class WatchConfig:
    """What counts as a fault of following; a part of ``configs/deploy`` and of a robot's YAML."""

    following_error: float = setting("joint error that is a fault, rad", default=0.2, gt=0)
    following_window_s: float = setting("the robot may be this far behind its setpoints, s", default=0.3, ge=0)
    following_s: float = setting("the error has to last this long, s", default=0.2, ge=0)
    force_n: float = setting("force at the tool that is a fault, N; 0: none", default=0.0, ge=0)
    torque_nm: float = setting("torque at the tool that is a fault, N m; 0: none", default=0.0, ge=0)
    force_s: float = setting("the force has to last this long, s", default=0.05, ge=0)
    clipped_s: float = setting(
        "requests may lie outside range, workspace or clearance this long without a pause, s; 0: for ever",
        default=10.0,
        ge=0,
    )


class Watch:
    """Compares, tick by tick, and asks for persistence: a single bad sample is noise.

    Args:
        card: The robot.
        tick_s: Time between two calls.
        config: Thresholds.
    """

    def __init__(self, card: Embodiment, tick_s: float, config: WatchConfig | None = None):
        self._config = config or WatchConfig()
        grippers = {arm.gripper for arm in card.arms}
        # a gripper that holds something never gets where it is told to go
        self._arm = np.array([i for i, name in enumerate(card.joints.names) if name not in grippers], np.intp)
        self._names = [card.joints.names[i] for i in self._arm]
        window = max(1, round(self._config.following_window_s / tick_s) + 1)
        self._recent = np.zeros((window, len(self._arm)))
        self._most = {
            "following": round(self._config.following_s / tick_s),
            "force": round(self._config.force_s / tick_s),
            "clipped": round(self._config.clipped_s / tick_s),
        }
        self.begin()

    def begin(self) -> None:
        """A new stream."""
        self._filled = self._next = 0
        self._count = dict.fromkeys(("following", "force", "clipped"), 0)

    def check(self, command: Vector, measured: Vector, driver: Any, clipped: bool) -> tuple[str, Limit] | None:
        """One tick. -> why the arm has to stop, with the limit, or None.

        Args:
            command: [J] setpoint just sent.
            measured: [J] newest position.
            driver: Asked for the force, where it can tell.
            clipped: Whether the limiter kept the arm from where it was asked to go.
        """
        return self._following(command, measured) or self._force(driver) or self._clipped(clipped)

    def _lasts(self, what: str, so: bool) -> bool:
        self._count[what] = self._count[what] + 1 if so else 0
        return self._count[what] > self._most[what]

    def _following(self, command: Vector, measured: Vector) -> tuple[str, Limit] | None:
        recent = self._recent
        recent[self._next] = command[self._arm]
        self._next = (self._next + 1) % len(recent)
        self._filled = min(self._filled + 1, len(recent))
        # the nearest setpoint of the window: how far behind a healthy servo may be is not an error
        here = measured[self._arm]
        errors = np.abs(recent[: self._filled] - here).min(axis=0)
        # between two setpoints of the window the arm may be anywhere
        passed = (recent[: self._filled].min(axis=0) <= here) & (here <= recent[: self._filled].max(axis=0))
        errors[passed] = 0.0
        worst = int(errors.argmax())
        if not self._lasts("following", float(errors[worst]) > self._config.following_error):
            return None
        error, name = float(errors[worst]), self._names[worst]
        return f"{name} does not follow: {error:.3f} rad, allowed {self._config.following_error}", Limit.FOLLOWING

    def _force(self, driver: Any) -> tuple[str, Limit] | None:
        config = self._config
        if not (config.force_n or config.torque_nm) or not isinstance(driver, ForceSensing):
            return None
        wrench = np.asarray(driver.wrench(), float)
        force, torque = float(np.linalg.norm(wrench[:3])), float(np.linalg.norm(wrench[3:]))
        over = (config.force_n and not force <= config.force_n) or (config.torque_nm and not torque <= config.torque_nm)
        if not self._lasts("force", bool(over)):
            return None
        return f"the tool pushes with {force:.1f} N, {torque:.2f} N m", Limit.FORCE

    def _clipped(self, clipped: bool) -> tuple[str, Limit] | None:
        if not self._lasts("clipped", clipped) or not self._config.clipped_s:
            return None
        return f"the limiter has kept the arm back for {self._config.clipped_s} s", Limit.CLIPPING
