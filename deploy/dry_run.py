"""Everything but sending: the real robot is read, the policy decides, the limiter judges, and nothing is commanded.

The driver below stands between arm and robot. What the arm wanted to send is in the black box, tick by tick. Two things
differ from a run in earnest, and cannot be otherwise: the arm's observations do not answer to what was decided, and a
comparison of commanded with measured positions says nothing, for which reason following errors are not judged.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from robopolicy.deploy.driver_proxy import DriverProxy
from robopolicy.deploy.watch import WatchConfig
from robopolicy.types import Setpoint

__all__ = ["DryDriver", "watch_when_dry"]


class DryDriver(DriverProxy):
    """A driver that connects and reads, and never powers, commands or stops; make it with ``in_front_of``.

    Args:
        inner: The real driver.

    Attributes:
        unsent: Setpoints that were not sent.
    """

    def __init__(self, inner: Any):
        super().__init__(inner)
        self.unsent = 0

    def enable(self) -> None:
        """Power nothing on."""

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Count the setpoint and let it go."""
        self.unsent += 1

    def hold(self) -> None:
        """There is no stream to end."""

    def stop(self) -> None:
        """There is no motion to stop."""


def watch_when_dry(watch: WatchConfig) -> WatchConfig:
    """The same watch without following errors."""
    return dataclasses.replace(watch, following_error=math.inf)
