"""Temporal ensembling: which predictions are averaged, in what order they weigh, and that it holds no other state."""

import numpy as np
import pytest

from robopolicy.control.ensemble import Ensemble, ensemble_weights
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, ShapeError
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d
from robopolicy.types import ActionChunk

CARD = load_embodiment("panda")
DT = round(CARD.control_dt_s * 1e9)
ROTATION = CARD.action.select("ee_rotation")


def pose(x, angle=0.0, gripper=0.0):
    value = np.zeros(len(CARD.action))
    value[0], value[-1] = x, gripper
    value[ROTATION] = matrix_to_rotation_6d(axis_angle_to_matrix(np.array([0.0, 0.0, angle])))
    return value


def chunk(step, values, valid=None):
    return ActionChunk(np.stack(values), round(step * DT), CARD.control_dt_s, CARD.hash, valid=valid, horizon=2)


def test_each_time_is_the_mean_of_all_that_speak_of_it_as_in_act():
    """Counter values: a row of the chunk of step s for time t is 10 s + t, so every index can be read off."""
    ensemble = Ensemble(CARD, decay=0.5)
    for step in range(4):
        merged = ensemble.merge(chunk(step, [pose(10.0 * step + step + k) for k in range(1, 4)]))
    # time 4 is in the chunks of steps 1, 2 and 3; 5 in those of 2 and 3; 6 only in the last
    for row, (time, steps) in enumerate([(4, (1, 2, 3)), (5, (2, 3)), (6, (3,))]):
        weights = np.exp(-0.5 * np.arange(len(steps)))
        expected = (weights * [10.0 * s + time for s in steps]).sum() / weights.sum()
        assert merged.values[row, 0] == pytest.approx(expected)
    assert merged.t0_ns == 3 * DT
    assert merged.horizon == 2
    assert len(ensemble) == 3  # the first has nothing left to say


def test_the_order_of_the_weights_is_a_parameter():
    old, new = ensemble_weights(3, 1.0), ensemble_weights(3, 1.0, oldest_first=False)
    np.testing.assert_allclose(old, np.exp([0, -1, -2]) / np.exp([0, -1, -2]).sum())
    np.testing.assert_allclose(new, old[::-1])
    assert old[0] > old[-1]
    np.testing.assert_allclose(ensemble_weights(4, 0.0), 0.25)
    found = {}
    for oldest_first in (True, False):
        ensemble = Ensemble(CARD, 3.0, oldest_first=oldest_first)
        ensemble.merge(chunk(0, [pose(0.0)] * 3))
        found[oldest_first] = ensemble.merge(chunk(1, [pose(1.0)] * 3)).values[0, 0]
    assert found[True] < 0.1 < 0.9 < found[False]


def test_rotations_stay_rotations_and_grippers_are_averaged():
    ensemble = Ensemble(CARD, 0.0)
    ensemble.merge(chunk(0, [pose(0.0, -0.6, 0.0)] * 3))
    merged = ensemble.merge(chunk(1, [pose(0.2, 1.0, 1.0)] * 3)).values[0]
    x, y = merged[ROTATION[:3]], merged[ROTATION[3:]]
    assert (np.linalg.norm(x), np.linalg.norm(y), abs(x @ y)) == pytest.approx((1, 1, 0), abs=1e-9)
    assert np.arctan2(x[1], x[0]) == pytest.approx(0.2)
    assert merged[0] == pytest.approx(0.1)
    assert merged[-1] == pytest.approx(0.5)
    plain = 0.5 * (pose(0, -0.6) + pose(0, 1.0))[ROTATION[:3]]
    assert np.linalg.norm(plain) < 0.8  # control: without making them orthonormal


def test_opposite_rotations_do_not_become_nonsense():
    ensemble = Ensemble(CARD, 0.1)
    ensemble.merge(chunk(0, [pose(0.0, 0.0)] * 3))
    merged = ensemble.merge(chunk(1, [pose(0.0, np.pi)] * 3)).values[0]
    np.testing.assert_allclose(merged[ROTATION], pose(0.0, 0.0)[ROTATION], atol=1e-6)  # the heaviest stays


def test_times_between_two_knots_are_interpolated():
    ensemble = Ensemble(CARD, 0.0)
    ensemble.merge(chunk(0, [pose(float(k)) for k in range(1, 6)]))
    merged = ensemble.merge(chunk(1.25, [pose(0.0)] * 3))
    assert merged.values[:, 0] == pytest.approx([(k + 2.25) / 2 for k in range(3)], abs=1e-6)


def test_what_is_not_valid_says_nothing_and_strangers_are_refused():
    ensemble = Ensemble(CARD, 0.0)
    ensemble.merge(chunk(0, [pose(np.nan)] * 2 + [pose(5.0)], valid=[True, False, True]))
    merged = ensemble.merge(chunk(0, [pose(1.0)] * 3))
    assert merged.values[:, 0] == pytest.approx([1.0, 1.0, 3.0])
    ensemble.begin()
    assert ensemble.merge(chunk(0, [pose(1.0)] * 3)).values[2, 0] == 1.0
    with pytest.raises(ShapeError, match="another robot"):
        ensemble.merge(ActionChunk(np.zeros((2, 10)), 0, CARD.control_dt_s, "other"))
    with pytest.raises(ConfigError, match="0 or more"):
        Ensemble(CARD, -1.0)


def test_joints_are_averaged_as_they_are():
    aloha = load_embodiment("aloha")
    ensemble, width = Ensemble(aloha, 0.0), len(aloha.action)
    values = np.linspace(0, 1, width)
    ensemble.merge(ActionChunk(np.stack([values] * 3), 0, aloha.control_dt_s, aloha.hash))
    merged = ensemble.merge(ActionChunk(np.stack([3 * values] * 3), 0, aloha.control_dt_s, aloha.hash))
    np.testing.assert_allclose(merged.values[0], 2 * values)
