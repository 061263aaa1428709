"""Virtual servo arms for the driver tests: one box process per make, and a way to drive it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.sim.wire import WireProcess
from robopolicy.types import RobotState, Setpoint

NO_FAULT = {"freeze": False, "silent_clock": False, "drop": 0.0, "delay_s": 0.0, "corrupt": 0.0, "refuse": False}


@dataclass
class ServoArm:
    """A box, and drivers of it with timeouts that a loaded machine keeps."""

    kind: type
    box: WireProcess
    card: Embodiment
    link: Path

    def driver(self, **options: Any) -> Any:
        """A new driver, not connected."""
        given = {"calibration": "nominal", "packet_timeout_s": 0.05, "timeout_s": 0.6, "device": str(self.link)}
        return self.kind(self.card, tick_s=self.card.tick_s, **given | options)

    def fresh(self) -> None:
        """No fault, servos booted, counts at zero."""
        self.box.fault(**NO_FAULT)
        self.box.recover()
        self.box.reset("train", 0)


def open_arm(kind: type, target: str, card: str, folder: Path, **options: Any) -> ServoArm:
    """Start the box."""
    link = folder / "servo_bus"
    return ServoArm(kind, WireProcess(target, card, link=str(link), **options), load_embodiment(card), link)


def wave(card: Embodiment, start: np.ndarray, k: int, *, size: float = 0.25, period_s: float = 1.2) -> np.ndarray:
    """Setpoint k of a smooth motion away from ``start`` and back, towards the middle of every joint's range."""
    lower, upper = card.joints.lower, card.joints.upper
    toward = np.where(start > (lower + upper) / 2, -1.0, 1.0)
    x = 2 * np.pi * k * card.tick_s / period_s
    # sin^4 begins and ends with three zero derivatives, so that its jerk begins at zero too
    return start + toward * size * np.sin(x / 2) ** 4


def follow(driver: Any, card: Embodiment, ticks: int, **motion: float) -> list[RobotState]:
    """Read and command at the card's rate. -> states."""
    start = driver.read().position.copy()
    states, due = [], time.monotonic()
    for k in range(ticks):
        due += card.tick_s
        time.sleep(max(due - time.monotonic(), 0.0))
        states.append(driver.read())
        driver.command(Setpoint(0, wave(card, start, k, **motion)), 0)
    return states


def until(condition: Any, *, seconds: float = 10.0) -> bool:
    """Wait for something that has to happen, however loaded the machine is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
