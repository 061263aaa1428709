"""What an executor says of its future, and when a runner asks: indices on a path whose values are a counter."""

import numpy as np
import pytest

from robopolicy.control.between import Between, BetweenConfig, delay_steps
from robopolicy.control.config import ControlConfig
from robopolicy.control.executor import Executor
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError
from robopolicy.protocols import PolicySpec
from robopolicy.schema import build
from robopolicy.types import ActionChunk, RobotState

CARD = load_embodiment("panda")
DT = round(CARD.control_dt_s * 1e9)
STEP_M = 0.002


@pytest.fixture
def executor():
    made = Executor(CARD, ControlConfig())
    home = CARD.home_position
    made.reset(RobotState(0, home, np.zeros_like(home)))
    return made


def line(executor, t0_step, count=15, offset=0.0):
    """Row k is x0 + (t0 + k) steps: the value says for which step it is."""
    start = executor.kinematics.only.tcp_state(CARD.home_position)
    values = np.repeat(start[None], count, axis=0)
    values[:, 0] += STEP_M * (t0_step + np.arange(1, count + 1)) + offset
    return ActionChunk(values, t0_step * DT, CARD.control_dt_s, CARD.hash, horizon=8)


def run(executor, ticks):
    state = RobotState(0, CARD.home_position, np.zeros(len(CARD.joints)))
    for tick in ticks:
        now = round(tick * CARD.tick_s * 1e9)
        executor.tick(state._replace(time_ns=now), now)


def steps(values, executor):
    return (values[:, 0] - executor.kinematics.only.tcp_state(CARD.home_position)[0]) / STEP_M


def test_it_is_the_rest_of_the_chunk_from_the_observation_on(executor):
    assert executor.scheduled(0) is None
    assert executor.standing(0)
    executor.submit(line(executor, 0), 0)
    ahead = executor.scheduled(8 * DT, 2 * DT)
    assert ahead.horizon == 2
    assert (ahead.t0_ns, ahead.dt_s, ahead.embodiment) == (8 * DT, CARD.control_dt_s, CARD.hash)
    np.testing.assert_allclose(steps(ahead.values, executor), np.arange(9, 16), atol=1e-6)
    np.testing.assert_array_equal(ahead.time_ns, np.arange(9, 16) * DT)
    assert not executor.standing(8 * DT)
    # between control steps, and a delay of a part of a step counts as a whole one
    odd = executor.scheduled(8 * DT + DT // 2, DT + 1000)
    assert odd.horizon == 2
    np.testing.assert_allclose(steps(odd.values, executor), np.arange(9.5, 15.5), atol=0.05)


def test_after_a_splice_it_is_the_blend(executor):
    executor.submit(line(executor, 0), 0)
    executor.submit(line(executor, 8, offset=0.02), 8 * DT)
    ahead = executor.scheduled(8 * DT)
    shift = steps(ahead.values, executor) - np.arange(9, 24)
    assert 0 < shift[0] < shift[1] < 10
    np.testing.assert_allclose(shift[3:], 10, atol=1e-6)


def test_what_comes_after_the_last_knot_is_the_way_to_rest(executor):
    executor.submit(line(executor, 0), 0)
    ahead = executor.scheduled(13 * DT, 4 * DT)
    assert len(ahead.values) == ahead.horizon == 4
    assert steps(ahead.values, executor)[-1] == pytest.approx(15, abs=1.0)
    assert executor.scheduled(14 * DT, 4 * DT) is None  # the arm will stand: the chunk begins at its own beginning
    assert executor.scheduled(30 * DT) is None


def test_a_stopped_arm_has_no_future(executor):
    executor.submit(line(executor, 0), 0)
    run(executor, range(3))
    assert executor.scheduled(2 * DT) is not None
    executor.request_stop()
    assert executor.scheduled(2 * DT) is None
    assert executor.standing(2 * DT)


def spec(to=2, ta=8, tp=16):
    return PolicySpec(CARD, to, ta, tp, continues=True)


def asked(between, delay, steps=40):
    """Steps at which a runner asks, answers taking ``delay`` steps."""
    found, last, ready = [], -between.interval, 0
    for step in range(steps):
        if between.due(step - last, step < ready):
            found.append(step)
            last, ready = step, step + delay
            between.measured(delay * DT)
    return found


def test_when_a_runner_asks():
    assert asked(Between(BetweenConfig(), spec()), 3) == [0, 8, 16, 24, 32]
    assert asked(Between(BetweenConfig(), spec()), 10) == [0, 10, 20, 30]
    assert asked(Between(BetweenConfig(kind="ensemble"), spec()), 3) == list(range(40))
    assert asked(Between(BetweenConfig(kind="ensemble", every=5), spec()), 7, 16) == [0, 5, 10, 15]
    rtc = BetweenConfig(kind="rtc")
    assert asked(Between(rtc, spec(), 3 * DT), 3) == [0, 8, 16, 24, 32]
    # H = 15 and d = 9: after 6 steps only 9 are left, but the last answer is not there before 9
    assert asked(Between(rtc, spec(), 9 * DT), 9) == [0, 9, 18, 27, 36]
    # H = 9, Ta = 8, d = 3: asked early enough for the old chunk to last
    assert asked(Between(rtc, spec(tp=10), 3 * DT), 3) == [0, 6, 12, 18, 24, 30, 36]


def test_the_delay_expected_is_the_longest_of_the_recent_ones():
    between = Between(BetweenConfig(kind="rtc", recent=3), spec(), 2 * DT)
    for delay in (1, 4, 1):
        between.measured(delay * DT)
    assert between.expected_ns == 4 * DT
    between.measured(DT)
    between.measured(DT)
    assert between.expected_ns == DT
    assert delay_steps(100e6, 0.05) == 2
    assert delay_steps(100e6 + 10_000, 0.05) == 3
    assert delay_steps(0, 0.05) == 0


def test_masks_and_bound_travel_in_the_prefix(executor):
    executor.submit(line(executor, 0), 0)
    for mask, length in (("soft", 7), ("hard", 2)):
        config = BetweenConfig(kind="rtc", mask=mask, strongest=3.0, jacobian="identity")
        prefix = Between(config, spec(), 2 * DT).prefix(executor.scheduled, 8 * DT)
        assert len(prefix.values) == length
        assert (prefix.horizon, prefix.strongest, prefix.jacobian) == (2, 3.0, "identity")
    hard = BetweenConfig(kind="rtc", mask="hard")
    assert Between(hard, spec()).prefix(executor.scheduled, 8 * DT) is None  # no delay: nothing is fixed
    assert Between(BetweenConfig(), spec(), DT).prefix(executor.scheduled, 8 * DT) is None


def test_an_ensemble_forgets_what_was_seen_before_the_motion(executor):
    between = Between(BetweenConfig(kind="ensemble", decay=0.0), spec(), 2 * DT)
    first = line(executor, 0)
    assert between.arrived(first, 2 * DT, standing=True) is first
    assert between.arrived(line(executor, 1), 3 * DT, standing=False) is None
    merged = between.arrived(line(executor, 2, offset=0.01), 4 * DT, standing=False)
    # the first is followed two steps late, so at time 2 + k it says k: the mean of that and of 2 + k + 5
    np.testing.assert_allclose(steps(merged.values, executor)[:13], np.arange(1, 14) + 3.5, atol=1e-6)


def test_all_faults_are_named():
    with pytest.raises(ConfigError, match="naive") as caught:
        build(BetweenConfig, {"kind": "rtcs", "mask": "firm", "every": 0}, "between")
    assert len(caught.value.problems) == 3


def test_rtc_with_a_policy_that_does_not_continue_is_refused():
    deaf = PolicySpec(CARD, 2, 8, 16)
    with pytest.raises(ConfigError, match="does not continue"):
        Between(BetweenConfig(kind="rtc"), deaf)
    assert Between(BetweenConfig(), deaf).interval == 8
    assert Between(BetweenConfig(kind="rtc"), spec()).interval == 8
