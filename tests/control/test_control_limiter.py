"""No sequence of requests may break a limit on the wire, and requests within the limits are not touched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from robopolicy.control.channel import ChannelLimiter
from robopolicy.control.config import ControlConfig
from robopolicy.control.kinematics import Kinematics
from robopolicy.control.limiter import SafetyLimiter
from robopolicy.control.verdict import CLEAR, Limit, Verdict
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, SafetyFaultError
from robopolicy.types import RobotState

TICK_S = 0.01
TOLERANCE = 1e-9


def measured(limiter: SafetyLimiter, tick: int, **changes: object) -> RobotState:
    state = RobotState(tick * 10_000_000, limiter.command, np.zeros(8))
    return state._replace(**changes)


def breaches(sent: np.ndarray, lower, upper, velocity, acceleration, jerk, tick_s: float) -> list[str]:
    """The checker of the wire: positions [T, n] including three from before the first request."""
    found = []
    if (sent[3:] > upper).any() or (sent[3:] < lower).any() or not np.isfinite(sent).all():
        found.append("position")
    rate = sent
    for order, (name, limit) in enumerate((("velocity", velocity), ("acceleration", acceleration), ("jerk", jerk)), 1):
        rate = np.diff(rate, axis=0) / tick_s
        # Only differences that contain a new position are the limiter's doing.
        # A position is known to one rounding; dividing by the tick so often makes that much of it.
        rounding = 2**order * np.spacing(np.abs(sent).max()) / tick_s**order
        if (np.abs(rate[3 - order :]) > np.asarray(limit) * (1 + TOLERANCE) + rounding).any():
            found.append(name)
    return found


@st.composite
def requests(draw: st.DrawFn, lower: float, upper: float, step: float, length: int = 120) -> list[float]:
    """A sequence of one of the kinds that have broken limiters before."""
    kind = draw(st.sampled_from(["steps", "noise", "extremes", "walk", "edge", "huge", "sine"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = upper - lower
    if kind == "steps":
        return np.repeat(rng.uniform(lower - width, upper + width, length), rng.integers(1, 30))[:length].tolist()
    if kind == "noise":
        return rng.uniform(lower - 0.1 * width, upper + 0.1 * width, length).tolist()
    if kind == "extremes":
        period = draw(st.integers(1, 25))
        return [upper if (i // period) % 2 else lower for i in range(length)]
    if kind == "huge":
        return (rng.choice([-1e9, 1e9, 1e300, -1e300, 0.0], length)).tolist()
    if kind == "walk":
        return (rng.uniform(lower, upper) + np.cumsum(rng.normal(0, 1.5 * step, length))).tolist()
    if kind == "edge":
        return (upper - step * rng.exponential(1.0, length)).tolist()
    return (0.5 * (lower + upper) + 0.7 * width * np.sin(np.arange(length) * draw(st.floats(0.01, 1.0)))).tolist()


@st.composite
def channels(draw: st.DrawFn) -> tuple[ChannelLimiter, tuple[float, ...], list[float]]:
    """A channel with any limits in an admissible moving state, its stated limits, and requests."""
    velocity = draw(st.floats(0.1, 5.0))
    acceleration = velocity * draw(st.floats(1.0, 80.0))
    jerk = acceleration * draw(st.floats(2.0, 800.0))
    lower, upper = -draw(st.floats(0.05, 3.0)), draw(st.floats(0.05, 3.0))
    tick_s = draw(st.sampled_from([0.001, 0.002, 0.01, 0.05]))
    channel = ChannelLimiter(lower, upper, velocity, acceleration, jerk, tick_s)
    share = st.floats(-1.0, 1.0)
    start = lower + (upper - lower) * draw(st.floats(0.0, 1.0))
    if not channel.reset(start, channel.V * draw(share), channel.A * draw(share)):
        channel.reset(start)
    return channel, (lower, upper, velocity, acceleration, jerk, tick_s), draw(requests(lower, upper, channel.V))


def history(channel: ChannelLimiter) -> list[float]:
    p, v, a = channel.p, channel.v, channel.a
    return [p - 2 * v + a, p - v, p]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(channels())
def test_no_request_sequence_breaks_a_channel(case: tuple) -> None:
    channel, limits, sequence = case
    sent = history(channel)
    for request in sequence:
        step, _ = channel.propose(request)
        sent.append(channel.commit(step))
    assert breaches(np.array(sent)[:, None], *limits) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(channels())
def test_stop_is_possible_at_any_moment(case: tuple) -> None:
    channel, limits, sequence = case
    sent = history(channel)
    for request in sequence[:40]:
        sent.append(channel.commit(channel.propose(request)[0]))
    for _ in range(100_000):
        if channel.v == 0.0 and channel.a == 0.0:
            break
        sent.append(channel.commit_braking())
    assert (channel.v, channel.a) == (0.0, 0.0)
    assert breaches(np.array(sent)[:, None], *limits) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(channels(), st.floats(0.0, 1.0))
def test_channel_converges_to_a_constant_target_without_oscillation(case: tuple, where: float) -> None:
    channel, (lower, upper, velocity, acceleration, jerk, tick_s), _ = case
    target = min(lower + where * (upper - lower), upper)
    # Travel at full speed, two changes of speed, two of acceleration, twice over.
    enough_s = 2 * ((upper - lower) / velocity + 2 * velocity / acceleration + 4 * (velocity / jerk) ** 0.5)
    ticks = int(enough_s / tick_s) + 60
    assume(ticks < 4000)
    errors = []
    for _ in range(ticks):
        channel.commit(channel.propose(target)[0])
        errors.append(channel.p - target)
        if errors[-5:] == [0.0] * 5:
            break
    assert (channel.p, channel.v, channel.a) == (target, 0.0, 0.0)
    # Above 1e-9 of the range the error changes sign at most once: the overshoot of a start that was too fast.
    signs = np.sign([e for e in errors if abs(e) > 1e-9 * (upper - lower)])
    assert (np.diff(signs) != 0).sum() <= 1


def test_checker_catches_unlimited_requests() -> None:
    """Control: the same checker, without the limiter."""
    rng = np.random.default_rng(3)
    limits = (-1.0, 1.0, 2.0, 10.0, 400.0, TICK_S)
    wild = rng.uniform(-1.2, 1.2, (100, 1))
    assert breaches(wild, *limits) == ["position", "velocity", "acceleration", "jerk"]
    assert breaches(np.full((10, 1), np.nan), *limits) == ["position"]
    # Limits that ignore jerk are caught too.
    ramp = np.concatenate([np.zeros(5), np.cumsum(np.minimum(np.arange(1, 15) * 9.9e-4, 1.9e-2))])[:, None]
    assert breaches(ramp, *limits) == ["jerk"]


def smooth_motion(embodiment: Embodiment, ticks: int) -> np.ndarray:
    """[ticks, J] around home, within every limit, beginning at rest."""
    time_s = np.arange(ticks) * TICK_S
    swing = 0.15 * (1 - np.cos(2.0 * time_s)) ** 2
    motion = embodiment.home_position + swing[:, None] * np.array([1, 0.3, -1, 0.3, 1, 0.5, -1, -1.0])
    return np.minimum(motion, embodiment.joints.upper)


def test_requests_within_limits_pass_bit_for_bit(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    for tick, request in enumerate(smooth_motion(panda, 400)):
        sent, verdict = limiter.apply(request, measured(limiter, tick), TICK_S, tick * 10_000_000)
        assert (sent == request).all()
        assert verdict is CLEAR


def test_transparency_check_notices_a_slower_limit(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda, ControlConfig(velocity_scale=0.05))
    pairs = [
        (limiter.apply(request, measured(limiter, tick), TICK_S)[0], request)
        for tick, request in enumerate(smooth_motion(panda, 200))
    ]
    assert any((sent != request).any() for sent, request in pairs)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_request_sequence_breaks_the_arm(panda: Embodiment, data: st.DataObject) -> None:
    limiter = SafetyLimiter(panda)
    kinematics = Kinematics(panda)
    columns = [data.draw(requests(c.lower, c.upper, c.max_velocity * TICK_S, 60)) for c in panda.joints.channels]
    sent = [limiter.command] * 3
    for tick, request in enumerate(zip(*columns, strict=True)):
        sent.append(limiter.apply(np.array(request), measured(limiter, tick), TICK_S, tick * 10_000_000)[0])
    joints = panda.joints
    limits = (limiter.max_velocity, limiter.max_acceleration, limiter.max_jerk)
    assert breaches(np.array(sent), joints.lower, joints.upper, *limits, TICK_S) == []
    tcp = kinematics.positions(np.array(sent)[:, kinematics.arm])
    box = np.array(panda.workspace)
    assert (tcp >= box[0] - 1e-9).all()
    assert (tcp <= box[1] + 1e-9).all()


def test_arm_stays_in_the_workspace_and_settles_at_its_face(panda: Embodiment) -> None:
    limiter, kinematics = SafetyLimiter(panda), Kinematics(panda)
    home = panda.home_position
    down = home.copy()
    down[[1, 5]] += 1.4, 1.0  # the shoulder leans forward, the wrist turns down: the hand goes through the table
    outside = kinematics.positions(down[None, kinematics.arm])[0]
    assert outside[2] < -0.03
    heights, moved, seen = [], [], 0
    for tick in range(600):
        before = limiter.command
        sent, verdict = limiter.apply(down, measured(limiter, tick), TICK_S)
        heights.append(kinematics.forward(sent[kinematics.arm])[0][2])
        moved.append(np.abs(sent - before).max())
        seen |= verdict.bits
    assert min(heights) >= 0.0
    assert heights[-1] < 0.02
    assert max(moved[-100:]) < 1e-3
    assert seen & Limit.WORKSPACE
    back, verdict = limiter.apply(home, measured(limiter, 600), TICK_S)
    assert np.isfinite(back).all()


def test_start_outside_may_come_home_and_go_no_further(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    start = panda.home_position.copy()
    start[5] = panda.joints.upper[5] + 0.05
    limiter.reset(start)
    further = start.copy()
    further[5] += 0.5
    for tick in range(100):
        sent, _ = limiter.apply(further, measured(limiter, tick), TICK_S)
        assert sent[5] <= start[5]
    for tick in range(100, 400):
        sent, _ = limiter.apply(panda.home_position, measured(limiter, tick), TICK_S)
    np.testing.assert_allclose(sent, panda.home_position, atol=1e-12)
    for tick in range(400, 700):
        sent, _ = limiter.apply(further, measured(limiter, tick), TICK_S)
        assert sent[5] <= panda.joints.upper[5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["command", "position", "velocity"])
def test_non_finite_is_a_limited_stop_and_a_latched_fault(panda: Embodiment, value: float, where: str) -> None:
    limiter = SafetyLimiter(panda)
    sent = [limiter.command] * 3
    for tick in range(20):
        request = panda.home_position + 0.02 * tick
        sent.append(limiter.apply(request, measured(limiter, tick), TICK_S)[0])
    bad = panda.home_position.copy()
    bad[2] = value
    state = measured(limiter, 20, **({} if where == "command" else {where: bad}))
    command, verdict = limiter.apply(bad if where == "command" else panda.home_position, state, TICK_S)
    sent.append(command)
    assert verdict.fault is not None
    assert "finite" in verdict.fault
    assert verdict.finite
    for tick in range(21, 120):
        command, verdict = limiter.apply(panda.home_position, measured(limiter, tick), TICK_S)
        assert verdict.fault is not None
        sent.append(command)
    joints = panda.joints
    limits = (limiter.max_velocity, limiter.max_acceleration, limiter.max_jerk)
    assert breaches(np.array(sent), joints.lower, joints.upper, *limits, TICK_S) == []
    assert (sent[-1] == sent[-2]).all()
    assert np.abs(sent[-1] - panda.home_position).max() > 0.05  # it held where it came to rest
    limiter.reset(sent[-1])
    assert limiter.fault is None


def test_stale_state_is_a_fault(panda: Embodiment) -> None:
    home = panda.home_position
    limiter = SafetyLimiter(panda)
    state = RobotState(0, home, np.zeros(8))
    assert limiter.apply(home, state, TICK_S, 99_000_000)[1].ok
    verdict = limiter.apply(home, state, TICK_S, 101_000_000)[1]
    assert verdict.staleness
    assert "old" in str(verdict.fault)


def test_frozen_time_stamp_is_a_fault_without_a_clock(panda: Embodiment) -> None:
    home = panda.home_position
    limiter = SafetyLimiter(panda)
    faults = [limiter.apply(home, RobotState(7, home, np.zeros(8)), TICK_S)[1].fault for _ in range(14)]
    assert faults[9] is None
    assert "stood still" in str(faults[-1])
    moving = SafetyLimiter(panda)
    assert all(moving.apply(home, measured(moving, t), TICK_S)[1].fault is None for t in range(14))


def test_controller_stop_is_a_fault(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    verdict = limiter.apply(panda.home_position, measured(limiter, 0, fault=True), TICK_S)[1]
    assert "controller" in str(verdict.fault)
    limiter.reset(panda.home_position)
    assert limiter.apply(panda.home_position, measured(limiter, 1), TICK_S)[1].ok


def test_wrong_width_is_a_fault_and_wrong_tick_an_error(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    assert "shape" in str(limiter.apply(np.zeros(7), measured(limiter, 0), TICK_S)[1].fault)
    with pytest.raises(ConfigError, match="one tick"):
        limiter.apply(panda.home_position, measured(limiter, 1), 0.02)


def test_limiter_refuses_a_start_that_cannot_stop(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    edge = panda.home_position.copy()
    edge[0] = panda.joints.upper[0]
    with pytest.raises(SafetyFaultError, match="no limited stop"):
        limiter.reset(edge, velocity=np.full(8, 0.5))
    with pytest.raises(SafetyFaultError):
        limiter.reset(np.full(8, np.nan))


def test_limits_in_force_are_scaled_and_cannot_be_raised(panda: Embodiment) -> None:
    limiter = SafetyLimiter(panda)
    np.testing.assert_allclose(limiter.max_velocity[:7], 0.9 * panda.joints.limit("max_velocity")[:7])
    np.testing.assert_allclose(limiter.max_acceleration[:7], 0.7 * panda.joints.limit("max_acceleration")[:7])
    np.testing.assert_allclose(limiter.max_jerk[:7], 0.1 * panda.joints.limit("max_jerk")[:7])
    gentle = SafetyLimiter(panda, ControlConfig(jerk_scale=0.01))
    np.testing.assert_allclose(gentle.max_jerk[:7], 0.01 * panda.joints.limit("max_jerk")[:7])
    xarm = load_embodiment("xarm7")  # a tenth of a jerk that is moderate already would take 0.28 s to full acceleration
    other = SafetyLimiter(xarm)
    np.testing.assert_allclose(other.max_acceleration[:7] / other.max_jerk[:7], 0.07)
    assert (other.max_jerk <= xarm.joints.limit("max_jerk")).all()
    assert limiter.max_velocity[7] == panda.joints.limit("max_velocity")[7]
    with pytest.raises(ConfigError) as caught:
        ControlConfig(velocity_scale=1.1, jerk_scale=0.0, reseed="guess")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("change", "name"),
    [(10.0, "position"), (0.5, "velocity"), (0.018, "acceleration"), (9e-4, "jerk")],
)
def test_verdict_names_the_limits_met(panda: Embodiment, change: float, name: str) -> None:
    limiter = SafetyLimiter(panda)
    request = panda.home_position.copy()
    request[0] += change
    _, verdict = limiter.apply(request, measured(limiter, 0), TICK_S)
    assert name in verdict.clipped
    assert getattr(verdict, name)
    assert verdict.channels == 1
    assert verdict.fault is None


def test_verdict_is_frozen_and_its_bits_are_stable() -> None:
    verdict = Verdict(int(Limit.JERK | Limit.WORKSPACE), 3)
    assert verdict.clipped == ("jerk", "workspace")
    assert [int(limit) for limit in Limit] == [1 << k for k in range(11)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.bits = 0  # type: ignore[misc]
