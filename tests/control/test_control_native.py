"""The compiled half of the control tick does what the Python modules do."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from robopolicy.control import curve as curve_module
from robopolicy.control import kinematics as kinematics_module
from robopolicy.control import limiter_core, schedule
from robopolicy.control.config import ControlConfig
from robopolicy.control.curve import ActionLayout, Curve
from robopolicy.control.executor import Executor
from robopolicy.control.kinematics import Kinematics
from robopolicy.control.limiter import SafetyLimiter
from robopolicy.control.native import CONTROL_CORE, native
from robopolicy.embodiment import load_embodiment
from robopolicy.types import ActionChunk, RobotState

CARDS = ("panda", "ur5e_2f85", "xarm7")
needs_native = pytest.mark.skipif(native is None, reason="installed without a C compiler")


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (curve_module, kinematics_module, limiter_core, schedule):
        monkeypatch.setattr(module, "native", None)
    monkeypatch.setattr("robopolicy.control.executor.native", None)


def test_it_was_built() -> None:
    """A machine that runs the tests has a compiler, because robomimic needs one; Python's headers may be missing."""
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    expected = "native" if headers and os.environ.get("ROBOPOLICY_CONTROL") != "python" else "python"
    assert expected == CONTROL_CORE


@needs_native
@pytest.mark.parametrize("name", CARDS)
def test_kinematics_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card, rng = load_embodiment(name), np.random.default_rng(0)
    compiled = Kinematics(card)
    in_python(monkeypatch)
    plain = Kinematics(card)
    assert compiled.chain is not None
    assert plain.chain is None
    for k in range(200):
        q, goal = rng.uniform(compiled.lower, compiled.upper, (2, len(compiled.lower)))
        q = np.clip(q, -3, 3)
        target = plain.forward(np.clip(goal, -3, 3) if k % 2 else q + rng.normal(0, 0.02, len(q)))
        for one, two in zip(compiled.forward(q), plain.forward(q), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-12)
        joints = rng.uniform(card.joints.lower, card.joints.upper)
        np.testing.assert_allclose(compiled.tcp_state(joints), plain.tcp_state(joints), atol=1e-12)
        options = {"iterations": 1 + k % 4, "nullspace": 0.01 * (k % 3)}
        one, two = compiled.solve(q, *target, **options), plain.solve(q, *target, **options)
        np.testing.assert_allclose(one.q_arm, two.q_arm, atol=1e-7)
        assert one.position_error_m == pytest.approx(two.position_error_m, abs=1e-7)
        assert one.rotation_error_rad == pytest.approx(two.rotation_error_rad, abs=1e-6)
        assert (one.iterations, one.converged) == (two.iterations, two.converged)


def requests(card: object, rng: np.random.Generator, ticks: int) -> np.ndarray:
    """Calm, wild and impossible stretches of joint requests [T, J]."""
    lower, upper = card.joints.lower, card.joints.upper  # type: ignore[attr-defined]
    span = np.minimum(upper - lower, 4.0)
    calm = np.cumsum(rng.normal(0, 2e-4, (ticks, len(lower))), axis=0)
    wild = rng.normal(0, 0.2, (ticks, len(lower))) * span
    kind = np.repeat(rng.integers(0, 3, -(-ticks // 25)), 25)[:ticks, None]
    home = card.home_position  # type: ignore[attr-defined]
    return np.asarray(home + np.where(kind == 0, calm, np.where(kind == 1, calm * 40, wild)))


@needs_native
@pytest.mark.parametrize("name", [*CARDS, "aloha"])
def test_limiters_give_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels are the same to the last bit; where the workspace decides, forward kinematics rounds otherwise."""
    card = load_embodiment(name)
    compiled = SafetyLimiter(card)
    in_python(monkeypatch)
    plain = SafetyLimiter(card)
    assert type(compiled._core) is not type(plain._core)
    seen = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for limiter in (compiled, plain):
            limiter.reset(card.home_position)
        wishes = requests(card, rng, 400)
        for tick, wish in enumerate(wishes):
            state = RobotState(tick * 10_000_000, plain.command, plain.velocity)
            one, first = compiled.apply(wish, state, compiled.tick_s)
            two, second = plain.apply(wish, state, plain.tick_s)
            np.testing.assert_array_equal(one, two)
            assert first == second
            seen |= first.bits
            if tick % 97 == 96:
                for _ in range(5):
                    brakes = [limiter.brake(state, limiter.tick_s)[0] for limiter in (compiled, plain)]
                    np.testing.assert_array_equal(*brakes)
        assert compiled.at_rest == plain.at_rest
        np.testing.assert_array_equal(compiled.acceleration, plain.acceleration)
        assert compiled.effort == plain.effort
        scaled = np.abs(plain.acceleration) / plain.max_acceleration
        assert plain.effort == pytest.approx(scaled[plain.arm_joints].max(), rel=2e-6)  # held a little below
    assert seen & 2 + 4 + 8 + 16 == 2 + 4 + 8 + 16  # every kind of limit was met
    assert seen & 32


@needs_native
def test_a_start_outside_the_box_comes_home_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_embodiment("panda")
    compiled = SafetyLimiter(card)
    in_python(monkeypatch)
    plain = SafetyLimiter(card)
    start = card.home_position + np.array([1.2, 0.3, 0, 0.4, 0, 0, 0, 0])
    for limiter in (compiled, plain):
        limiter.reset(start)
    for tick in range(300):
        wish = start + (card.home_position - start) * min(tick / 200, 1.0)
        state = RobotState(tick * 10_000_000, start, np.zeros(8))
        one, two = compiled.apply(wish, state, 0.01), plain.apply(wish, state, 0.01)
        np.testing.assert_allclose(one[0], two[0], atol=1e-9)  # on the border of the widened box rounding decides


@needs_native
def test_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, rng = ActionLayout.of(load_embodiment("panda")), np.random.default_rng(3)
    for knots in (1, 2, 3, 9):
        times = np.cumsum(rng.integers(1_000_000, 60_000_000, knots)).tolist()
        values = layout.orthonormal(rng.normal(size=(knots, 10)))
        rate = rng.normal(size=10)
        compiled = Curve(layout, times, values, rate, 150_000_000)
        with monkeypatch.context() as patch:
            patch.setattr(curve_module, "native", None)
            plain = Curve(layout, times, values, rate, 150_000_000)
        for t in [*times, *rng.integers(times[0] - 10_000_000, times[-1] + 200_000_000, 200).tolist()]:
            np.testing.assert_allclose(compiled.at(t), plain.at(t), atol=1e-14)
            np.testing.assert_allclose(compiled.rate(t), plain.rate(t), atol=1e-11)
        start = times[0] + 7_000_000
        later = np.array([start + 30_000_000, start + 55_000_000])
        further = layout.orthonormal(rng.normal(size=(2, 10)))
        one, two = (curve.joined(start, later, further, 90_000_000) for curve in (compiled, plain))
        assert (one.start_ns, one.end_ns, one.rest_ns) == (two.start_ns, two.end_ns, two.rest_ns)
        for t in [start, *later.tolist(), *rng.integers(start, int(later[-1]) + 100_000_000, 50).tolist()]:
            np.testing.assert_allclose(one.at(t), two.at(t), atol=1e-13)
            np.testing.assert_allclose(one.rate(t), two.rate(t), atol=1e-10)
        with pytest.raises(ValueError, match="grow"):
            compiled.joined(start, later[::-1].copy(), further, 0)


def chunks(card: object, rng: np.random.Generator, count: int) -> list[ActionChunk]:
    """Good ones, and every kind that is refused."""
    home = Kinematics(card).tcp_state(card.home_position)  # type: ignore[arg-type, attr-defined]
    made = []
    for k in range(count):
        rows = int(rng.integers(1, 12))
        values = home + np.cumsum(rng.normal(0, 0.002, (rows, len(home))), axis=0)
        fault = k % 8
        if fault == 5:
            values[-1, int(rng.integers(3))] += 3.0
        if fault == 6:
            values[0, 6:9] = 1.001 * values[0, 3:6]
        if fault == 7:
            values[:, 1] += 0.29
        valid = rng.random(rows) > 0.1
        if k % 10 == 3:
            values[int(rng.integers(rows)), 0] = np.nan  # refused only where the row counts
        if k % 20 == 9:
            valid[:] = False
        late_ns = int(rng.integers(0, 90_000_000)) + (k % 16 == 10) * 500_000_000
        late_ns -= (k % 16 == 11) * 300_000_000
        made.append(ActionChunk(values, k * 80_000_000 - late_ns, 0.05, card.hash, valid))  # type: ignore[attr-defined]
    return made


def run(card: object, several: list[ActionChunk]) -> list[tuple[object, ...]]:
    executor = Executor(card, ControlConfig(max_state_age_s=100.0))  # type: ignore[arg-type]
    still = np.zeros(len(card.joints))  # type: ignore[attr-defined]
    executor.reset(RobotState(0, card.home_position, still))  # type: ignore[attr-defined]
    rows: list[tuple[object, ...]] = []
    for tick in range(8 * len(several)):
        now_ns = tick * 10_000_000
        if tick % 8 == 0:
            report = executor.submit(several[tick // 8], now_ns)
            rows.append((report.accepted, report.reason, report.dropped, round(report.jump, 6)))
        done = executor.tick(RobotState(now_ns, executor.command, still), now_ns)
        rows.append((done.mode, done.seam, done.verdict.fault, done.setpoint.position))
    return rows


@needs_native
@pytest.mark.parametrize("name", CARDS)
def test_executors_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_embodiment(name)
    several = chunks(card, np.random.default_rng(5), 50)
    compiled = run(card, several)
    in_python(monkeypatch)
    outcome = compiled, run(card, several)
    reasons: set[object] = set()
    early = 0
    for one, two in zip(*outcome, strict=True):
        if isinstance(one[-1], np.ndarray):  # a tick: a choice at a limit magnifies the last bit
            np.testing.assert_allclose(one[-1], two[-1], atol=2e-3)
            early += one[:-1] != two[:-1]
            reasons.add(one[0])
        else:
            assert one[:3] == two[:3]
            reasons.add(one[1])
    assert early <= 4  # of 400: rest may be reached a tick earlier or later
    refused = {"bounds", "rotation", "jump", "non_finite", "no_valid_rows", "out_of_order", "future", "past"}
    assert {*refused, "tracking"} <= reasons


def test_python_alone_can_be_asked_for() -> None:
    program = "from robopolicy.control.native import CONTROL_CORE; print(CONTROL_CORE)"
    environment = {**os.environ, "ROBOPOLICY_CONTROL": "python"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "python"


@needs_native
def test_wrong_buffers_are_refused() -> None:
    limiter = SafetyLimiter(load_embodiment("panda"))
    out = np.empty(8)
    with pytest.raises(ValueError, match="wanted 8"):
        limiter._core.limit(np.zeros(7), out)
    with pytest.raises(ValueError, match="float64"):
        limiter._core.limit(np.zeros(8, np.float32), out)  # type: ignore[arg-type]
    with pytest.raises((ValueError, BufferError)):
        limiter._core.limit(np.zeros(16)[::2], out)
    with pytest.raises(ValueError, match="not finite"):
        limiter._core.limit(np.full(8, np.nan), out)


@pytest.mark.parametrize("name", CARDS)
def test_what_is_not_finite_never_becomes_a_motion(name: str) -> None:
    """With or without the compiled half: kinematics hands it on, the executor brakes and latches a fault."""
    card = load_embodiment(name)
    kinematics = Kinematics(card)
    position, rotation = kinematics.forward(kinematics.home)
    assert np.isfinite(kinematics.solve(kinematics.home, position, rotation, iterations=3).q_arm).all()  # control
    for bad in (np.nan, np.inf):
        broken = position.copy()
        broken[1] = bad
        assert not np.isfinite(kinematics.solve(kinematics.home, broken, rotation, iterations=3).q_arm).all()
    for bad in (None, np.nan):
        executor = Executor(card)
        still = np.zeros(len(card.joints))
        executor.reset(RobotState(0, card.home_position, still))
        home = kinematics.tcp_state(card.home_position)
        assert executor.submit(ActionChunk(np.tile(home, (4, 1)), 0, card.control_dt_s, card.hash), 0).accepted
        if bad is not None:  # no chunk like this is accepted; here it is as if one had been
            values = np.tile(home, (3, 1))
            values[1:, 0] = bad
            curve = executor.schedule.curve
            times = [0, 100_000_000, 200_000_000]
            executor.schedule.curve = Curve(curve.layout, times, values, np.zeros_like(home), curve.tail_ns)
        before = executor.command
        done = executor.tick(RobotState(0, card.home_position, still), 0)
        np.testing.assert_allclose(done.setpoint.position, before, atol=1e-3)
        assert (executor.fault is not None) == (bad is not None)


@pytest.mark.parametrize("field", ["position", "velocity", "control"])
def test_a_measurement_that_is_not_finite_is_a_fault_while_tracking(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_embodiment("panda")
    home, still = Kinematics(card).tcp_state(card.home_position), np.zeros(len(card.joints))
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                in_python(patch)
            executor = Executor(card)
            executor.reset(RobotState(0, card.home_position, still))
            chunk = ActionChunk(
                home + np.linspace(0, 0.02, 6)[:, None] * np.eye(10)[0], 0, card.control_dt_s, card.hash
            )
            assert executor.submit(chunk, 0).accepted
            for tick in range(10):
                state = RobotState(tick * 10_000_000, executor.command, still)
                if tick == 5 and field != "control":
                    state = state._replace(**{field: np.full(len(still), np.nan)})
                done = executor.tick(state, tick * 10_000_000)
                assert np.isfinite(done.setpoint.position).all()
                assert (done.mode == "fault") == (tick >= 5 and field != "control")
            assert ("measured state" in (executor.fault or "")) == (field != "control")


@needs_native
@pytest.mark.parametrize("kind", ["float32", "strided", "short", "control"])
def test_a_driver_may_measure_in_any_numbers_but_not_too_few(kind: str) -> None:
    """What is no buffer of doubles is converted; another width is a fault and a limited stop, never an exception."""
    card = load_embodiment("panda")
    home, still = Kinematics(card).tcp_state(card.home_position), np.zeros(len(card.joints))
    forms = {
        "float32": lambda v: v.astype(np.float32),
        "strided": lambda v: np.repeat(v, 2)[::2],
        "short": lambda v: v[:-1],
        "control": lambda v: v,
    }
    executor = Executor(card)
    executor.reset(RobotState(0, card.home_position, still))
    assert executor.submit(ActionChunk(np.tile(home, (6, 1)), 0, card.control_dt_s, card.hash), 0).accepted
    for tick in range(5):
        state = RobotState(tick * 10_000_000, forms[kind](executor.command), forms[kind](still))
        done = executor.tick(state, tick * 10_000_000)
        assert np.isfinite(done.setpoint.position).all()
        assert (done.mode == "fault") == (kind == "short")
