"""Measures zero and ends of servos while a person moves the arm, and refuses what cannot be true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import Channel
from robopolicy.deploy.drivers.servo_bus import ServoBusDriver
from robopolicy.deploy.drivers.servo_calibration import STEPS
from robopolicy.errors import DeployError, explain

__all__ = ["ServoSurvey"]

Steps = NDArray[np.int64]

LEAST_SHARE = 0.6
"""Of the card's range that a joint has to be moved through."""
MOST_OFF_RAD = 0.5
LEAST_GRIP_STEPS, CLOSED_SHARE = 100, 0.15


class ServoSurvey:
    """Readings of an arm without torque.

    Args:
        driver: Connected, torque off.

    Attributes:
        zero: [J] steps at the zero pose, once it was taken.
        lowest, highest: [J] ends seen since then.
    """

    def __init__(self, driver: ServoBusDriver):
        self._driver, self._card = driver, driver.embodiment
        self.zero: Steps | None = None
        self._last: Steps | None = None
        self.lowest = self.highest = np.zeros(len(self._card.joints), np.int64)
        self._wrapped: set[str] = set()

    def look(self) -> Steps | None:
        """Read once. -> [J] steps, None when an answer was missing.

        Raises:
            DeployError: the bus has gone.
        """
        steps = self._driver.present_steps()
        if steps is None:
            return None
        if self._last is not None:
            jumped = np.abs(steps - self._last) > STEPS // 2
            self._wrapped |= {n for n, j in zip(self._card.joints.names, jumped, strict=True) if j}
        self._last = steps
        self.lowest, self.highest = np.minimum(self.lowest, steps), np.maximum(self.highest, steps)
        return steps

    def take_zero(self) -> None:
        """The arm is in its zero pose, gripper closed: every joint at 0 of the card.

        Raises:
            DeployError: it could not be read.
        """
        if self._last is None:
            raise DeployError(explain("the arm was not read yet", mend="look at it once"))
        self.zero = self._last.copy()
        self.lowest, self.highest = self.zero.copy(), self.zero.copy()
        self._wrapped.clear()

    def result(self, reverse: Sequence[str] = ()) -> dict[str, dict[str, int]]:
        """The calibration, joint -> {zero_step, sign, lower_step, upper_step}.

        Args:
            reverse: Joints whose servo counts against the card.

        Raises:
            DeployError: everything that cannot be true, at once.
        """
        if self.zero is None:
            raise DeployError(explain("the zero pose was not taken"))
        unknown = sorted(set(reverse) - set(self._card.joints.names))
        wrong = [f"{name}: no such joint" for name in unknown]
        found = {}
        for joint, channel in enumerate(self._card.joints.channels):
            zero, low, high = int(self.zero[joint]), int(self.lowest[joint]), int(self.highest[joint])
            sign = -1 if channel.name in reverse else 1
            trouble = "its encoder went over the end of its turn" if channel.name in self._wrapped else ""
            if channel.unit == "rad":
                trouble = trouble or _turns(channel, zero, low, high, sign)
                found[channel.name] = {"zero_step": zero, "sign": sign, "lower_step": low, "upper_step": high}
            else:
                closed_low = zero - low <= high - zero
                trouble = trouble or _grips(zero, low, high)
                ends = (low, high) if closed_low else (high, low)
                found[channel.name] = {"lower_step": ends[0], "upper_step": ends[1]}
            if trouble:
                wrong.append(f"{channel.name}: {trouble}")
        if wrong:
            raise DeployError(
                explain(
                    "this calibration cannot be true",
                    given="; ".join(wrong),
                    mend="begin again: zero pose first, gripper closed, then every joint from stop to stop",
                )
            )
        return found

    def lines(self) -> list[str]:
        """What was seen, a line per joint."""
        now: Any = self._last if self._last is not None else self.lowest
        return [
            f"{name:<16}{low:>6} .. {here:>6} .. {high:>6}"
            for name, low, here, high in zip(self._card.joints.names, self.lowest, now, self.highest, strict=True)
        ]


def _turns(channel: Channel, zero: int, low: int, high: int, sign: int) -> str:
    """What is wrong with a turning joint, or nothing."""
    gain = STEPS / math.tau
    span, wanted = (high - low) / gain, channel.upper - channel.lower
    if span < LEAST_SHARE * wanted:
        return f"moved through {span:.2f} rad of {wanted:.2f}"
    ends = ((low - zero) / gain, (high - zero) / gain)
    if sign < 0:
        ends = (-ends[1], -ends[0])
    off = max(ends[0] - channel.lower, channel.upper - ends[1])
    turned = max(-ends[1] - channel.lower, channel.upper + ends[0])
    if off <= MOST_OFF_RAD:
        return ""
    if turned <= MOST_OFF_RAD:
        return f"it counts the other way round; reversed=[{channel.name}]"
    return f"from {ends[0]:.2f} to {ends[1]:.2f} rad around its zero, which is not its zero"


def _grips(zero: int, low: int, high: int) -> str:
    """What is wrong with a gripper, or nothing."""
    if high - low < LEAST_GRIP_STEPS:
        return f"opened by {high - low} steps only"
    if min(zero - low, high - zero) > CLOSED_SHARE * (high - low):
        return "it was not closed in the zero pose"
    return ""
