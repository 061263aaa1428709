"""One driver under trial: how it is built, read and streamed to, and what was found out about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.types import RobotState, Setpoint

__all__ = ["Finding", "RuleBroken", "Trial", "Witness"]

Vector = NDArray[np.floating]
LOOKAHEAD = 6


class Witness(Protocol):
    """Who sees the robot from the other side: :class:`robopolicy.sim.wire.WireProcess`."""

    def report(self) -> dict[str, Any]:
        """At least ``received``, ``violated``, ``powered``."""
        ...

    def fault(self, **values: Any) -> None:
        """Make something go wrong."""
        ...


@dataclass(frozen=True)
class Finding:
    """One rule and what became of it.

    Attributes:
        rule: What a driver must do.
        mark: ``ok``, ``FAILED``, ``note`` (measured, not judged) or ``-`` (not tried).
        detail: Figures, or why not.
    """

    rule: str
    mark: str
    detail: str = ""


class RuleBroken(Exception):
    """A rule that is broken, in words."""


class Trial:
    """Runs the rules in order, with one driver under test.

    Args:
        kind: Driver class.
        card: The robot.
        options: Of the driver.
        tick_s: Time between two setpoints.
        timeout_s: How long the controller may be silent.
        move: Consent to power and motion.
        witness: A simulated controller behind the driver.
    """

    def __init__(
        self,
        kind: Any,
        card: Embodiment,
        options: dict[str, Any],
        *,
        tick_s: float,
        timeout_s: float,
        move: bool,
        witness: Witness | None,
    ):
        self.kind, self.card, self.options = kind, card, options
        self.tick_s, self.timeout_s, self.move, self.witness = tick_s, timeout_s, move, witness
        self.findings: list[Finding] = []
        self.driver: Any = None
        self.threads = set(threading.enumerate())
        self.took_s: list[float] = []
        self.broken = False

    def rule(self, text: str, check: Callable[[], str | None], *, needs: bool = True, ends: bool = False) -> None:
        """Try one rule.

        Args:
            text: The rule.
            check: Returns a detail or nothing; raises when the rule is broken.
            needs: False: what it needs is not there; it is listed as not tried.
            ends: Nothing can be tried after it has failed.
        """
        if self.broken or not needs:
            why = "" if needs else "there is none" if self.move else "needs move=true"
            self.findings.append(Finding(text, "-", why))
            return
        try:
            self.findings.append(Finding(text, "ok", check() or ""))
        except Exception as error:  # whatever a driver of others raises is a finding, not our end
            said = str(error) if isinstance(error, RuleBroken) else f"{type(error).__name__}: {error}"
            self.findings.append(Finding(text, "FAILED", said))
            self.broken = ends

    def build(self) -> Any:
        """A new driver."""
        return self.kind(self.card, tick_s=self.tick_s, timeout_s=self.timeout_s, **self.options)

    def read(self) -> RobotState:
        """Read, timed."""
        begin = time.perf_counter()
        state: RobotState = self.driver.read()
        self.took_s.append(time.perf_counter() - begin)
        return state

    def stream(self, path: Callable[[float], Vector], duration_s: float) -> list[RobotState]:
        """Send ``path(t)`` at every tick and read before it. -> states."""
        states, begin_ns, tick_ns = [], monotonic_ns(), round(self.tick_s * 1e9)
        for k in range(max(round(duration_s / self.tick_s), 3)):
            states.append(self.read())
            now_ns = monotonic_ns()
            begin = time.perf_counter()
            # a robot that keeps setpoints until their time gets them early, as from the daemon
            ahead = LOOKAHEAD if self.driver.buffered else 1
            self.driver.command(Setpoint(begin_ns + (k + ahead) * tick_ns, path(k * self.tick_s)), now_ns)
            self.took_s[-1] += time.perf_counter() - begin
            time.sleep(max(begin_ns + (k + 1) * tick_ns - monotonic_ns(), 0) / 1e9)
        if self.driver.buffered:
            time.sleep(LOOKAHEAD * self.tick_s)
        return states
