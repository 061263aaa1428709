"""Whether a robot driver keeps the contract of :class:`~robopolicy.protocols.RobotDriver`: for other people's drivers too.

Every rule is one :class:`Finding`. Without consent to motion the driver is connected and read, and nothing more. With
``move`` the robot is powered, its present pose is streamed, and one joint is moved a little and back, far within the
limits of the card. What only the robot itself can tell (powered, what arrived, faults on demand) is asked of a
simulated controller where there is one, through the :class:`Witness` protocol.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded
from robopolicy.types import RobotState, Setpoint

__all__ = ["Finding", "Witness", "check_driver", "failed", "heavy_imports", "table"]

Vector = NDArray[np.float64]

METHODS = ("connect", "enable", "read", "command", "hold", "stop", "close", "__enter__", "__exit__")
HEAVY = ("torch", "mujoco", "zarr")
STILL = 0.02
"""A pose may wander by this much, in channel units, and still count as unmoved."""
MOVE_S, PRESENT_S = 2.0, 0.5


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


class _Failed(Exception):
    """A rule that is broken."""


class _Suite:
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
            self.findings.append(
                Finding(text, "-", "" if needs else "needs move=true" if not self.move else "no witness")
            )
            return
        try:
            self.findings.append(Finding(text, "ok", check() or ""))
        except Exception as error:  # whatever a driver of others raises is a finding, not our end
            said = str(error) if isinstance(error, _Failed) else f"{type(error).__name__}: {error}"
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
            # a robot that keeps setpoints until their time gets them six ticks early, as from the daemon
            ahead = 6 if self.driver.buffered else 1
            self.driver.command(Setpoint(begin_ns + (k + ahead) * tick_ns, path(k * self.tick_s)), now_ns)
            self.took_s[-1] += time.perf_counter() - begin
            time.sleep(max(begin_ns + (k + 1) * tick_ns - monotonic_ns(), 0) / 1e9)
        return states


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
    suite = _Suite(kind, card, options, tick_s=tick_s, timeout_s=timeout_s, move=move, witness=witness)
    suite.rule("has every method, and buffered", lambda: _methods(suite), ends=True)
    suite.rule("imports neither torch nor mujoco nor zarr", lambda: _light(target), needs=bool(target))
    suite.rule("is built without connecting", lambda: _build(suite), ends=True)
    try:
        _connected_rules(suite)
        _moving_rules(suite)
        _silence_rules(suite)
    finally:
        if suite.driver is not None:
            suite.rule("closes, twice, and keeps the power on", lambda: _close(suite))
            suite.rule("is a context manager", lambda: _context(suite))
            suite.rule("leaves no thread behind", lambda: _threads(suite))
    return suite.findings


def _connected_rules(suite: _Suite) -> None:
    suite.rule("reading before connect() is refused", lambda: _refuses(lambda: suite.driver.read()))
    suite.rule("connects, twice, without power", lambda: _connect(suite), ends=True)
    suite.rule("reads finite states of the card's width and range", lambda: _reads(suite), ends=True)
    suite.rule("time stamps advance, never go back, are of now", lambda: _advances(suite))


def _moving_rules(suite: _Suite) -> None:
    may = suite.move
    suite.rule("enable() powers under the present pose", lambda: _enable(suite), needs=may, ends=may)
    suite.rule("a setpoint that is not finite is refused", lambda: _not_finite(suite), needs=may)
    suite.rule("a setpoint of another width is refused", lambda: _width(suite), needs=may)
    suite.rule("the present pose, streamed, moves nothing", lambda: _present(suite), needs=may)
    suite.rule("a small move is followed and undone", lambda: _small_move(suite), needs=may)
    suite.rule("hold() keeps the pose", lambda: _keeps(suite, "hold"), needs=may)
    suite.rule("stop() keeps the pose, enable() works again", lambda: _stop(suite), needs=may)
    suite.rule("the stop channel stops it", lambda: _channel(suite), needs=may and isinstance(suite.kind, Guarded))
    suite.rule("what arrived kept every limit", lambda: _clean(suite), needs=may and suite.witness is not None)
    if suite.took_s and not suite.broken:
        p99_ms = float(np.percentile(suite.took_s, 99)) * 1e3
        detail = f"p99 {p99_ms:.2f} ms of {suite.tick_s * 1e3:.1f} ms, {len(suite.took_s)} ticks"
        suite.findings.append(Finding("read and command within a tick", "note", detail))


def _silence_rules(suite: _Suite) -> None:
    seen = suite.witness is not None
    for fault in ("freeze", "silent_clock"):
        suite.rule(f"a controller's {fault} is a DeployError in time", lambda f=fault: _silent(suite, f), needs=seen)  # type: ignore[misc]


def _need(holds: bool, said: str) -> None:
    if not holds:
        raise _Failed(said)


def _refuses(call: Callable[[], Any]) -> str:
    try:
        call()
    except DeployError as error:
        return str(error)[:60]
    raise _Failed("no DeployError")


def _methods(suite: _Suite) -> str:
    missing = [name for name in (*METHODS, "embodiment") if not hasattr(suite.kind, name)]
    _need(not missing, f"missing: {', '.join(missing)}")
    return ""


def heavy_imports(target: str) -> list[str]:
    """Heavy modules that importing ``module:Class`` brings into a new process.

    Raises:
        DeployError: it cannot be imported there.
    """
    code = f"import importlib, sys; importlib.import_module(sys.argv[1]); print(*({HEAVY!r} & sys.modules.keys()))"
    code = code.replace(repr(HEAVY), repr(set(HEAVY)))
    ran = subprocess.run([sys.executable, "-c", code, target.partition(":")[0]], capture_output=True, text=True)
    if ran.returncode:
        raise DeployError(ran.stderr.strip().splitlines()[-1])
    return ran.stdout.split()


def _light(target: str) -> str:
    found = heavy_imports(target)
    _need(not found, f"imported: {', '.join(found)}")
    return ""


def _build(suite: _Suite) -> str:
    suite.driver = suite.build()
    _need(isinstance(suite.driver.buffered, bool), "buffered is not a bool")
    _need(suite.driver.embodiment is suite.card, "embodiment is not the card it was given")
    _need(set(threading.enumerate()) == suite.threads, "a thread was started")
    return f"buffered={suite.driver.buffered}"


def _connect(suite: _Suite) -> str:
    powered = suite.witness.report()["powered"] if suite.witness else None
    begin = time.monotonic()
    suite.driver.connect()
    took_s = time.monotonic() - begin
    suite.driver.connect()
    if suite.witness is not None:
        seen = suite.witness.report()
        _need(seen["powered"] == powered, f"powered before {powered}, after {seen['powered']}")
        _need(seen["received"] == 0, f"{seen['received']} setpoints were sent")
    return f"{took_s:.2f} s"


def _reads(suite: _Suite) -> str:
    state, joints = suite.read(), suite.card.joints
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


def _advances(suite: _Suite) -> str:
    stamps: list[int] = []
    until = time.monotonic() + max(0.3, 20 * suite.tick_s)
    while time.monotonic() < until:
        state = suite.read()
        age_s = (monotonic_ns() - state.time_ns) / 1e9
        _need(-suite.tick_s <= age_s <= suite.timeout_s + 0.1, f"a state is {age_s:.3f} s old: is it CLOCK_MONOTONIC?")
        stamps.append(state.time_ns)
        time.sleep(suite.tick_s)
    steps = np.diff(stamps)
    _need(bool((steps >= 0).all()), "a time stamp went back")
    _need(bool((steps > 0).sum() >= 2), "the time stamp stands still")
    return f"{(steps > 0).sum()} of {len(steps)} reads are new"


def _enable(suite: _Suite) -> str:
    before = suite.read().position
    begin = time.monotonic()
    suite.driver.enable()
    took_s = time.monotonic() - begin
    moved = float(np.abs(suite.read().position - before).max())
    _need(moved <= STILL, f"moved by {moved:.4f}")
    if suite.witness is not None:
        _need(bool(suite.witness.report()["powered"]), "the robot is not powered")
    return f"{took_s:.2f} s"


def _not_finite(suite: _Suite) -> str:
    bad = np.array(suite.read().position)
    bad[0] = np.nan
    return _refuses(lambda: suite.driver.command(Setpoint(monotonic_ns(), bad), monotonic_ns()))


def _width(suite: _Suite) -> str:
    bad = np.zeros(len(suite.card.joints) + 1)
    return _refuses(lambda: suite.driver.command(Setpoint(monotonic_ns(), bad), monotonic_ns()))


def _present(suite: _Suite) -> str:
    before = np.array(suite.read().position)
    target = np.clip(before, suite.card.joints.lower, suite.card.joints.upper)
    states = suite.stream(lambda t: target, PRESENT_S)
    moved = max(float(np.abs(s.position - before).max()) for s in states)
    _need(moved <= STILL, f"moved by {moved:.4f}")
    _need(not any(s.fault for s in states), "a fault was reported")
    suite.driver.hold()
    return f"{moved:.4f}"


def _small_move(suite: _Suite) -> str:
    joints = suite.card.joints
    begin = np.clip(np.array(suite.read().position), joints.lower, joints.upper)
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

    states = suite.stream(path, MOVE_S + 0.3)
    reached = max(abs(float(s.position[joint] - begin[joint])) for s in states)
    left = abs(float(suite.read().position[joint] - begin[joint]))
    name = joints.names[joint]
    _need(reached > 0.3 * size, f"{name} was sent {size:.3f} away and came {reached:.4f}")
    _need(left < max(STILL, 0.3 * size), f"{name} stands {left:.4f} from where it began")
    suite.driver.hold()
    return f"{name} {reached:.3f} of {size:.3f}"


def _keeps(suite: _Suite, what: str) -> str:
    getattr(suite.driver, what)()
    before = suite.read().position
    time.sleep(0.2)
    after = suite.read()
    moved = float(np.abs(after.position - before).max())
    _need(moved <= STILL, f"moved by {moved:.4f}")
    if suite.witness is not None:
        _need(bool(suite.witness.report()["powered"]), "the power went off")
    return f"{moved:.4f}"


def _stop(suite: _Suite) -> str:
    detail = _keeps(suite, "stop")
    suite.driver.enable()
    _present(suite)
    return detail


def _channel(suite: _Suite) -> str:
    channel = suite.kind.stop_channel(suite.card, suite.options)
    try:
        _present(suite)
        channel.stop()
    finally:
        channel.close()
    time.sleep(0.1)
    if suite.witness is not None:
        seen = suite.witness.report()
        _need(bool(seen.get("at_rest", True)), "it still moves")
        _need(bool(seen["powered"]), "the power went off")
    suite.driver.stop()
    suite.driver.enable()
    return ""


def _clean(suite: _Suite) -> str:
    assert suite.witness is not None
    seen = suite.witness.report()
    _need(seen["received"] > 0, "nothing arrived")
    _need(seen["violated"] == 0, str(seen.get("first_violation", seen["violated"])))
    return f"{seen['received']} setpoints"


def _silent(suite: _Suite, fault: str) -> str:
    assert suite.witness is not None
    suite.witness.fault(**{fault: True})
    begin, limit_s = time.monotonic(), 5 * suite.timeout_s + 1.0
    try:
        while time.monotonic() - begin < limit_s:
            try:
                suite.driver.read()
            except DeployError as error:
                return f"after {time.monotonic() - begin:.3f} s: {str(error)[:50]}"
            time.sleep(suite.tick_s)
    finally:
        suite.witness.fault(**{fault: False})
        _wake(suite)
    raise _Failed(f"read() went on for {limit_s:.1f} s")


def _wake(suite: _Suite) -> None:
    """Until the controller is heard again."""
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        try:
            suite.driver.read()
            return
        except DeployError:
            time.sleep(0.02)


def _close(suite: _Suite) -> str:
    powered = suite.witness.report()["powered"] if suite.witness else None
    suite.driver.close()
    suite.driver.close()
    _refuses(lambda: suite.driver.read())
    if suite.witness is not None:
        time.sleep(0.1)
        _need(suite.witness.report()["powered"] == powered, "the power went off")
    return ""


def _context(suite: _Suite) -> str:
    with suite.build() as driver:
        driver.connect()
        driver.read()
    _refuses(lambda: driver.read())
    return ""


def _threads(suite: _Suite) -> str:
    until = time.monotonic() + 1.0
    while (left := set(threading.enumerate()) - suite.threads) and time.monotonic() < until:
        time.sleep(0.02)
    _need(not left, ", ".join(sorted(t.name for t in left)))
    return ""


def failed(findings: list[Finding]) -> list[Finding]:
    """Rules that were broken."""
    return [finding for finding in findings if finding.mark == "FAILED"]


def table(findings: list[Finding]) -> str:
    """One line per rule."""
    width = max(len(finding.rule) for finding in findings)
    return inspect.cleandoc("\n".join(f"{f.mark:<7} {f.rule:<{width}}  {f.detail}".rstrip() for f in findings))
