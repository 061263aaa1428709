"""The last thing between any command and the robot. There is no disabled default."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.channel import ChannelLimiter
from robopolicy.control.clearance import ClearanceConfig, ClearanceGuard
from robopolicy.control.config import ControlConfig
from robopolicy.control.limiter_core import make_core
from robopolicy.control.native import finite, native
from robopolicy.control.robot import RobotKinematics
from robopolicy.control.verdict import CLEAR, Limit, Verdict
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, SafetyFaultError, explain
from robopolicy.types import RobotState

__all__ = ["Limit", "SafetyLimiter", "Verdict"]

DEFAULT_JERK_SCALE = 0.1
LONGEST_RAMP_S = 0.07
"""With less jerk an arm cannot follow its own policy: requests are refused at every tick, in turns."""


class SafetyLimiter:
    """Bounds position, velocity, acceleration and jerk of every command channel, and the TCP's workspace.

    Order: finite, position, velocity, acceleration, jerk, workspace, staleness. The state it keeps is the *commanded*
    one; velocity, acceleration and jerk are the finite differences of the positions it returned. It holds the invariant
    that from the commanded state a jerk-limited stop exists that breaks no limit, so no sequence of requests can corner
    it (recursive feasibility). Requests within the limits pass through bit for bit.

    A command or state that is not finite, a stale state, or a controller that reports a stop is a fault: the arm brakes
    within the limits, holds, and ignores requests until :meth:`reset`.

    Attributes:
        kinematics: Of every arm.
        arm_joints: Positions of all joints but grippers in a command vector [J].

    Args:
        embodiment: Card with the limits.
        config: Shares of the card's limits, and the greatest age of a state.
        tick_s: Seconds between two calls; the card's ``tick_s`` by default.
        clearance: What each arm keeps clear of, by the arm's name ('' for the only one).
    """

    def __init__(
        self,
        embodiment: Embodiment,
        config: ControlConfig | None = None,
        tick_s: float | None = None,
        clearance: Mapping[str, ClearanceConfig] | None = None,
    ) -> None:
        self.config = config or ControlConfig()
        self.tick_s = embodiment.tick_s if tick_s is None else float(tick_s)
        if not (self.tick_s > 0 and math.isfinite(self.tick_s)):
            raise ConfigError(explain("tick_s must be positive", given=tick_s))
        self.kinematics = RobotKinematics(embodiment)
        grippers = {arm.gripper for arm in embodiment.arms}
        self.arm_joints = np.array([i for i, n in enumerate(embodiment.joints.names) if n not in grippers], np.intp)
        self.max_velocity, self.max_acceleration, self.max_jerk = _limits(embodiment, self.config, self.arm_joints)
        joints = embodiment.joints.channels
        channels = [
            ChannelLimiter(c.lower, c.upper, velocity, acceleration, jerk, self.tick_s)
            for c, velocity, acceleration, jerk in zip(
                joints, self.max_velocity, self.max_acceleration, self.max_jerk, strict=True
            )
        ]
        self._count, self._longest_ns = len(channels), self.config.max_state_age_s * 1e9
        self._core = make_core(channels, self.kinematics)
        self._clearance = [
            (part.joints, ClearanceGuard(part.kinematics, found, *_tick_limits(channels, part.joints)))
            for part in self.kinematics.parts
            if (found := (clearance or {}).get(part.name)) is not None and not found.empty
        ]
        self._arm_bits = sum(1 << int(i) for i in self.arm_joints)
        self._fault: str | None = None
        self._fault_bits = 0
        self.reset(embodiment.home_position)

    @property
    def fault(self) -> str | None:
        """Reason of the latched fault, or None."""
        return self._fault

    @property
    def command(self) -> NDArray[np.floating]:
        """[J] last commanded position."""
        return self._state()[0]

    @property
    def velocity(self) -> NDArray[np.floating]:
        """[J] commanded velocity, unit/s."""
        return self._state()[1] / self.tick_s

    @property
    def acceleration(self) -> NDArray[np.floating]:
        """[J] commanded acceleration, unit/s^2."""
        return self._state()[2] / self.tick_s**2

    @property
    def effort(self) -> float:
        """Largest acceleration of the arm joints in the last tick, as a share of the limit in force."""
        return self._core.effort(self._arm_bits)

    @property
    def at_rest(self) -> bool:
        """Every channel is slower than ``rest_velocity`` times its limit, and not accelerating away."""
        return self._core.at_rest(self.config.rest_velocity)

    def _state(self) -> NDArray[np.float64]:
        out = np.empty((3, self._count))
        self._core.state(out)
        return out

    def reset(
        self, position: ArrayLike, velocity: ArrayLike | None = None, acceleration: ArrayLike | None = None
    ) -> None:
        """Begin at a commanded state and clear the fault.

        A position outside joint range or workspace is taken as it is: the arm may come back in, but go no further out.

        Args:
            position: [J].
            velocity: [J] unit/s; rest by default.
            acceleration: [J] unit/s^2; zero by default.

        Raises:
            SafetyFaultError: not finite, wrong width, or moving so fast that no limited stop exists.
        """
        count = self._count
        zeros = np.zeros(count)
        p, v, a = (np.asarray(zeros if x is None else x, dtype=float) for x in (position, velocity, acceleration))
        if not (p.shape == v.shape == a.shape == (count,) and np.isfinite([p, v, a]).all()):
            raise SafetyFaultError(
                explain(
                    "cannot start the limiter here",
                    given=position,
                    allowed=f"{count} finite numbers",
                    mend="read again",
                )
            )
        dt = self.tick_s
        stuck = self._core.reset(
            np.ascontiguousarray(p), np.ascontiguousarray(v * dt), np.ascontiguousarray(a * dt * dt)
        )
        if stuck:
            raise SafetyFaultError(
                explain(
                    "no limited stop exists from this state",
                    given=f"channels {[i for i in range(count) if stuck >> i & 1]} of {p}, {v}, {a}",
                    mend="start at rest",
                )
            )
        for joints, guard in self._clearance:
            guard.begin(p[joints].tolist())
        self._fault, self._fault_bits = None, 0
        self._state_time_ns: int | None = None
        self._state_repeats = 0

    def apply(
        self, command: ArrayLike, state: RobotState, dt_s: float, now_ns: int | None = None
    ) -> tuple[NDArray[np.floating], Verdict]:
        """Limit one command.

        Args:
            command: [J] positions asked for at the end of this tick.
            state: Newest measured state.
            dt_s: Nominal seconds since the last call; must be the limiter's tick.
            now_ns: Time on the clock of ``state.time_ns``. Without it only a time stamp that stands still is noticed.

        Returns:
            [J] positions to send, always finite and within the limits, and the verdict.

        Raises:
            ConfigError: another ``dt_s`` than the limiter was made for.
        """
        wish = np.ascontiguousarray(command, dtype=float)
        self._watch(state, dt_s, now_ns)
        if self._fault is None:
            if wish.shape != (self._count,):
                self._latch(f"command has the wrong shape, wants {self._count} numbers", Limit.FINITE)
            elif not np.isfinite(wish).all():
                self._latch("command is not finite", Limit.FINITE)
        if self._fault is not None:
            return self._brake()
        return self._limit(wish)

    def apply_path(
        self,
        path: Any,
        follower: Any,
        target_ns: int,
        nullspace: float,
        reference: NDArray[np.floating],
        state: RobotState,
        now_ns: int,
    ) -> tuple[NDArray[np.floating], Verdict]:
        """:meth:`apply` of the joints that serve a compiled path at a time, all in one call.

        Args:
            path: Of the reference.
            follower: Inverse kinematics; None where the path is in joints.
            target_ns: Time on the path.
            nullspace: See :meth:`Kinematics.solve`.
            reference: [A] where the path at that time goes.
            state: Newest measured state.
            now_ns: Time on the clock of ``state.time_ns``.
        """
        time_ns, position, velocity, fault = state
        if time_ns != self._state_time_ns and abs(now_ns - time_ns) <= self._longest_ns and not fault:
            self._state_time_ns, self._state_repeats = time_ns, 0  # what _watch comes to, at a third of the time
        else:
            self._watch(state, self.tick_s, now_ns)
        if self._fault is None:
            sent, before = np.empty(self._count), self._state() if self._clearance else None
            met = native.track(path, follower, self._core, target_ns, nullspace, position, velocity, reference, sent)
            if met:
                if before is not None and not self._is_clear():
                    return self._keep_clear(sent, before)
                return sent, CLEAR if met is True else Verdict(*met)
            self._latch(f"{'command' if met is None else 'measured state'} is not finite", Limit.FINITE)
        return self._brake()

    def brake(self, state: RobotState, dt_s: float, now_ns: int | None = None) -> tuple[NDArray[np.floating], Verdict]:
        """One tick of a planned stop: every channel brakes within its limits. Arguments and result as :meth:`apply`."""
        self._watch(state, dt_s, now_ns)
        return self._brake()

    def trip(self, reason: str, limit: Limit = Limit.STALENESS) -> None:
        """Latch a fault found elsewhere; the next calls brake and hold."""
        self._latch(reason, limit)

    def _latch(self, reason: str, limit: Limit) -> None:
        if self._fault is None:
            self._fault, self._fault_bits = reason, int(limit)

    def _brake(self) -> tuple[NDArray[np.floating], Verdict]:
        sent = np.empty(self._count)
        self._core.brake(sent)
        everything = (1 << self._count) - 1
        return sent, CLEAR if self._fault is None else Verdict(self._fault_bits, everything, self._fault)

    def _watch(self, state: RobotState, dt_s: float, now_ns: int | None) -> None:
        """Latch a fault when the measured state is unusable."""
        if dt_s != self.tick_s and abs(dt_s - self.tick_s) > 1e-6 * self.tick_s:
            raise ConfigError(
                explain(
                    "the limiter is made for one tick",
                    given=f"{dt_s} s",
                    allowed=f"{self.tick_s} s",
                    mend="pass tick_s",
                )
            )
        if not (finite(state.position) and finite(state.velocity)):
            self._latch("measured state is not finite", Limit.FINITE)
        if state.fault:
            self._latch("the controller reports a stop", Limit.STALENESS)
        longest_s = self.config.max_state_age_s
        if state.time_ns != self._state_time_ns:
            self._state_time_ns, self._state_repeats = state.time_ns, 0
        else:
            self._state_repeats += 1
            if self._state_repeats * self.tick_s > longest_s:
                self._latch(f"the state's time stamp stood still for {longest_s} s", Limit.STALENESS)
                return
        if now_ns is not None and abs(now_ns - state.time_ns) > self._longest_ns:
            age_s = (now_ns - state.time_ns) * 1e-9
            self._latch(f"measured state is {age_s:.3f} s old, allowed {longest_s} s", Limit.STALENESS)

    def _limit(self, wish: NDArray[np.float64]) -> tuple[NDArray[np.floating], Verdict]:
        sent, before = np.empty(self._count), self._state() if self._clearance else None
        bits, touched = self._core.limit(wish, sent)
        if before is not None and not self._is_clear():
            return self._keep_clear(sent, before)
        return sent, Verdict(bits, touched) if bits else CLEAR

    def _is_clear(self) -> bool:
        p, v, a = self._state()
        found = all(guard.clear(p[j].tolist(), v[j].tolist(), a[j].tolist()) for j, guard in self._clearance)
        if found:
            for joints, guard in self._clearance:
                guard.settle(p[joints].tolist())
        return found

    def _keep_clear(
        self, sent: NDArray[np.float64], before: NDArray[np.float64]
    ) -> tuple[NDArray[np.floating], Verdict]:
        """The largest share of the step from ``before`` [3, J] that stays clear, else one tick of braking.

        Braking from ``before`` is clear: it was, when that state was accepted.
        """
        wish = sent.copy()
        for share in (0.5, 0.25):
            self._core.reset(*np.ascontiguousarray(before))
            self._core.limit(before[0] + share * (wish - before[0]), sent)
            if self._is_clear():
                break
        else:
            self._core.reset(*np.ascontiguousarray(before))
            self._core.brake(sent)
        return sent, Verdict(int(Limit.CLEARANCE), (1 << self._count) - 1)


def _tick_limits(channels: Sequence[ChannelLimiter], joints: NDArray[np.intp]) -> tuple[list[float], list[float]]:
    return [channels[i].A for i in joints], [channels[i].J for i in joints]


def _limits(
    embodiment: Embodiment, config: ControlConfig, arm_joints: NDArray[np.intp]
) -> tuple[NDArray[np.floating], ...]:
    """[J] velocity, acceleration and jerk limits in force: the card's, scaled."""
    limits = {kind: embodiment.joints.limit(f"max_{kind}") for kind in ("velocity", "acceleration", "jerk")}
    scaled = {kind: limit * config.gripper_scale for kind, limit in limits.items()}
    for kind, share in (("velocity", config.velocity_scale), ("acceleration", config.acceleration_scale)):
        scaled[kind][arm_joints] = share * limits[kind][arm_joints]
    stated = limits["jerk"][arm_joints]
    if config.jerk_scale is None:
        needed = scaled["acceleration"][arm_joints] / LONGEST_RAMP_S
        scaled["jerk"][arm_joints] = np.minimum(np.maximum(DEFAULT_JERK_SCALE * stated, needed), stated)
    else:
        scaled["jerk"][arm_joints] = config.jerk_scale * stated
    return tuple(scaled.values())
