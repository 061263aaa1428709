"""Channels and workspaces together: what a tick of the limiter computes, without clocks, faults or reports.

:func:`make_core` gives the compiled form where there is one; :class:`LimiterCore` is the same in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.channel import ChannelLimiter
from robopolicy.control.native import MOST_CHANNELS, native
from robopolicy.control.robot import RobotKinematics
from robopolicy.control.verdict import Limit
from robopolicy.control.workspace import WorkspaceGuard

__all__ = ["Core", "LimiterCore", "make_core"]

Array = NDArray[np.float64]


class Core(Protocol):
    """One tick at a time, in tick units; every array is contiguous float64."""

    def reset(self, p: Array, v: Array, a: Array) -> int:
        """Begin at (p, v, a) [J]; bit i of the result is set where channel i has no limited stop."""
        ...

    def limit(self, wish: Array, out: Array) -> tuple[int, int]:
        """Serve a finite request [J] within the limits -> (limits met, channels changed); positions go to ``out``."""
        ...

    def brake(self, out: Array) -> None:
        """One tick of a limited stop; positions go to ``out`` [J]."""
        ...

    def state(self, out: Array) -> None:
        """Position, velocity, acceleration into ``out`` [3, J]."""
        ...

    def at_rest(self, share: float) -> bool:
        """Every channel is slower than ``share`` of its limit, and not accelerating away."""
        ...

    def effort(self, channels: int) -> float:
        """Largest acceleration among the channels of a bit mask, as a share of its limit."""
        ...


def make_core(channels: Sequence[ChannelLimiter], kinematics: RobotKinematics) -> Core:
    """The core for channels with their limits in tick units, and the arms whose workspace is guarded."""
    if native is None or len(channels) > MOST_CHANNELS:
        return LimiterCore(channels, kinematics)
    guards = tuple(
        (
            part.kinematics.chain,
            part.joints.tolist(),
            np.array(part.kinematics.embodiment.workspace, float),
            part.kinematics.reach_m,
        )
        for part in kinematics.parts
    )
    limits = (np.array([getattr(c, name) for c in channels], float) for name in ("lower", "upper", "V", "A", "J"))
    core: Core = native.Limiter(len(channels), *limits, guards)
    return core


class LimiterCore:
    """:class:`Core` in Python.

    Args:
        channels: Of the robot, in vector order.
        kinematics: Arms with their workspaces.
    """

    def __init__(self, channels: Sequence[ChannelLimiter], kinematics: RobotKinematics) -> None:
        self._channels = list(channels)
        self._guards: list[tuple[list[int], WorkspaceGuard]] = []
        for part in kinematics.parts:
            arm = [self._channels[i] for i in part.joints]
            guard = WorkspaceGuard(part.kinematics, [c.A for c in arm], [c.J for c in arm])
            self._guards.append((part.joints.tolist(), guard))

    def reset(self, p: Array, v: Array, a: Array) -> int:
        """See :class:`Core`."""
        states = zip(p.tolist(), v.tolist(), a.tolist(), strict=True)
        viable = [c.reset(*state) for c, state in zip(self._channels, states, strict=True)]
        for arm, guard in self._guards:
            guard.reset([self._channels[i].p for i in arm])
        return sum(1 << i for i, good in enumerate(viable) if not good)

    def limit(self, wish: Array, out: Array) -> tuple[int, int]:
        """See :class:`Core`."""
        bits = touched = 0
        steps = []
        for i, (channel, request) in enumerate(zip(self._channels, wish.tolist(), strict=True)):
            step, met = channel.propose(request)
            steps.append(step)
            if met:
                bits |= met
                touched |= 1 << i
        for arm, guard in self._guards:
            if not self._admits(steps, arm, guard):
                bits |= int(Limit.WORKSPACE)
                touched |= sum(1 << i for i in arm)
                self._slow_down(steps, arm, guard)
        out[:] = [c.commit(x) for c, x in zip(self._channels, steps, strict=True)]
        for arm, guard in self._guards:
            if guard.widened:
                moved = [self._channels[i] for i in arm]
                guard.settle([c.p for c in moved], [c.v for c in moved], [c.a for c in moved])
        return bits, touched

    def brake(self, out: Array) -> None:
        """See :class:`Core`."""
        out[:] = [c.commit_braking() for c in self._channels]

    def state(self, out: Array) -> None:
        """See :class:`Core`."""
        out[:] = [[c.p for c in self._channels], [c.v for c in self._channels], [c.a for c in self._channels]]

    def at_rest(self, share: float) -> bool:
        """See :class:`Core`."""
        return all(abs(c.v) <= share * c.V and abs(c.v + c.a) <= share * c.V for c in self._channels)

    def effort(self, channels: int) -> float:
        """See :class:`Core`."""
        return max((abs(c.a) / c.A for i, c in enumerate(self._channels) if channels >> i & 1), default=0.0)

    def _admits(self, steps: Sequence[float], arm: list[int], guard: WorkspaceGuard) -> bool:
        moved = [(self._channels[i], steps[i]) for i in arm]
        states = [c.after(x) for c, x in moved]
        p, v, a = zip(*states, strict=True)
        return guard.admits(p, v, a, [c.travel for c, _ in moved])

    def _slow_down(self, steps: list[float], arm: list[int], guard: WorkspaceGuard) -> None:
        """Replace the arm's steps by the largest share between braking and wish that the workspace admits."""
        wish = {i: steps[i] for i in arm}
        stop = {i: self._channels[i].braking for i in arm}
        for share in (0.5, 0.25, 0.0):
            for i, channel in ((i, self._channels[i]) for i in arm):
                x = stop[i] + share * (wish[i] - stop[i])
                steps[i] = x if channel.viable(x) else stop[i]
            if share == 0.0 or self._admits(steps, arm, guard):
                return
