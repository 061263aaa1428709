"""The braking law: exact rest, limits kept, closed forms equal to stepping."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.braking import brake, brake_extent, brake_positions, ramp_inverse, ramp_rest, reach_bound

SHARE = st.floats(-1.0, 1.0)
LIMITS = st.tuples(st.floats(0.03, 10.0), st.floats(0.03, 30.0), st.floats(0.1, 30.0)).map(
    lambda x: (x[0], x[0] * x[1], x[0] * x[1] * x[2])  # J, A, V in tick units
)


@settings(derandomize=True, deadline=None)
@given(v=st.floats(0.0, 1e4), J=st.floats(1e-3, 1e3))
def test_ramp_inverse_inverts_the_ramp_sum(v: float, J: float) -> None:
    x = ramp_inverse(v, J)
    assert math.isclose(x + ramp_rest(x, J), v, rel_tol=1e-9, abs_tol=1e-12)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(limits=LIMITS, v=SHARE, a=SHARE)
def test_brake_comes_to_exact_rest_within_limits(limits: tuple[float, float, float], v: float, a: float) -> None:
    J, A, V = limits
    v, a = v * V, a * A
    for _ in range(20_000):
        if v == 0.0 and a == 0.0:
            break
        following = brake(v, a, A, J)
        assert abs(following) <= A * (1 + 1e-12)
        assert abs(following - a) <= J * (1 + 1e-12)
        a = following
        v += a
    assert (v, a) == (0.0, 0.0)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(limits=LIMITS, v=SHARE, a=SHARE)
def test_extent_in_closed_form_equals_stepping(limits: tuple[float, float, float], v: float, a: float) -> None:
    J, A, V = limits
    v, a = v * V, a * A
    path = [0.0, *brake_positions(0.0, v, a, A, J)]
    low, high, final = brake_extent(v, a, A, J)
    scale = 1e-9 * max(J, high - low)
    assert abs(low - min(path)) <= scale
    assert abs(high - max(path)) <= scale
    assert abs(final - path[-1]) <= scale


@settings(max_examples=300, derandomize=True, deadline=None)
@given(limits=LIMITS, v=SHARE, a=SHARE)
def test_reach_bound_is_never_short(limits: tuple[float, float, float], v: float, a: float) -> None:
    J, A, V = limits
    v, a = v * V, a * A
    low, high, _ = brake_extent(v, a, A, J)
    assert reach_bound(v, a, A, J) >= high * (1 - 1e-12)
    assert reach_bound(-v, -a, A, J) >= -low * (1 - 1e-12)


def test_naive_braking_distance_is_short() -> None:
    """Control: v^2 / 2A, without the jerk, would not have been a bound."""
    J, A, v = 0.1, 1.0, 5.0
    assert v * v / (2 * A) < brake_extent(v, 0.0, A, J)[1]
