"""Rotations against scipy and as round trips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robopolicy import rotations as r


def random_matrices(seed: int, n: int = 50) -> np.ndarray:
    return Rotation.random(n, random_state=seed).as_matrix()


@given(st.integers(0, 10_000))
def test_conversions_agree_with_scipy(seed):
    m = random_matrices(seed, 8)
    reference = Rotation.from_matrix(m)
    wxyz = np.roll(reference.as_quat(), 1, axis=-1)
    wxyz = np.where(wxyz[:, :1] < 0, -wxyz, wxyz)
    np.testing.assert_allclose(r.matrix_to_quaternion(m), wxyz, atol=1e-9)
    np.testing.assert_allclose(r.quaternion_to_matrix(wxyz), m, atol=1e-9)
    np.testing.assert_allclose(r.matrix_to_axis_angle(m), reference.as_rotvec(), atol=1e-7)
    np.testing.assert_allclose(r.axis_angle_to_matrix(reference.as_rotvec()), m, atol=1e-9)
    np.testing.assert_allclose(r.rotation_6d_to_matrix(r.matrix_to_rotation_6d(m)), m, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, np.pi - 1e-6, np.pi])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.0, 0.8)])
def test_small_and_half_turn_angles(angle, axis):
    vector = np.array(axis) * angle
    matrix = r.axis_angle_to_matrix(vector)
    np.testing.assert_allclose(matrix, Rotation.from_rotvec(vector).as_matrix(), atol=1e-9)
    assert np.linalg.norm(r.matrix_to_axis_angle(matrix)) == pytest.approx(angle, abs=1e-7)


def test_six_d_is_orthonormalised_whatever_its_scale():
    m = random_matrices(0, 5)
    noisy = r.matrix_to_rotation_6d(m) * 3.0
    np.testing.assert_allclose(r.rotation_6d_to_matrix(noisy), m, atol=1e-9)


def test_degenerate_six_d_is_not_finite_so_that_it_is_refused():
    assert not np.isfinite(r.rotation_6d_to_matrix(np.zeros(6))).all()
    assert not np.isfinite(r.rotation_6d_to_matrix(np.array([1.0, 0, 0, 2.0, 0, 0]))).all()


def test_geodesic_distance():
    m = random_matrices(3, 20)
    turn = r.axis_angle_to_matrix(np.array([0.0, 0.3, 0.0]))
    np.testing.assert_allclose(r.geodesic_distance(m, m @ turn), 0.3, atol=1e-9)
    np.testing.assert_allclose(r.geodesic_distance(m, m), 0.0, atol=1e-7)
