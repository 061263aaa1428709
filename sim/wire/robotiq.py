"""A simulated Robotiq 2F gripper as the URCap serves it: text lines over TCP, port 63352.

``SET POS 255 SPE 255 FOR 150 GTO 1`` is answered by ``ack``, ``GET POS`` by ``POS 255``. Positions are bytes, 0 open
and 255 closed. The gripper goes to its goal by itself, at its own speed; it must be activated once (``SET ACT 1``,
then ``STA`` is 3). Source: Robotiq, "2F-85 and 2F-140 instruction manual", register table.
"""

from __future__ import annotations

import numpy as np

__all__ = ["RobotiqGripper"]

NAMES = ("ACT", "GTO", "FOR", "SPE", "POS", "STA", "PRE", "OBJ", "FLT")
WRITABLE = ("ACT", "GTO", "FOR", "SPE", "POS", "ATR", "ARD")
STROKE_M_S = (0.02, 0.15)
"""Speed at SPE 0 and at SPE 255."""
ACTIVATION_S = 0.2


class RobotiqGripper:
    """Registers and motion.

    Args:
        width_m: Stroke.
        period_s: Time between two calls of :meth:`cycle`.
        active: Whether somebody has activated it already.

    Attributes:
        goal: [0, 1] opening that was asked for last.
        opening: [0, 1] opening that its motor is at.
    """

    def __init__(self, width_m: float, period_s: float, *, active: bool = False):
        self._width_m, self._period_s = width_m, period_s
        self._values = {"ACT": int(active), "GTO": 1, "FOR": 150, "SPE": 255, "POS": 0}
        self._activated_s = ACTIVATION_S if active else 0.0
        self.goal = self.opening = self._measured = 1.0
        self._still_s = 0.0

    def reset(self, opening: float) -> None:
        """It stands at ``opening`` of a new scene."""
        self.goal = self.opening = self._measured = float(opening)
        self._values["POS"] = self._byte(opening)

    @property
    def active(self) -> bool:
        """Whether it takes goals."""
        return bool(self._values["ACT"]) and self._activated_s >= ACTIVATION_S - 1e-9

    def cycle(self, measured: float) -> float:
        """Go on for one period. -> opening that the motor is commanded to.

        Args:
            measured: Opening of the fingers now.
        """
        moved, self._measured = abs(measured - self._measured), float(measured)
        self._still_s = self._still_s + self._period_s if moved < 1e-4 else 0.0
        if self._values["ACT"] and self._activated_s < ACTIVATION_S:
            self._activated_s += self._period_s
        if self.active and self._values["GTO"]:
            slow, fast = STROKE_M_S
            speed = (slow + (fast - slow) * self._values["SPE"] / 255) / self._width_m
            self.opening += float(np.clip(self.goal - self.opening, -speed * self._period_s, speed * self._period_s))
        return self.opening

    def answer(self, line: str) -> str:
        """The reply to one line; an unknown one is answered by ``?``."""
        words = line.split()
        if len(words) == 2 and words[0] == "GET":
            return f"{words[1]} {self._get(words[1])}\n"
        if len(words) >= 3 and words[0] == "SET" and len(words) % 2 == 1:
            return "ack\n" if self._set(words[1::2], words[2::2]) else "?\n"
        return "?\n"

    def _get(self, name: str) -> str:
        if name not in NAMES:
            return "?"
        found = {
            "POS": self._byte(self._measured),
            "PRE": self._byte(self.goal),
            "STA": 3 if self.active else self._values["ACT"],
            "OBJ": self._object(),
            "FLT": 0 if self.active else 5,
        }
        return str(found.get(name, self._values.get(name, 0)))

    def _set(self, names: list[str], values: list[str]) -> bool:
        if not all(n in WRITABLE for n in names) or not all(v.isascii() and v.isdigit() for v in values):
            return False
        taken = {n: min(int(v), 255) for n, v in zip(names, values, strict=True)}
        self._values.update(taken)
        if taken.get("ACT") == 0:
            self._activated_s = 0.0
        if "POS" in taken and self.active:
            self.goal = 1.0 - taken["POS"] / 255
        return True

    def _object(self) -> int:
        """0 on its way, 1 or 2 stopped by an object while opening or closing, 3 there."""
        if abs(self._measured - self.goal) < 2 / 255:
            return 3
        if self._still_s < 0.1:
            return 0
        return 1 if self.goal > self._measured else 2

    @staticmethod
    def _byte(opening: float) -> int:
        return int(np.clip(round((1.0 - opening) * 255), 0, 255))
