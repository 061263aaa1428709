"""References of the experts are smooth, capped, and follow what is measured."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from robopolicy.sim.tasks.reference_motion import MotionLimits, MotionReference, cap, clip, nearest_angle

DT_S = 0.05
DT_NS = 50_000_000
LIMITS = MotionLimits()


def down(yaw_rad):
    return axis_angle_to_matrix(np.array([0.0, 0.0, yaw_rad])) @ np.diag([1.0, -1.0, -1.0])


def drive(limits, seed, steps=40):
    """Knots of a reference that is sent about at random, measured where it wanted to be: positions, rotations."""
    rng, reference = np.random.default_rng(seed), MotionReference(limits, DT_S)
    position, rotation = np.array([0.4, 0.0, 0.2]), down(0.3)
    knots = []
    for k in range(steps):
        move, turn = rng.uniform(-0.5, 0.5, 3), rng.uniform(-1.5, 1.5, 3)
        positions, rotations = reference.spatial(k * DT_NS, position, rotation, move, turn)
        knots.append((positions, rotations))
        position, rotation = positions[0], rotations[0]
    return knots


def largest(knots):
    """Largest speed (m/s), acceleration (m/s^2), turning rate (rad/s) and its change (rad/s^2) between knots."""
    p = np.array([positions[0] for positions, _ in knots])
    r = np.array([rotations[0] for _, rotations in knots])
    velocity = np.diff(p, axis=0) / DT_S
    rate = np.array([matrix_to_axis_angle(b @ a.T) for a, b in itertools.pairwise(r)]) / DT_S
    rows = (velocity, np.diff(velocity, axis=0) / DT_S, rate, np.diff(rate, axis=0) / DT_S)
    return [float(np.linalg.norm(row, axis=1).max()) for row in rows]


@given(st.integers(0, 10_000))
def test_speed_and_acceleration_are_capped(seed):
    # measured without lag, the leak adds leak * lag * velocity per step
    limits = MotionLimits(leak=0.0)
    most = (limits.speed_m_s, limits.acceleration_m_s2, limits.yaw_speed_rad_s, limits.yaw_acceleration_rad_s2)
    assert all(value <= bound * (1 + 1e-6) for value, bound in zip(largest(drive(limits, seed)), most, strict=True))


def test_the_caps_are_what_holds_it_back():
    loose = MotionLimits(leak=0.0, speed_m_s=9, acceleration_m_s2=99, yaw_speed_rad_s=9, yaw_acceleration_rad_s2=99)
    bounds = (LIMITS.speed_m_s, LIMITS.acceleration_m_s2, LIMITS.yaw_speed_rad_s, LIMITS.yaw_acceleration_rad_s2)
    assert all(value > bound for value, bound in zip(largest(drive(loose, 0)), bounds, strict=True))


def test_it_arrives_and_stays():
    reference, position, yaw = MotionReference(LIMITS, DT_S), np.array([0.4, 0.1, 0.2]), 0.5
    goal, goal_yaw = np.array([0.6, -0.1, 0.1]), -1.0
    for k in range(80):
        positions, yaws = reference.planar(k * DT_NS, position, yaw, goal - position, goal_yaw - yaw)
        position, yaw = positions[0], yaws[0]
    assert position == pytest.approx(goal, abs=1e-3)
    assert yaw == pytest.approx(goal_yaw, abs=1e-3)


def test_full_rotations_and_yaws_agree():
    planar, spatial = MotionReference(LIMITS, DT_S), MotionReference(LIMITS, DT_S)
    rng = np.random.default_rng(3)
    position, yaw = np.array([0.4, 0.1, 0.2]), 0.2
    for k in range(30):
        move, turn = rng.uniform(-0.2, 0.2, 3), rng.uniform(-0.8, 0.8)
        positions, yaws = planar.planar(k * DT_NS, position, yaw, move, turn)
        same, rotations = spatial.spatial(k * DT_NS, position, down(yaw), move, np.array([0.0, 0.0, turn]))
        assert np.allclose(positions, same, atol=1e-12)
        assert np.allclose(rotations, [down(y) for y in yaws], atol=1e-6)
        # what is measured is not quite what was asked for
        position, yaw = positions[0] + rng.normal(0, 0.002, 3), yaws[0] + rng.normal(0, 0.01)


def test_the_second_knot_goes_on_with_the_same_acceleration():
    reference = MotionReference(MotionLimits(leak=0.0), DT_S)
    start, move = np.array([0.4, 0.0, 0.2]), np.array([0.5, 0.0, 0.0])
    first, _ = reference.planar(0, start, 0.0, move, 0.0)
    second, _ = reference.planar(DT_NS, first[0], 0.0, move, 0.0)
    assert second[0] == pytest.approx(first[1], abs=1e-12)  # still speeding up: it does what it said


def test_it_takes_over_a_share_of_a_disturbance():
    def after(leak, shift_m):
        reference = MotionReference(MotionLimits(leak=leak, lag_s=0.0), DT_S)
        reference.planar(0, np.zeros(3), 0.0, np.zeros(3), 0.0)
        pushed = np.array([shift_m, 0, 0])
        return [reference.planar((1 + k) * DT_NS, pushed, 0.0, np.zeros(3), 0.0)[0][0, 0] for k in range(60)]

    assert after(0.25, 0.02)[0] == pytest.approx(0.005)
    assert after(0.25, 0.02)[-1] == pytest.approx(0.02, abs=1e-4)
    assert after(0.0, 0.02)[-1] == 0.0


def test_it_begins_anew_when_time_does_not_follow():
    reference, far = MotionReference(LIMITS, DT_S), np.array([1.0, 0.0, 0.0])
    for k in range(10):
        reference.planar(k * DT_NS, np.zeros(3), 0.0, far, 1.0)
    fresh = MotionReference(LIMITS, DT_S).planar(0, np.zeros(3), 0.0, far, 1.0)
    again = reference.planar(0, np.zeros(3), 0.0, far, 1.0)
    assert np.array_equal(fresh[0], again[0])
    assert fresh[1] == again[1]
    going = reference.planar(DT_NS, np.zeros(3), 0.0, far, 1.0)
    assert not np.array_equal(fresh[0], going[0])


def test_small_parts():
    assert cap(np.array([3.0, 4.0]), 1.0) == pytest.approx([0.6, 0.8])
    assert cap(np.array([0.3, 0.4]), 1.0) == pytest.approx([0.3, 0.4])
    assert (clip(2.0, 1.0), clip(-2.0, 1.0), clip(0.5, 1.0)) == (1.0, -1.0, 0.5)
    assert nearest_angle(3 * np.pi / 2) == pytest.approx(-np.pi / 2)
    assert nearest_angle(1.0, np.pi / 2) == pytest.approx(1.0 - np.pi / 2)
