"""The scheduled future of the reference: chunks merged by absolute time, and the rules by which one is refused."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.config import ControlConfig
from robopolicy.control.curve import ActionLayout, Curve
from robopolicy.control.native import native
from robopolicy.control.splice import splice
from robopolicy.embodiment import Embodiment
from robopolicy.errors import NonFiniteError, explain
from robopolicy.types import ActionChunk

__all__ = ["REASONS", "ChunkSchedule", "MergeReport"]

REASONS = (
    *("embodiment", "width", "dt", "no_valid_rows", "non_finite", "out_of_order", "future", "stale", "past", "bounds"),
    *("rotation", "jump", "stopped", "fault"),
)
"""Why a chunk can be refused; the last two come from the executor."""

Array = NDArray[np.floating]

_NO_ROWS = np.zeros(0, np.int64), np.zeros((0, 0))

_MAX_TURN_RAD = 2.0
"""Between two neighbouring rotation knots; beyond it the 6-D form passes too near its singularity."""


class MergeReport(NamedTuple):
    """What became of a chunk.

    Attributes:
        accepted: It is now scheduled.
        reason: Why not, one of :data:`REASONS`; empty when accepted.
        dropped: Rows that were not used because they were past or marked invalid.
        jump: Distance between its first usable row and the path scheduled so far, as a share of the distance at which
            it is refused.
        jump_m: The same distance of the TCP in metres; 0 where actions are joints.
    """

    accepted: bool
    reason: str = ""
    dropped: int = 0
    jump: float = 0.0
    jump_m: float = 0.0


class ChunkSchedule:
    """Reference path of a robot, made of action chunks in absolute time.

    ``values[i]`` of a chunk is reached at ``t0 + (i + 1) dt``. The path begins at the reference given to :meth:`reset`
    and continues from wherever it is when a chunk is merged, so a chunk of one row and a chunk of sixteen are the same
    thing. A refused chunk leaves the schedule as it was.

    Attributes:
        curve: The path, another object after every chunk that is taken.

    Args:
        embodiment: Card of the robot.
        config: Tunables.
    """

    def __init__(self, embodiment: Embodiment, config: ControlConfig | None = None) -> None:
        self.embodiment = embodiment
        self.config = config or ControlConfig()
        self.layout = ActionLayout.of(embodiment)
        self._dt_s, self._card, self._width = embodiment.control_dt_s, embodiment.hash, len(embodiment.action)
        action = embodiment.action
        self._middle, self._half = 0.5 * (action.upper + action.lower), 0.5 * (action.upper - action.lower)
        margin = np.zeros(len(action))
        if len(self.layout.rotation):
            margin[self.layout.position] = self.config.workspace_margin_m
        self._lower, self._upper = action.lower + margin, action.upper - margin
        # Clamping single entries of a rotation would turn it.
        self._lower[self.layout.rotation], self._upper[self.layout.rotation] = -np.inf, np.inf
        self._checks = native and native.Checks(
            len(action),
            self.layout.position.tolist(),
            self.layout.rotation.tolist(),
            self._middle,
            self.config.bounds_factor * self._half,
            self._lower,
            self._upper,
        )
        self._tail_ns = round(self.config.stop_tail_knots * self._dt_s * 1e9)
        self._nearest_ns = round(0.5e9 * embodiment.tick_s)
        self._blend_ns = round(self.config.blend_knots * self._dt_s * 1e9)
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        home = np.zeros(len(action))
        home[self.layout.rotation] = (1, 0, 0, 0, 1, 0)[: len(self.layout.rotation)]
        self.reset(home)

    def reset(self, reference: ArrayLike, now_ns: int = 0) -> None:
        """Forget every chunk and stand at ``reference`` [A]. Counters stay.

        Raises:
            NonFiniteError: the reference is not finite.
        """
        self._newest_t0_ns: int | None = None
        self.anchor(reference, now_ns)

    def anchor(self, reference: ArrayLike, now_ns: int) -> None:
        """Stand at ``reference`` [A] with nothing scheduled, but still refuse chunks older than the newest accepted.

        Raises:
            NonFiniteError: the reference is not finite.
        """
        value = self.layout.orthonormal(np.array(reference, dtype=float))
        if value.shape != self._middle.shape or not np.isfinite(value).all():
            raise NonFiniteError(explain("the reference must be finite [A]", given=reference))
        self.curve = Curve(self.layout, [int(now_ns)], value[None], np.zeros_like(value), 0)
        self._scheduled = False

    @property
    def empty(self) -> bool:
        """No chunk since the last reset."""
        return not self._scheduled

    @property
    def end_ns(self) -> int:
        """Time of the last knot; after it the reference comes to rest."""
        return self.curve.end_ns

    def at(self, time_ns: int) -> NDArray[np.floating]:
        """[A] reference at ``time_ns``."""
        return self.curve.at(time_ns)

    def rate(self, time_ns: int) -> NDArray[np.floating]:
        """[A] rate of the reference at ``time_ns``, unit/s."""
        return self.curve.rate(time_ns)

    def remaining_s(self, now_ns: int) -> float:
        """Scheduled future left, 0 when dry."""
        return max(self.curve.end_ns - now_ns, 0) * 1e-9 if self._scheduled else 0.0

    def settled(self, time_ns: int) -> bool:
        """The reference stands still from ``time_ns`` on."""
        return time_ns >= self.curve.rest_ns

    def refuse(self, reason: str, *, dropped: int = 0, jump: float = 0.0) -> MergeReport:
        """Count and report a refusal."""
        self.refused[reason] += 1
        return MergeReport(False, reason, dropped, jump)

    def merge(self, chunk: ActionChunk, now_ns: int, committed_ns: int | None = None) -> MergeReport:
        """Take a chunk into the schedule, or refuse it and change nothing.

        Args:
            chunk: Values in physical units.
            now_ns: Time of arrival.
            committed_ns: Up to here the reference has already been sent; the new path begins no earlier.
        """
        reason = self._foreign(chunk)
        if reason:
            return self.refuse(reason)
        start_ns = now_ns if committed_ns is None else max(now_ns, committed_ns)
        # From rest a late chunk is followed from its beginning, only later: nothing of the motion that it plans has
        # happened yet, and catching up with it would fling the arm off. In motion, time decides.
        cold = not self._scheduled or self.settled(start_ns)
        shift_ns = max(start_ns - chunk.t0_ns, 0) if cold else 0
        # A knot less than half a setpoint ahead cannot be sent any more.
        reason, time_ns, values = self._usable(chunk, shift_ns, start_ns + self._nearest_ns)
        reason = reason or self._untimely(chunk, now_ns)
        if reason:
            return self.refuse(reason)
        dropped = len(chunk.values) - len(values)
        if not len(values):
            return self.refuse("past", dropped=dropped)
        reason = self._out_of_range(values)
        if reason:
            return self.refuse(reason, dropped=dropped)
        values = self._clean(values)
        jump, jump_m = self._jump(int(time_ns[0]), values[0])
        if jump > 1.0:
            return self.refuse("jump", dropped=dropped, jump=jump)
        lateness_ns = start_ns - chunk.t0_ns - shift_ns
        self.curve = splice(
            self.curve,
            start_ns,
            time_ns,
            values,
            blend_ns=self._blend_ns,
            lateness_ns=lateness_ns,
            tail_ns=self._tail_ns,
        )
        self._newest_t0_ns = chunk.t0_ns
        self._scheduled = True
        self.accepted += 1
        return MergeReport(True, "", dropped, jump, jump_m)

    def _foreign(self, chunk: ActionChunk) -> str:
        """Reason to refuse a chunk that was made for something else, or ''."""
        if chunk.embodiment != self._card:
            return "embodiment"
        if chunk.values.shape[1] != self._width:
            return "width"
        if abs(chunk.dt_s - self._dt_s) > 1e-6 * self._dt_s:
            return "dt"
        return ""

    def _usable(self, chunk: ActionChunk, shift_ns: int, after_ns: int) -> tuple[str, NDArray[np.int64], Array]:
        """Rows that are valid and later than ``after_ns``: reason to refuse or '', times [K], values f64 [K, A]."""
        valid = np.asarray(chunk.valid)
        if chunk.values.dtype.kind not in "fiu":
            return ("non_finite" if valid.any() else "no_valid_rows"), *_NO_ROWS
        values = np.ascontiguousarray(chunk.values, dtype=float)
        if self._checks is None:
            if not valid.any():
                return "no_valid_rows", *_NO_ROWS
            if not np.isfinite(values[valid]).all():
                return "non_finite", *_NO_ROWS
            knots_ns = chunk.time_ns + shift_ns
            usable = valid & (knots_ns > after_ns)
            return "", knots_ns[usable], values[usable]
        time_ns, kept = np.empty(len(values), np.int64), np.empty_like(values)
        count = self._checks.select(
            values, np.ascontiguousarray(valid), chunk.t0_ns, chunk.dt_s, shift_ns, after_ns, time_ns, kept
        )
        if count < 0:
            return ("non_finite" if count == -1 else "no_valid_rows"), *_NO_ROWS
        return "", time_ns[:count], kept[:count]

    def _untimely(self, chunk: ActionChunk, now_ns: int) -> str:
        """Reason to refuse a chunk by its time, or ''."""
        if self._newest_t0_ns is not None and chunk.t0_ns < self._newest_t0_ns:
            return "out_of_order"
        if chunk.t0_ns > now_ns + self._dt_s * 1e9:
            return "future"
        if now_ns - chunk.t0_ns > self.config.max_staleness_s * 1e9:
            return "stale"
        return ""

    def _clean(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Into range, rotations orthonormal; ``values`` is the caller's own."""
        if self._checks is not None:
            self._checks.clean(values)
            return values
        return self.layout.orthonormal(np.clip(values, self._lower, self._upper))

    def _out_of_range(self, values: NDArray[np.floating]) -> str:
        if self._checks is not None:
            return ("", "bounds", "rotation")[self._checks.check(values, _MAX_TURN_RAD)]
        if (np.abs(values - self._middle) > self.config.bounds_factor * self._half).any():
            return "bounds"
        if len(self.layout.rotation):
            columns = self.layout.orthonormal(values)[:, self.layout.rotation]
            x, y = values[:, self.layout.rotation[:3]], values[:, self.layout.rotation[3:]]
            # Short or near-parallel columns do not say which rotation is meant.
            size = np.linalg.norm(np.cross(x, y), axis=1)
            if not np.isfinite(columns).all() or (size < 0.1).any():
                return "rotation"
            for before, after in pairwise(columns):
                if _turn_rad(before, after) > _MAX_TURN_RAD:
                    return "rotation"
        return ""

    def _jump(self, time_ns: int, value: NDArray[np.floating]) -> tuple[float, float]:
        """Share of the distance that is refused, and metres."""
        jump = self.layout.jump if self._checks is None else self._checks.jump
        metres, radians = jump(self.curve.at(time_ns), value)
        return max(metres / self.config.reject_jump_m, radians / self.config.reject_jump_rad), float(metres)


def _turn_rad(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Angle between two orthonormal 6-D rotations."""
    a, b = before.reshape(2, 3), after.reshape(2, 3)
    trace = float((a * b).sum() + np.cross(a[0], a[1]) @ np.cross(b[0], b[1]))
    return float(np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0)))
