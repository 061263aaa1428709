"""Planes, boxes and spheres: no request brings any part of the arm nearer than allowed, and stopping stays possible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.clearance import ClearanceConfig, ClearanceGuard
from robopolicy.control.kinematics import Kinematics
from robopolicy.control.limiter import SafetyLimiter
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError
from robopolicy.types import RobotState

CARD = load_embodiment("panda")
JOINTS = [link.joint for link in CARD.chain]
SPHERES = (
    *tuple(
        {"name": f"link{i}", "joint": joint, "position_m": [0.0, 0.0, 0.0], "radius_m": 0.06}
        for i, joint in enumerate(JOINTS)
    ),
    {"name": "hand", "joint": JOINTS[-1], "position_m": [0.0, 0.0, 0.15], "radius_m": 0.06},
)
ABOVE = {"normal": [0, 0, 1], "offset_m": 0.12}
WALL = {"lower_m": [0.60, -1.0, 0.0], "upper_m": [0.9, 1.0, 1.0]}


def limiter(**parts):
    return SafetyLimiter(CARD, None, None, {"": ClearanceConfig(spheres=SPHERES, **parts)})


def state(q):
    return RobotState(0, np.asarray(q, float), np.zeros(len(CARD.joints)))


def drive(made, requests, ticks=60):
    """Run jumps as requests; -> positions sent."""
    sent = []
    time = 0
    for request in requests:
        for _ in range(ticks):
            time += 1
            here = RobotState(time, made.command, np.zeros(len(CARD.joints)))
            q, verdict = made.apply(request, here, CARD.tick_s)
            assert verdict.fault is None
            sent.append(q)
    return np.array(sent)


def random_requests(seed, count=4):
    rng = np.random.default_rng(seed)
    return rng.uniform(CARD.joints.lower, CARD.joints.upper, size=(count, len(CARD.joints)))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_no_sequence_of_requests_enters_what_is_guarded(seed):
    parts = {"planes": (ABOVE,), "boxes": (WALL,), "pairs": (("hand", "link1"),)}
    made = limiter(**parts)
    guard = ClearanceGuard(Kinematics(CARD), ClearanceConfig(spheres=SPHERES, **parts), [1.0] * 7, [1.0] * 7)
    arm = Kinematics(CARD).arm
    start = guard.nearest(CARD.home_position[arm])
    sent = drive(made, random_requests(seed))
    nearest = min(guard.nearest(q[arm]) for q in sent[::3])
    assert nearest >= min(start, 0.0) - 1e-9


def test_without_the_guard_the_same_requests_do_enter():
    guard = ClearanceGuard(Kinematics(CARD), ClearanceConfig(spheres=SPHERES, planes=(ABOVE,)), [1.0] * 7, [1.0] * 7)
    arm = Kinematics(CARD).arm
    free = SafetyLimiter(CARD)
    found = [min(guard.nearest(q[arm]) for q in drive(free, random_requests(seed))) for seed in range(5)]
    assert min(found) < -0.02


def test_the_limits_hold_while_it_is_kept_clear():
    made = limiter(planes=(ABOVE,), boxes=(WALL,))
    sent = drive(made, random_requests(3))
    steps = np.diff(np.vstack([CARD.home_position, CARD.home_position, CARD.home_position, sent]), axis=0) / CARD.tick_s
    acceleration = np.diff(steps, axis=0) / CARD.tick_s
    jerk = np.diff(acceleration, axis=0) / CARD.tick_s
    assert (np.abs(steps) <= made.max_velocity * (1 + 1e-6)).all()
    assert (np.abs(acceleration) <= made.max_acceleration * (1 + 1e-6)).all()
    assert (np.abs(jerk) <= made.max_jerk * (1 + 1e-4)).all()


def test_a_start_inside_may_leave_but_go_no_deeper():
    high = {"normal": [0, 0, 1], "offset_m": 0.55}
    made = limiter(planes=(high,))
    arm = Kinematics(CARD).arm
    guard = ClearanceGuard(Kinematics(CARD), ClearanceConfig(spheres=SPHERES, planes=(high,)), [1.0] * 7, [1.0] * 7)
    start = guard.nearest(CARD.home_position[arm])
    assert start < 0
    sent = drive(made, random_requests(5))
    assert min(guard.nearest(q[arm]) for q in sent) >= start - 1e-6


def test_the_verdict_says_clearance():
    made = limiter(planes=(ABOVE,))
    down = CARD.home_position.copy()
    down[1] += 1.2
    words = set()
    for time in range(1, 201):
        _, verdict = made.apply(down, RobotState(time, made.command, np.zeros(8)), CARD.tick_s)
        words |= set(verdict.clipped)
    assert "clearance" in words


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"spheres": ({"name": "a", "joint": "elbw", "position_m": [0, 0, 0], "radius_m": 0.1},)}, "on no link"),
        ({"pairs": (("hand", "hnd"),)}, "no such sphere"),
        ({"planes": ({"normal": [0, 0, 0], "offset_m": 0.0},)}, "no length"),
        ({"boxes": ({"lower_m": [0, 0, 0], "upper_m": [0, 1, 1]},)}, "empty"),
        ({"boxes": ({"lower_m": [0, 0], "upper_m": [0, 1, 1]},)}, "three finite"),
    ],
)
def test_nonsense_is_refused(parts, says):
    config = ClearanceConfig(**{"spheres": SPHERES, "planes": (ABOVE,), **parts})
    with pytest.raises(ConfigError, match=says):
        SafetyLimiter(CARD, None, None, {"": config})
