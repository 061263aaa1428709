"""Jerk-limited motion of one channel in discrete time: how to brake, how far that takes, how to reach a target.

Everything is in *tick units*: position in channel units, velocity ``v`` per tick, acceleration ``a`` per tick^2, jerk
per tick^3, so that ``a' = a + j;  v' = v + a';  p' = p + v'`` and the finite differences of the sent positions are
exactly ``v'``, ``a'`` and ``j``. ``A`` and ``J`` are the limits of ``|a|`` and ``|j|``.

The sum of a ramp that starts at acceleration ``x`` and falls by ``J`` each tick is ``S(x) = x + (x-J) + (x-2J) + ...``
(positive terms only). To stop from velocity ``v`` in the fewest ticks and to land on exactly zero, decelerate with
``min(A, S^-1(v))``: the ramp that follows uses up what is left. :func:`brake` is that law, and it is the one and only
certificate of safety: a state is *viable* when following :func:`brake` from it breaks no limit. Following it keeps a
state viable by construction, since the rest of a good braking motion is a good braking motion.

Scalars on purpose: for eight channels Python floats are faster than numpy.
"""

from __future__ import annotations

import math

__all__ = ["brake", "brake_extent", "brake_positions", "ramp_inverse", "ramp_rest", "reach_bound", "toward"]

_MAX_TICKS = 1_000_000


def ramp_rest(x: float, J: float) -> float:
    """``S(x) - x`` for x >= 0: velocity still gained while an acceleration ``x`` ramps down to zero."""
    n = int(x / J)
    return n * x - 0.5 * J * n * (n + 1)


def ramp_inverse(v: float, J: float) -> float:
    """``S^-1(v)`` for v >= 0: the strongest acceleration whose ramp sums to no more than ``v``."""
    n = int(0.5 * (math.sqrt(1.0 + 8.0 * v / J) - 1.0))
    return (v + 0.5 * J * n * (n + 1)) / (n + 1)


def brake(v: float, a: float, A: float, J: float) -> float:
    """Acceleration of the next tick on the fastest way to rest (v = 0 and a = 0, both exactly)."""
    if v > 0:
        wish = -min(A, ramp_inverse(v, J))
    elif v < 0:
        wish = min(A, ramp_inverse(-v, J))
    else:
        wish = 0.0
    if wish < a - J:
        return a - J
    if wish > a + J:
        return a + J
    return wish


def brake_extent(v: float, a: float, A: float, J: float) -> tuple[float, float, float]:
    """Displacement while braking from (v, a): (lowest <= 0, highest >= 0, final).

    Runs :func:`brake`, but takes three kinds of stretches in one go: ramping down an acceleration that still speeds the
    channel up, full deceleration, and the last ramp. Within each the position is monotone.
    """
    low = high = here = 0.0
    ramp = A + ramp_rest(A, J)
    while v != 0.0 or a != 0.0:
        if (a > J and v >= 0.0) or (a < -J and v <= 0.0):
            n = int(abs(a) / J)
            fall = J if a > 0 else -J
            here += n * v + 0.5 * n * (n + 1) * (a - fall * (n + 2) / 3.0)
            v += n * a - 0.5 * fall * n * (n + 1)
            a -= n * fall
        elif a == -A and v > ramp + A:
            n = int((v - ramp) / A)
            here += n * v - 0.5 * A * n * (n + 1)
            v -= n * A
        elif a == A and v < -ramp - A:
            n = int((-v - ramp) / A)
            here += n * v + 0.5 * A * n * (n + 1)
            v += n * A
        else:
            x = ramp_inverse(abs(v), J)
            wish = -x if v > 0 else x
            if x <= A and a - J <= wish <= a + J:
                # On the last ramp, and what follows is fixed: the accelerations x - iJ, i = 1 .. n.
                n = int(x / J)
                rest = abs(v) - x + 0.5 * n * (n - 1) * (x - J * (n + 1) * 2.0 / 3.0)
                here += rest if v > 0 else -rest
                return min(low, here), max(high, here), here
            a = brake(v, a, A, J)
            v += a
            here += v
        if here > high:
            high = here
        elif here < low:
            low = here
    return low, high, here


def brake_positions(p: float, v: float, a: float, A: float, J: float) -> list[float]:
    """Positions after each tick of braking from (p, v, a), the last one at rest; empty when already at rest."""
    positions: list[float] = []
    while not (v == 0.0 and a == 0.0) and len(positions) < _MAX_TICKS:
        a = brake(v, a, A, J)
        v += a
        p += v
        positions.append(p)
    return positions


def reach_bound(v: float, a: float, A: float, J: float) -> float:
    """Upper bound of ``brake_extent(v, a)[1]`` in closed form; mirror the signs for the lower side.

    The velocity peaks at ``v + ramp_rest(a)``. From peak velocity u at zero acceleration the continuous-time stop takes
    at most ``u^2 / 2A + u A / 2J`` (equal to the true value for a trapezoid, above it for a triangle by the inequality
    of the means); two ticks more cover sampling.
    """
    ticks = 0
    if a > 0:
        ticks = int(a / J) + 1
        v += ramp_rest(a, J)
    if v <= 0:
        return 0.0
    return v * (ticks + 2.0 + 0.5 * v / A + 0.5 * A / J)


def toward(
    error: float, v: float, a: float, w: float, A: float, J: float, lowest: float, highest: float, tolerance: float
) -> float:
    """Next acceleration that chases a target: as hard as possible while braking still ends on it.

    With ``x`` the acceleration sought, braking relative to the target's motion starts at velocity ``v + x - w`` and
    ends at offset ``F(x) = error + v + x + D(v + x - w, x)``; F grows with x, and its root lies on the braking curve.

    Args:
        error: Position now minus target position at the end of this tick.
        v, a: State now.
        w: Velocity of the target.
        A, J: Limits.
        lowest, highest: Admissible interval of the result.
        tolerance: Accepted \\|F\\|.
    """

    def offset(x: float) -> float:
        return error + v + x + brake_extent(v + x - w, x, A, J)[2]

    guess = min(max(brake(v - w, a, A, J), lowest), highest)
    f_guess = offset(guess)
    if abs(f_guess) <= tolerance:
        return guess
    if f_guess < 0:
        left, f_left, right, f_right = guess, f_guess, highest, offset(highest)
        if f_right <= 0:
            return highest
    else:
        left, f_left, right, f_right = lowest, offset(lowest), guess, f_guess
        if f_left >= 0:
            return lowest
    side = 0
    for _ in range(40):  # Illinois variant of the false position
        x = (left * f_right - right * f_left) / (f_right - f_left)
        f = offset(x)
        if abs(f) <= tolerance:
            return x
        if f < 0:
            left, f_left = x, f
            if side < 0:
                f_right *= 0.5
            side = -1
        else:
            right, f_right = x, f
            if side > 0:
                f_left *= 0.5
            side = 1
    return left
