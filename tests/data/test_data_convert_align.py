"""Resampling rules against brute force: nothing from the future, nothing older than needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from robopolicy.data.convert.align import choose, interpolate, ordered, row_times, slerp
from robopolicy.errors import DataError

STAMPS = st.lists(st.integers(0, 10_000), min_size=1, max_size=40, unique=True).map(sorted).map(np.array)


@settings(max_examples=100, deadline=None)
@given(STAMPS, st.lists(st.integers(0, 12_000), min_size=1, max_size=30))
def test_last_is_the_newest_that_is_not_from_the_future(stamps, rows):
    rows = np.array(sorted(max(r, int(stamps[0])) for r in rows))
    choice = choose(stamps, rows, "last")
    for row, chosen in zip(rows, choice.stamp_ns, strict=True):
        assert chosen == max(s for s in stamps if s <= row)
    np.testing.assert_array_equal(choice.age_ns, rows - choice.stamp_ns)


def test_nearest_and_next_are_seen_as_wrong():
    """What a careless rule would pick: the check of this room tells them apart."""
    stamps, rows = np.array([0, 40, 100]), np.array([35, 39, 75])
    choice = choose(stamps, rows, "last")
    assert (choice.stamp_ns <= rows).all()
    nearest = stamps[np.abs(stamps[None] - rows[:, None]).argmin(axis=1)]
    following = stamps[np.searchsorted(stamps, rows)]
    assert (nearest > rows).any()
    assert (following > rows).any()
    assert (choice.stamp_ns != nearest).any()


@settings(max_examples=60, deadline=None)
@given(STAMPS, st.integers(1, 500))
def test_step_end_looks_exactly_one_step_ahead(stamps, step):
    rows = np.arange(int(stamps[0]), int(stamps[-1]) + 1, step)
    choice = choose(stamps, rows, "step_end", step)
    for row, chosen in zip(rows, choice.stamp_ns, strict=True):
        assert chosen == max(s for s in stamps if s <= row + step)


def test_interpolation_is_exact_on_lines_and_meets_samples():
    stamps = np.array([0, 10, 30, 60])
    values = np.stack([stamps * 2.0, 5 - stamps], axis=1)
    rows = np.arange(0, 61)
    choice = choose(stamps, rows, "interpolate")
    np.testing.assert_allclose(interpolate(values, choice), np.stack([rows * 2.0, 5 - rows], axis=1), atol=1e-12)
    at = choose(stamps, stamps, "interpolate")
    np.testing.assert_array_equal(interpolate(values, at), values)
    assert at.age_ns.tolist() == [0] * 4
    assert choice.age_ns.max() == 29, "the farther neighbour counts"


def test_slerp_agrees_with_scipy_whatever_the_sign():
    rng = np.random.default_rng(0)
    stamps = np.array([0, 7, 20, 33])
    turns = Rotation.random(4, random_state=1)
    quaternions = turns.as_quat()[:, [3, 0, 1, 2]] * rng.choice([-1, 1], (4, 1))
    rows = np.arange(34)
    found = slerp(quaternions, choose(stamps, rows, "interpolate"))
    np.testing.assert_allclose(found, Slerp(stamps, turns)(rows).as_matrix(), atol=1e-12)


def test_equal_neighbours_and_zero_quaternions():
    same = np.tile([0.5, 0.5, 0.5, 0.5], (2, 1))
    choice = choose(np.array([0, 10]), np.arange(11), "interpolate")
    assert np.isfinite(slerp(same, choice)).all()
    with pytest.raises(DataError, match="no direction"):
        slerp(np.zeros((2, 4)), choice)


def test_order_is_by_stamp_and_the_last_of_equal_stamps_counts():
    order, backwards = ordered(np.array([5, 3, 9, 9, 1]))
    assert order.tolist() == [4, 1, 0, 3]
    assert backwards == 2


def test_rows_fill_the_common_time_or_say_that_there_is_none():
    rows = row_times(100, 100 + 1_000_000_000, 10)
    assert len(rows) == 11
    assert (rows[0], rows[-1]) == (100, 100 + 1_000_000_000)
    assert len(row_times(5, 5, 10)) == 1
    with pytest.raises(DataError, match="no time in common"):
        row_times(2_000_000_000, 0, 10)


def test_rows_outside_the_samples_are_refused():
    stamps = np.array([10, 20])
    with pytest.raises(DataError, match="before the first sample"):
        choose(stamps, np.array([9]), "last")
    with pytest.raises(DataError, match="after the last sample"):
        choose(stamps, np.array([21]), "interpolate")
    with pytest.raises(DataError, match="unknown resampling rule"):
        choose(stamps, np.array([15]), "nearest")
    with pytest.raises(DataError, match="no samples"):
        choose(np.empty(0, np.int64), np.array([15]), "last")
