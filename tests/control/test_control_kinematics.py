"""Forward kinematics against an independent DH product, the Jacobian against differences, IK round trips."""

from __future__ import annotations

import math

import numpy as np
import pytest
from control_panda import DH, HOME, RANGE

from robopolicy.control.kinematics import Kinematics, rotation_error
from robopolicy.embodiment import Embodiment
from robopolicy.rotations import axis_angle_to_matrix, geodesic_distance, matrix_to_axis_angle


@pytest.fixture(scope="module")
def kinematics(panda: Embodiment) -> Kinematics:
    return Kinematics(panda)


def configurations(rng: np.random.Generator, count: int) -> np.ndarray:
    low, high = np.array(RANGE).T
    return rng.uniform(low, high, (count, 7))


def tcp_by_dh(q: np.ndarray) -> np.ndarray:
    """Craig: Rot_x(alpha) Trans_x(a) Trans_z(d) Rot_z(theta), then flange 0.107, hand -45 deg, fingertips 0.1034."""
    pose = np.eye(4)
    for theta, (alpha, a, d) in zip(q, DH, strict=True):
        ct, st, ca, sa = math.cos(theta), math.sin(theta), math.cos(alpha), math.sin(alpha)
        pose = pose @ np.array(
            [
                [ct, -st, 0, a],
                [st * ca, ct * ca, -sa, -d * sa],
                [st * sa, ct * sa, ca, d * ca],
                [0, 0, 0, 1],
            ]
        )
    c = math.sqrt(0.5)
    return pose @ np.array([[c, c, 0, 0], [-c, c, 0, 0], [0, 0, 1, 0.2104], [0, 0, 0, 1]])


def test_forward_is_the_dh_product(kinematics: Kinematics, rng: np.random.Generator) -> None:
    for q in configurations(rng, 50):
        position, rotation = kinematics.forward(q)
        expected = tcp_by_dh(q)
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-12)
        np.testing.assert_allclose(rotation, expected[:3, :3], atol=1e-12)


def test_forward_at_zero_is_the_published_pose(kinematics: Kinematics) -> None:
    position, _ = kinematics.forward(np.zeros(7))
    np.testing.assert_allclose(position, [0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.2104], atol=1e-12)


def differences(kinematics: Kinematics, q: np.ndarray, step: float = 1e-6) -> np.ndarray:
    columns = []
    for i in range(7):
        ahead, behind = q.copy(), q.copy()
        ahead[i] += step
        behind[i] -= step
        (p1, r1), (p0, r0) = kinematics.forward(ahead), kinematics.forward(behind)
        columns.append(np.concatenate([p1 - p0, matrix_to_axis_angle(r1 @ r0.T)]) / (2 * step))
    return np.array(columns).T


def test_jacobian_is_the_derivative(kinematics: Kinematics, rng: np.random.Generator) -> None:
    for q in configurations(rng, 20):
        np.testing.assert_allclose(kinematics.jacobian(q), differences(kinematics, q), atol=1e-7)


def test_jacobian_check_notices_another_configuration(kinematics: Kinematics, rng: np.random.Generator) -> None:
    q = configurations(rng, 1)[0]
    assert np.abs(kinematics.jacobian(q + 0.01) - differences(kinematics, q)).max() > 1e-4


def test_batch_positions_equal_forward(kinematics: Kinematics, rng: np.random.Generator) -> None:
    q = configurations(rng, 30)
    np.testing.assert_allclose(kinematics.positions(q), [kinematics.forward(x)[0] for x in q], atol=1e-13)


def test_tcp_state_is_packed_by_name(kinematics: Kinematics, panda: Embodiment) -> None:
    joints = panda.home_position.copy()
    joints[kinematics.gripper] = 0.25
    named = panda.state.unpack(kinematics.tcp_state(joints))
    position, rotation = kinematics.forward(joints[kinematics.arm])
    assert [named[f"ee_position.{a}"] for a in "xyz"] == pytest.approx(position)
    assert [named[f"ee_rotation.{i}"] for i in range(6)] == pytest.approx([*rotation[:, 0], *rotation[:, 1]])
    assert named["gripper"] == 0.25


def test_reach_bounds_every_motion(kinematics: Kinematics, rng: np.random.Generator) -> None:
    a, b = configurations(rng, 200), configurations(rng, 200)
    moved = np.linalg.norm(kinematics.positions(a) - kinematics.positions(b), axis=1)
    assert (moved <= np.abs(a - b) @ kinematics.reach_m).all()
    assert (moved > np.abs(a - b) @ kinematics.reach_m * 0.01).any()


def test_solve_reaches_poses_from_nearby(kinematics: Kinematics, rng: np.random.Generator) -> None:
    for _ in range(30):
        goal = np.clip(np.array(HOME) + rng.uniform(-0.4, 0.4, 7), kinematics.lower, kinematics.upper)
        position, rotation = kinematics.forward(goal)
        solution = kinematics.solve(np.array(HOME), position, rotation, iterations=50)
        assert solution.converged
        reached, turned = kinematics.forward(solution.q_arm)
        assert np.linalg.norm(reached - position) < 2e-5
        assert geodesic_distance(turned, rotation) < 2e-4


def test_solve_says_so_when_out_of_reach(kinematics: Kinematics) -> None:
    _, rotation = kinematics.forward(np.array(HOME))
    solution = kinematics.solve(np.array(HOME), [2.0, 0.0, 0.5], rotation, iterations=80)
    assert not solution.converged
    assert solution.position_error_m > 0.5
    assert (solution.q_arm >= kinematics.lower).all()
    assert (solution.q_arm <= kinematics.upper).all()


def test_steps_never_leave_the_joint_range(kinematics: Kinematics, rng: np.random.Generator) -> None:
    for q in configurations(rng, 50):
        rotation = axis_angle_to_matrix(rng.normal(size=3))
        step = kinematics.solve_step(q, rng.normal(size=3), rotation, damping=1e-3)
        assert (step >= kinematics.lower).all()
        assert (step <= kinematics.upper).all()


def test_nullspace_pull_moves_the_elbow_and_not_the_hand(kinematics: Kinematics) -> None:
    bent = np.array(HOME) + np.array([0.5, 0.1, -0.5, 0.0, 0.1, 0.0, 0.1])
    position, rotation = kinematics.forward(bent)
    q = bent
    for _ in range(300):
        q = kinematics.solve_step(q, position, rotation, nullspace=0.02)
    reached, turned = kinematics.forward(q)
    assert np.linalg.norm(reached - position) < 1e-3
    assert geodesic_distance(turned, rotation) < 1e-2
    assert np.linalg.norm(q - HOME) < 0.9 * np.linalg.norm(bent - HOME)
    still = kinematics.solve_step(bent, position, rotation, nullspace=0.0)
    np.testing.assert_allclose(still, bent, atol=1e-12)


def test_error_clamp_shortens_the_step(kinematics: Kinematics) -> None:
    home = np.array(HOME)
    position, rotation = kinematics.forward(home)
    far = [position[0] + 0.2, position[1], position[2]]
    free = kinematics.solve_step(home, far, rotation)
    short = kinematics.solve_step(home, far, rotation, max_position_error_m=0.02)
    np.testing.assert_allclose(short - home, 0.1 * (free - home), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi - 1e-9, math.pi])
def test_rotation_error_turns_current_into_target(angle: float, rng: np.random.Generator) -> None:
    axis = rng.normal(size=3)
    current = axis_angle_to_matrix(rng.normal(size=3))
    target = axis_angle_to_matrix(axis / np.linalg.norm(axis) * angle) @ current
    error = rotation_error(target, current)
    assert np.linalg.norm(error) == pytest.approx(angle, abs=1e-6)
    assert geodesic_distance(axis_angle_to_matrix(error) @ current, target) < 1e-6
