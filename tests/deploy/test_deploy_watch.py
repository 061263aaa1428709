"""Faults of following, force and being kept back: each asks for persistence, and a healthy lag is none of them."""

import numpy as np
import pytest

from robopolicy.control.verdict import Limit
from robopolicy.deploy.watch import Watch, WatchConfig
from robopolicy.embodiment import load_embodiment

CARD = load_embodiment("panda")
TICK_S = 0.01
HOME = CARD.home_position


class Feeling:
    def __init__(self, force_n):
        self.force_n = force_n

    def wrench(self):
        return np.array([0.0, 0.0, self.force_n, 0.0, 0.0, 0.0])


def run(watch, ticks, command, measured, driver=None, clipped=False):
    """Ticks until something is found. -> (its number, what), or None."""
    for k in range(ticks):
        found = watch.check(command(k), measured(k), driver, clipped)
        if found is not None:
            return k, found
    return None


def moved(joint, value):
    position = HOME.copy()
    position[joint] += value
    return position


def test_a_joint_that_stands_while_it_is_sent_on_is_a_fault():
    found = run(Watch(CARD, TICK_S), 400, lambda k: moved(2, 0.01 * k), lambda k: HOME)
    assert found is not None
    tick, (why, limit) = found
    assert limit is Limit.FOLLOWING
    assert "joint3 does not follow" in why
    # 0.2 rad and the window of 0.3 s, then 0.2 s of patience
    assert 60 <= tick <= 80


def test_an_arm_that_lags_by_a_quarter_of_a_second_follows():
    lagged = lambda k: moved(2, 0.3 * np.sin(0.05 * max(k - 25, 0)))  # noqa: E731
    assert run(Watch(CARD, TICK_S), 800, lambda k: moved(2, 0.3 * np.sin(0.05 * k)), lagged) is None


def test_a_gripper_that_holds_something_is_no_fault():
    gripper = CARD.joints.names.index(CARD.gripper)
    assert run(Watch(CARD, TICK_S), 400, lambda k: moved(gripper, -1.0), lambda k: HOME) is None


def test_one_bad_sample_is_noise():
    measured = lambda k: moved(0, 1.0) if k % 10 == 0 else HOME  # noqa: E731
    assert run(Watch(CARD, TICK_S), 400, lambda k: HOME, measured) is None


def test_a_force_that_lasts_is_a_fault_and_one_without_a_cap_is_not():
    config = WatchConfig(force_n=20.0)
    still = lambda k: HOME  # noqa: E731
    found = run(Watch(CARD, TICK_S, config), 50, still, still, Feeling(25.0))
    assert found is not None
    assert found[1][1] is Limit.FORCE
    assert run(Watch(CARD, TICK_S, config), 50, still, still, Feeling(15.0)) is None
    assert run(Watch(CARD, TICK_S), 50, still, still, Feeling(500.0)) is None


def test_a_force_that_is_not_a_number_is_a_fault():
    still = lambda k: HOME  # noqa: E731
    assert run(Watch(CARD, TICK_S, WatchConfig(force_n=20.0)), 50, still, still, Feeling(np.nan)) is not None


@pytest.mark.parametrize(("seconds", "after"), [(1.0, 100), (0.0, None)])
def test_being_kept_back_without_end_is_a_fault_unless_switched_off(seconds, after):
    still = lambda k: HOME  # noqa: E731
    found = run(Watch(CARD, TICK_S, WatchConfig(clipped_s=seconds)), 500, still, still, clipped=True)
    assert (None if found is None else found[0]) == after


def test_a_new_stream_begins_anew():
    watch, still = Watch(CARD, TICK_S, WatchConfig(clipped_s=1.0)), lambda k: HOME
    assert run(watch, 90, still, still, clipped=True) is None
    watch.begin()
    assert run(watch, 90, still, still, clipped=True) is None
