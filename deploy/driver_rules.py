"""The single rules of ``driver_check.py``: each is a function of the trial, and raises when it is broken."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.driver_trial import RuleBroken, Trial
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.errors import DeployError
from robopolicy.types import Setpoint

__all__ = [
    "advances",
    "build",
    "channel",
    "clean",
    "close",
    "connect",
    "context",
    "enable",
    "heavy_imports",
    "keeps",
    "light",
    "methods",
    "not_finite",
    "present",
    "reads",
    "refuses",
    "silent",
    "small_move",
    "stop",
    "threads",
    "width",
]

Vector = NDArray[np.floating]

METHODS = ("connect", "enable", "read", "command", "hold", "stop", "close", "__enter__", "__exit__")
HEAVY = ("torch", "mujoco", "zarr")
STILL = 0.02
"""A pose may wander by this much, in channel units, and still count as unmoved."""
MOVE_S, PRESENT_S = 2.0, 0.5


def _need(holds: bool, said: str) -> None:
    if not holds:
        raise RuleBroken(said)


def refuses(call: Callable[[], Any]) -> str:
    """The call raises a DeployError."""
    try:
        call()
    except DeployError as error:
        return str(error)[:60]
    raise RuleBroken("no DeployError")


def methods(trial: Trial) -> str:
    """It has what a driver has."""
    missing = [name for name in METHODS if not hasattr(trial.kind, name)]
    _need(not missing, f"missing: {', '.join(missing)}")
    return ""


def heavy_imports(target: str) -> list[str]:
    """Heavy modules that importing ``module:Class`` brings into a new process.

    Raises:
        DeployError: it cannot be imported there.
    """
    code = f"import importlib, sys; importlib.import_module(sys.argv[1]); print(*({set(HEAVY)!r} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code, target.partition(":")[0]], capture_output=True, text=True)
    if ran.returncode:
        raise DeployError(ran.stderr.strip().splitlines()[-1])
    return ran.stdout.split()


def light(target: str) -> str:
    """Its module brings nothing heavy into a new process."""
    found = heavy_imports(target)
    _need(not found, f"imported: {', '.join(found)}")
    return ""


def build(trial: Trial) -> str:
    """Building does not connect and starts no thread."""
    trial.driver = trial.build()
    _need(isinstance(trial.driver.buffered, bool), "buffered is not a bool")
    _need(trial.driver.embodiment is trial.card, "embodiment is not the card it was given")
    _need(set(threading.enumerate()) == trial.threads, "a thread was started")
    return f"buffered={trial.driver.buffered}"


def connect(trial: Trial) -> str:
    """It connects without power and motion, and a second time does no harm."""
    powered = trial.witness.report()["powered"] if trial.witness else None
    begin = time.monotonic()
    trial.driver.connect()
    took_s = time.monotonic() - begin
    trial.driver.connect()
    if trial.witness is not None:
        seen = trial.witness.report()
        _need(seen["powered"] == powered, f"powered before {powered}, after {seen['powered']}")
        _need(seen["received"] == 0, f"{seen['received']} setpoints were sent")
    return f"{took_s:.2f} s"


def reads(trial: Trial) -> str:
    """A state is finite, of the card's width, and in its range."""
    state, joints = trial.read(), trial.card.joints
    for name in ("position", "velocity"):
        value = np.asarray(getattr(state, name))
        _need(value.shape == (len(joints),), f"{name} {value.shape}, the card has {len(joints)} channels")
        _need(bool(np.isfinite(value).all()), f"{name} {value}")
    span = joints.upper - joints.lower
    outside = np.maximum(joints.lower - state.position, state.position - joints.upper) / span
    worst = int(outside.argmax())
    _need(
        float(outside[worst]) <= 0.05, f"{joints.names[worst]} {state.position[worst]:.3f} is outside the card's range"
    )
    return ""


def advances(trial: Trial) -> str:
    """Time stamps advance, never go back, and are of CLOCK_MONOTONIC."""
    stamps: list[int] = []
    until = time.monotonic() + max(0.3, 20 * trial.tick_s)
    while time.monotonic() < until:
        state = trial.read()
        age_s = (monotonic_ns() - state.time_ns) / 1e9
        _need(-trial.tick_s <= age_s <= trial.timeout_s + 0.1, f"a state is {age_s:.3f} s old: is it CLOCK_MONOTONIC?")
        stamps.append(state.time_ns)
        time.sleep(trial.tick_s)
    steps = np.diff(stamps)
    _need(bool((steps >= 0).all()), "a time stamp went back")
    _need(bool((steps > 0).sum() >= 2), "the time stamp stands still")
    return f"{(steps > 0).sum()} of {len(steps)} reads are new"


def enable(trial: Trial) -> str:
    """Power comes on under the present pose."""
    before = trial.read().position
    begin = time.monotonic()
    trial.driver.enable()
    took_s = time.monotonic() - begin
    moved = float(np.abs(trial.read().position - before).max())
    _need(moved <= STILL, f"moved by {moved:.4f}")
    if trial.witness is not None:
        _need(bool(trial.witness.report()["powered"]), "the robot is not powered")
    return f"{took_s:.2f} s"


def not_finite(trial: Trial) -> str:
    """A NaN is refused."""
    bad = np.array(trial.read().position)
    bad[0] = np.nan
    return refuses(lambda: trial.driver.command(Setpoint(monotonic_ns(), bad), monotonic_ns()))


def width(trial: Trial) -> str:
    """Another width is refused."""
    bad = np.zeros(len(trial.card.joints) + 1)
    return refuses(lambda: trial.driver.command(Setpoint(monotonic_ns(), bad), monotonic_ns()))


def present(trial: Trial) -> str:
    """Streaming where it stands moves nothing."""
    before = np.array(trial.read().position)
    target = np.clip(before, trial.card.joints.lower, trial.card.joints.upper)
    states = trial.stream(lambda t: target, PRESENT_S)
    moved = max(float(np.abs(s.position - before).max()) for s in states)
    _need(moved <= STILL, f"moved by {moved:.4f}")
    _need(not any(s.fault for s in states), "a fault was reported")
    trial.driver.hold()
    return f"{moved:.4f}"


def small_move(trial: Trial) -> str:
    """One joint goes a little way and back, within a fifth of its limits."""
    joints = trial.card.joints
    begin = np.clip(np.array(trial.read().position), joints.lower, joints.upper)
    room = np.minimum(begin - joints.lower, joints.upper - begin) / (joints.upper - joints.lower)
    arm = [i for i, c in enumerate(joints.channels) if c.unit == "rad"] or list(range(len(joints)))
    joint = max(arm, key=lambda i: room[i])
    # a raised cosine there and back: its derivatives are a/2 w, a/2 w^2, a/2 w^3
    w, size = 2 * np.pi / MOVE_S, 0.1
    for order, kind in enumerate(("velocity", "acceleration", "jerk"), start=1):
        size = min(size, 0.2 * 2 * float(joints.limit(f"max_{kind}")[joint]) / w**order)
    sign = 1.0 if joints.upper[joint] - begin[joint] >= begin[joint] - joints.lower[joint] else -1.0

    def path(t: float) -> Vector:
        wanted = begin.copy()
        wanted[joint] += sign * size * 0.5 * (1 - np.cos(w * min(t, MOVE_S)))
        return wanted

    states = trial.stream(path, MOVE_S + 0.3)
    reached = max(abs(float(s.position[joint] - begin[joint])) for s in states)
    left = abs(float(trial.read().position[joint] - begin[joint]))
    name = joints.names[joint]
    _need(reached > 0.3 * size, f"{name} was sent {size:.3f} away and came {reached:.4f}")
    _need(left < max(STILL, 0.3 * size), f"{name} stands {left:.4f} from where it began")
    trial.driver.hold()
    return f"{name} {reached:.3f} of {size:.3f}"


def keeps(trial: Trial, what: str) -> str:
    """After ``hold`` or ``stop`` it stands, powered."""
    getattr(trial.driver, what)()
    before = trial.read().position
    time.sleep(0.2)
    after = trial.read()
    moved = float(np.abs(after.position - before).max())
    _need(moved <= STILL, f"moved by {moved:.4f}")
    if trial.witness is not None:
        _need(bool(trial.witness.report()["powered"]), "the power went off")
    return f"{moved:.4f}"


def stop(trial: Trial) -> str:
    """After a stop it can be enabled again."""
    detail = keeps(trial, "stop")
    trial.driver.enable()
    present(trial)
    return detail


def channel(trial: Trial) -> str:
    """The stop channel stops it; it can be enabled again."""
    channel = trial.kind.stop_channel(trial.card, trial.options)
    try:
        present(trial)
        channel.stop()
    finally:
        channel.close()
    time.sleep(0.1)
    if trial.witness is not None:
        seen = trial.witness.report()
        _need(bool(seen.get("at_rest", True)), "it still moves")
        _need(bool(seen["powered"]), "the power went off")
    trial.driver.stop()
    trial.driver.enable()
    return ""


def clean(trial: Trial) -> str:
    """Nothing that arrived broke a limit."""
    assert trial.witness is not None
    seen = trial.witness.report()
    _need(seen["received"] > 0, "nothing arrived")
    _need(seen["violated"] == 0, str(seen.get("first_violation", seen["violated"])))
    return f"{seen['received']} setpoints"


def silent(trial: Trial, fault: str) -> str:
    """A controller that falls silent is noticed."""
    assert trial.witness is not None
    trial.witness.fault(**{fault: True})
    begin, limit_s = time.monotonic(), 5 * trial.timeout_s + 1.0
    try:
        while time.monotonic() - begin < limit_s:
            try:
                trial.driver.read()
            except DeployError as error:
                return f"after {time.monotonic() - begin:.3f} s: {str(error)[:50]}"
            time.sleep(trial.tick_s)
    finally:
        trial.witness.fault(**{fault: False})
        _wake(trial)
    raise RuleBroken(f"read() went on for {limit_s:.1f} s")


def _wake(trial: Trial) -> None:
    """Until the controller is heard again."""
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        try:
            trial.driver.read()
            return
        except DeployError:
            time.sleep(0.02)


def close(trial: Trial) -> str:
    """It closes, twice, with the power left as it was."""
    powered = trial.witness.report()["powered"] if trial.witness else None
    trial.driver.close()
    trial.driver.close()
    refuses(lambda: trial.driver.read())
    if trial.witness is not None:
        time.sleep(0.1)
        _need(trial.witness.report()["powered"] == powered, "the power went off")
    return ""


def context(trial: Trial) -> str:
    """``with`` closes it."""
    with trial.build() as driver:
        driver.connect()
        driver.read()
    refuses(lambda: driver.read())
    return ""


def threads(trial: Trial) -> str:
    """Its threads have ended."""
    until = time.monotonic() + 1.0
    while (left := set(threading.enumerate()) - trial.threads) and time.monotonic() < until:
        time.sleep(0.02)
    _need(not left, ", ".join(sorted(t.name for t in left)))
    return ""
