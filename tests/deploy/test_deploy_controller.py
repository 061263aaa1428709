"""The robot's side: what it calls a violation, what it calls a gap, and how it stops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.setpoint_check import SetpointCheck
from robopolicy.deploy.drivers.controller import RobotController
from robopolicy.deploy.records import FLAG_END, FLAG_MOVING, FLAG_RUNNING
from robopolicy.embodiment import load_embodiment

CARD = load_embodiment("panda")
TICK = round(CARD.tick_s * 1e9)
HOME = CARD.home_position
RUN = FLAG_RUNNING | FLAG_MOVING
SETPOINT = np.dtype([("time_ns", "<i8"), ("sent_ns", "<i8"), ("flags", "<u8"), ("position", "<f8", (len(HOME),))])


def setpoint(time_ns, position, flags=RUN):
    return np.array([(time_ns, time_ns, flags, position)], SETPOINT)[0]


def wave(k, amplitude=0.05, period_s=2.0):
    """A sine on joint 1 that starts at rest: far inside every limit."""
    phase = 2 * np.pi * k * CARD.tick_s / period_s
    q = HOME.copy()
    q[0] += amplitude * (1 - np.cos(phase))
    return q


def judge(positions, standing=HOME):
    check = SetpointCheck(CARD)
    check.restart(standing)
    for k, q in enumerate(positions):
        check.check((k + 1) * TICK, np.asarray(q, float))
    return check


def test_a_smooth_motion_is_clean():
    check = judge([wave(k) for k in range(200)])
    assert sum(check.violations.values()) == 0
    assert 0 < check.worst["velocity"] < 1
    assert 0 < check.worst["acceleration"] < 1


def step_at(size, joint=0):
    q = [HOME.copy() for _ in range(20)]
    for k in range(10, 20):
        q[k][joint] += size
    return q


@pytest.mark.parametrize(
    ("positions", "kind"),
    [
        (step_at(CARD.joints.limit("max_velocity")[0] * CARD.tick_s * 1.01), "velocity"),
        (step_at(CARD.joints.limit("max_acceleration")[0] * CARD.tick_s**2 * 1.01), "acceleration"),
        (step_at(CARD.joints.limit("max_jerk")[0] * CARD.tick_s**3 * 1.01), "jerk"),
        ([HOME, np.where(np.arange(len(HOME)) == 0, 3.0, HOME)], "position"),
        ([HOME + np.eye(len(HOME))[0] * 0.2], "jump"),
        ([HOME, HOME * np.nan], "non_finite"),
    ],
)
def test_each_kind_of_violation_is_found(positions, kind):
    assert judge(positions).violations[kind] > 0


def test_just_inside_each_limit_nothing_is_found():
    """Control of the test above: 1 % less is not a violation."""
    for kind, power in (("velocity", 1), ("acceleration", 2), ("jerk", 3)):
        size = CARD.joints.limit(f"max_{kind}")[0] * CARD.tick_s**power * 0.99
        order = {"velocity": 1, "acceleration": 2, "jerk": 3}[kind]
        # An impulse in the difference of that order sums to a polynomial; count only the order in question.
        q = [HOME.copy() for _ in range(12)]
        ramp = np.zeros(12)
        ramp[6] = size
        for _ in range(order - 1):
            ramp = np.cumsum(ramp)
        path = np.cumsum(ramp)
        for k in range(12):
            q[k][0] += path[k]
        assert judge(q).violations[kind] == 0


def test_time_that_does_not_advance_is_found():
    check = SetpointCheck(CARD)
    check.restart(HOME)
    assert check.check(TICK, HOME) == []
    assert check.check(TICK, HOME) == ["order"]


def stream(controller, n, *, phase_ns=3_000_000, lookahead=3, lateness=None, skip=()):
    """A sender on its grid and a controller on another phase of the same rate; ``lateness[k]`` in ns."""
    played = []
    pending = []
    for k in range(n):
        late = 0 if lateness is None else lateness[k]
        if k not in skip:
            pending.append((k * TICK + late, setpoint((k + lookahead) * TICK, wave(k))))
    for j in range(n):
        now = j * TICK + phase_ns
        for at, record in [p for p in pending if p[0] <= now]:
            controller.receive(record, now)
            pending.remove((at, record))
        played.append(controller.play(now, now).copy())
    return np.array(played)


def fresh(watchdog_s=0.15):
    controller = RobotController(CARD, watchdog_s=watchdog_s)
    controller.reset(HOME)
    return controller


def test_the_played_path_is_the_sent_path_delayed_by_nothing():
    controller = fresh()
    played = stream(controller, 150)
    # Setpoint k is for (k + 3) ticks; the controller at 0.3 tick after j lies between setpoints j - 3 and j - 2.
    expected = np.array([wave(j - 3) + 0.3 * (wave(j - 2) - wave(j - 3)) for j in range(3, 150)])
    np.testing.assert_allclose(played[3:], expected, atol=1e-12)
    assert controller.missing == controller.check.violations["velocity"] == 0


@given(st.lists(st.integers(0, 19_000_000), min_size=120, max_size=120), st.integers(0, 9_999_999))
@settings(max_examples=25, deadline=None)
def test_a_sender_up_to_two_ticks_late_leaves_no_gap(lateness, phase_ns):
    lateness = np.maximum.accumulate(np.array(lateness) + np.arange(120) * TICK) - np.arange(120) * TICK
    controller = fresh()
    stream(controller, 120, lateness=[int(x) for x in np.minimum(lateness, 19_000_000)], phase_ns=phase_ns)
    assert controller.missing == 0
    assert sum(controller.check.violations.values()) == 0


def test_a_sender_four_ticks_late_does_leave_a_gap():
    """Control: the lookahead is finite, and the robot notices."""
    lateness = [40_000_000 if 60 <= k < 65 else 0 for k in range(120)]
    controller = fresh()
    stream(controller, 120, lateness=lateness)
    assert controller.missing > 0
    assert controller.gaps >= 1
    assert not controller.fault


def test_silence_brakes_within_the_acceleration_limit_and_latches():
    controller = fresh(watchdog_s=0.1)
    played = stream(controller, 100, skip=range(30, 100))
    speed = np.diff(played[:, 0]) / CARD.tick_s
    limit = CARD.joints.limit("max_acceleration")[0] * CARD.tick_s
    assert np.abs(np.diff(speed)).max() <= limit * (1 + 1e-9)
    assert speed[-1] == 0
    assert controller.fault
    assert controller.watchdog_stops == 1
    controller.receive(setpoint(200 * TICK, HOME), 197 * TICK)
    assert np.array_equal(controller.play(200 * TICK, 200 * TICK), played[-1])
    controller.recover()
    assert not controller.fault


def test_a_stream_that_ends_on_purpose_is_no_gap():
    controller = fresh(watchdog_s=0.1)
    stream(controller, 50)
    missing = controller.missing
    controller.receive(setpoint(60 * TICK, HOME, FLAG_END), 55 * TICK)
    for j in range(60, 120):
        controller.play(j * TICK, j * TICK)
    assert controller.missing == missing
    assert not controller.fault
