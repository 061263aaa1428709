"""Whether a driver keeps the contract of :class:`~robopolicy.protocols.RobotDriver`: for other people's drivers too.

Every rule is one :class:`Finding`. Without consent to motion the driver is connected and read, and nothing more. With
``move`` the robot is powered, its present pose is streamed, and one joint is moved a little and back, far within the
limits of the card. What only the robot itself can tell (powered, what arrived, faults on demand) is asked of a
simulated controller where there is one: a :class:`Witness`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np

from robopolicy.deploy import driver_rules as rules
from robopolicy.deploy.driver_trial import Finding, Trial, Witness
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import Guarded

__all__ = ["Finding", "Witness", "check_driver", "failed", "table"]


def check_driver(
    kind: Any,
    card: Embodiment,
    options: dict[str, Any],
    *,
    tick_s: float,
    timeout_s: float = 0.2,
    move: bool = False,
    witness: Witness | None = None,
    target: str = "",
) -> list[Finding]:
    """Try every rule of the contract.

    Args:
        kind: Driver class.
        card: The robot.
        options: Further arguments of the driver.
        tick_s: Time between two setpoints.
        timeout_s: How long the controller's clock may stand still.
        move: Consent to power and move the robot.
        witness: The simulated controller behind the driver, if there is one.
        target: ``module:Class``, with which heavy imports are looked for in a new process.

    Returns:
        A finding per rule, in order; a driver passes when none of them is ``FAILED``.
    """
    trial = Trial(kind, card, options, tick_s=tick_s, timeout_s=timeout_s, move=move, witness=witness)
    trial.rule("has every method, and buffered", lambda: rules.methods(trial), ends=True)
    trial.rule("imports neither torch nor mujoco nor zarr", lambda: rules.light(target), needs=bool(target))
    trial.rule("is built without connecting", lambda: rules.build(trial), ends=True)
    try:
        _connected_rules(trial)
        _moving_rules(trial)
        _silence_rules(trial)
    finally:
        if trial.driver is not None and trial.broken:
            with contextlib.suppress(Exception):  # the rules say what is wrong with it already
                trial.driver.close()
        if trial.driver is not None:
            trial.rule("closes, twice, and keeps the power on", lambda: rules.close(trial))
            trial.rule("is a context manager", lambda: rules.context(trial))
            trial.rule("leaves no thread behind", lambda: rules.threads(trial))
    return trial.findings


def _connected_rules(trial: Trial) -> None:
    trial.rule("reading before connect() is refused", lambda: rules.refuses(lambda: trial.driver.read()))
    trial.rule("connects, twice, without power", lambda: rules.connect(trial), ends=True)
    trial.rule("reads finite states of the card's width and range", lambda: rules.reads(trial), ends=True)
    trial.rule("time stamps advance, never go back, are of now", lambda: rules.advances(trial))


def _moving_rules(trial: Trial) -> None:
    may = trial.move
    trial.rule("enable() powers under the present pose", lambda: rules.enable(trial), needs=may, ends=may)
    trial.rule("a setpoint that is not finite is refused", lambda: rules.not_finite(trial), needs=may)
    trial.rule("a setpoint of another width is refused", lambda: rules.width(trial), needs=may)
    trial.rule("the present pose, streamed, moves nothing", lambda: rules.present(trial), needs=may)
    trial.rule("a small move is followed and undone", lambda: rules.small_move(trial), needs=may)
    trial.rule("hold() keeps the pose", lambda: rules.keeps(trial, "hold"), needs=may)
    trial.rule("stop() keeps the pose, enable() works again", lambda: rules.stop(trial), needs=may)
    trial.rule("the stop channel stops it", lambda: rules.channel(trial), needs=may and isinstance(trial.kind, Guarded))
    trial.rule("what arrived kept every limit", lambda: rules.clean(trial), needs=may and trial.witness is not None)
    if trial.took_s and not trial.broken:
        p99_ms = float(np.percentile(trial.took_s, 99)) * 1e3
        detail = f"p99 {p99_ms:.2f} ms of {trial.tick_s * 1e3:.1f} ms, {len(trial.took_s)} ticks"
        trial.findings.append(Finding("read and command within a tick", "note", detail))


def _silence_rules(trial: Trial) -> None:
    seen = trial.witness is not None
    for fault in ("freeze", "silent_clock"):
        check = functools.partial(rules.silent, trial, fault)
        # servos on a serial bus have no clock of a controller that could stand
        has_clock = fault == "freeze" or "device" not in trial.options
        trial.rule(f"a controller's {fault} is a DeployError in time", check, needs=seen and has_clock)


def failed(findings: list[Finding]) -> list[Finding]:
    """Rules that were broken."""
    return [finding for finding in findings if finding.mark == "FAILED"]


def table(findings: list[Finding]) -> str:
    """One line per rule."""
    width = max(len(finding.rule) for finding in findings)
    return "\n".join(f"{f.mark:<7} {f.rule:<{width}}  {f.detail}".rstrip() for f in findings)
