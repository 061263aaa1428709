"""The trajectory clock: it only grows, never runs ahead, and remembers what time it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.pace import Arrivals, Pace
from robopolicy.errors import ConfigError

TICK_NS = 10_000_000
rates = st.floats(-1, 2, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(rates, rates, st.integers(0, 3)), min_size=1, max_size=80))
def test_path_time_grows_by_at_most_a_tick_and_is_remembered(moves):
    pace, wall, before = Pace(0.01), 10**12, 10**12
    seen = []
    for wanted, scale, missed in moves:
        wall += TICK_NS * (1 + missed)
        pace.wait(wall - TICK_NS, missed * TICK_NS)
        path = pace.advance(wall, wanted, scale)
        assert 0 < path - before <= TICK_NS
        before = path
        seen.append((wall, path))
    for wall, path in seen:
        assert pace.path_ns(wall) == path


def test_the_rate_changes_smoothly_and_comes_back():
    pace, wall = Pace(0.01), 0
    found = []
    for k in range(200):
        wall += TICK_NS
        pace.advance(wall, 0.0 if k < 100 else 1.0)
        found.append(pace.rate)
    assert np.abs(np.diff([1.0, *found])).max() <= 2.0 * 0.01 + 1e-12
    assert min(found) == pytest.approx(0.3)
    assert found[-1] == 1.0


def test_a_robot_that_slows_itself_down_slows_the_path():
    pace, wall = Pace(0.01), 0
    for _ in range(200):
        wall += TICK_NS
        pace.advance(wall, 1.0, 0.5)
    assert pace.rate == pytest.approx(0.5)


def test_a_chunk_is_seen_from_the_path_of_its_observation():
    pace = Pace(0.01)
    pace.advance(10 * TICK_NS)
    pace.wait(16 * TICK_NS, 5 * TICK_NS)
    # an observation of before the wait keeps its place on the path; one of now is as much later as the path has gone
    assert pace.path_ns(10 * TICK_NS) == 10 * TICK_NS
    assert pace.path_ns(20 * TICK_NS) == 15 * TICK_NS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 10**9))
def test_path_time_of_any_moment_never_goes_back(missed, seed):
    pace, wall = Pace(0.01), 10**12
    for count in missed:
        wall += TICK_NS * (1 + count)
        pace.wait(wall - TICK_NS, count * TICK_NS)
        pace.advance(wall)
    times = np.sort(np.random.default_rng(seed).integers(10**12, wall, 200))
    found = [pace.path_ns(int(t)) for t in times]
    assert (np.diff(found) >= 0).all()
    assert found[-1] <= pace.path_ns(wall)


def test_before_running_dry_the_path_slows_down_and_only_then():
    arrivals = Arrivals(0.05)
    for k in range(10):
        arrivals.arrived(k * 400_000_000)
    last = 9 * 400_000_000
    assert arrivals.expected_gap_s == pytest.approx(0.4)
    assert arrivals.wanted_rate(last + 100_000_000, 0.65) == 1.0
    assert arrivals.wanted_rate(last + 100_000_000, 0.2) == pytest.approx(0.2 / 0.35)
    # overdue: as much time again
    assert arrivals.wanted_rate(last + 800_000_000, 0.2) == pytest.approx(0.2 / 0.45)
    assert arrivals.wanted_rate(last + 800_000_000, 0.0) == 1.0


def test_one_slow_chunk_is_forgotten():
    arrivals = Arrivals(0.05)
    arrivals.arrived(1)
    arrivals.arrived(5_000_000_001)
    assert arrivals.expected_gap_s == pytest.approx(5.0)
    for k in range(1, 21):
        arrivals.arrived(5_000_000_001 + k * 400_000_000)
    assert arrivals.expected_gap_s == pytest.approx(0.4)


@pytest.mark.parametrize(("tick_s", "slowest"), [(0.0, 0.3), (0.01, 0.0), (0.01, 1.5)])
def test_nonsense_is_refused(tick_s, slowest):
    with pytest.raises(ConfigError, match="pace out of range"):
        Pace(tick_s, slowest=slowest)
