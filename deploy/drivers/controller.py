"""The controller inside a simulated robot: plays time-stamped setpoints, checks each one, brakes when they stop.

It stands for the vendor's box. It trusts nothing: what arrives is judged by finite differences against the card, in
this process, so the record of violations does not depend on the code that is being judged.

Setpoints carry the time at which they are to be reached. They arrive ``lookahead`` ticks early (as ``servoj`` with a
lookahead time does on a UR, or the extrapolation of lost packets on a Franka) and are kept here until their time::

    realtime      w(k) ........ sends the setpoint for  w(k) + lookahead
    controller         T(n)     plays the line between the two setpoints around T(n)

The two clocks tick at the same rate with any phase. With a lookahead of L ticks the sender may be late by up to
(L - 1) ticks without a gap: 50 ms for the default of L = 6 at 100 Hz, the order of ``servoj``'s lookahead time
(0.03 s to 0.2 s). When the setpoint for T(n) is truly absent, the controller brakes along its last velocity within the
acceleration limit, and counts the tick as missing if the arm was RUNNING; when setpoints come again it rejoins their
path within that limit. After ``watchdog_s`` without any setpoint it latches a fault.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.setpoint_check import SetpointCheck
from robopolicy.deploy.records import FLAG_END, FLAG_RUNNING
from robopolicy.embodiment import Embodiment

__all__ = ["RobotController"]

Vector = NDArray[np.float64]


class RobotController:
    """Jitter buffer, interpolation, braking and watchdog of a simulated robot.

    Args:
        card: The robot.
        watchdog_s: Silence after which the controller latches a fault.

    Attributes:
        target, velocity: [J] what the motors are commanded to now.
        fault: Latched by the watchdog, cleared by :meth:`recover`.
        missing: Ticks in RUNNING without a setpoint for their time.
        gaps: Runs of such ticks.
        running: Ticks in RUNNING.
        late: Setpoints that arrived after their time.
        received: Setpoints received.
    """

    def __init__(self, card: Embodiment, *, watchdog_s: float):
        self._tick_s = card.tick_s
        self._acceleration = card.joints.limit("max_acceleration")
        self._max_velocity = card.joints.limit("max_velocity")
        self._watchdog_ns = round(watchdog_s * 1e9)
        self._buffer: deque[tuple[int, int, Vector]] = deque(maxlen=64)
        self.check = SetpointCheck(card)
        self.target = card.home_position.copy()
        self.velocity = np.zeros(len(card.joints))
        self.fault = False
        self._flags = FLAG_END
        self.reset(self.target)

    _wanted: Vector | None
    _end_ns: int | None

    def reset(self, standing: Vector) -> None:
        """The scene was set anew and the arm stands at ``standing`` [J]: all counts and the stream begin again."""
        self._buffer.clear()
        self.target, self.velocity = standing.copy(), np.zeros_like(standing)
        self._flags, self._blend, self._wanted = FLAG_END, False, None
        self.fault, self._end_ns = False, None
        self.received = self.missing = self.gaps = self.running = self.late = self.watchdog_stops = 0
        self._last_received_ns = 0
        self._was_missing = False
        self.check.reset_counts()
        self.check.restart(standing)

    def recover(self) -> None:
        """A person arms again: the latch opens, the next stream must begin where the arm stands."""
        self.fault = False
        self._buffer.clear()
        self._flags = FLAG_END
        self.check.restart(self.target)

    def receive(self, record: np.void, now_ns: int) -> list[str]:
        """Take one setpoint from the wire. -> kinds of limits that it violates."""
        position, time_ns, flags = np.array(record["position"], float), int(record["time_ns"]), int(record["flags"])
        self._last_received_ns = now_ns
        if flags & FLAG_END:
            self._end_ns = time_ns
            return []
        self._end_ns = None
        if self._flags & FLAG_END:
            self.check.restart(self.target)
            self._buffer.clear()
        self.received += 1
        self.late += time_ns < now_ns
        found = self.check.check(time_ns, position)
        if np.isfinite(position).all() and not self.fault:
            self._buffer.append((time_ns, flags, position))
        self._flags = flags
        return found

    def play(self, time_ns: int, now_ns: int) -> Vector:
        """What the motors are commanded to at ``time_ns``. -> [J]."""
        before = self.target
        if self._end_ns is not None and time_ns >= self._end_ns:
            self._flags, self._end_ns = FLAG_END, None
        found = None if self.fault else self._sample(time_ns)
        running = bool(self._flags & FLAG_RUNNING) and not self.fault
        self.running += running
        if found is not None:
            self._was_missing = False
            self.target = self._rejoin(found) if self._blend else found
            self.velocity = (self.target - before) / self._tick_s
            return self.target
        if running:
            self.missing += 1
            self.gaps += not self._was_missing
            self._was_missing = True
        if not self._flags & FLAG_END and self._buffer:
            self._blend, self._wanted = True, None
        self._brake()
        silent = now_ns - self._last_received_ns
        if not self._flags & FLAG_END and silent > self._watchdog_ns and not self.fault:
            self.fault = True
            self.watchdog_stops += 1
        return self.target

    def _sample(self, time_ns: int) -> Vector | None:
        """The line between the two buffered setpoints around ``time_ns``; None when its end has not arrived."""
        if self._flags & FLAG_END:
            return None
        while len(self._buffer) >= 2 and self._buffer[1][0] <= time_ns:
            self._buffer.popleft()
        if not self._buffer:
            return None
        t0, _, q0 = self._buffer[0]
        if t0 >= time_ns:
            # The stream has just begun: the arm waits where it stands.
            return self.target.copy() if t0 > time_ns else q0.copy()
        if len(self._buffer) < 2:
            return None
        t1, _, q1 = self._buffer[1]
        x = (time_ns - t0) / (t1 - t0)
        return q0 + x * (q1 - q0)

    def _rejoin(self, wanted: Vector) -> Vector:
        """After a gap: back to the stream without exceeding the rated acceleration and speed."""
        error = wanted - self.target
        stream = np.zeros_like(error) if self._wanted is None else (wanted - self._wanted) / self._tick_s
        closing = np.sign(error) * np.minimum(np.abs(error) / self._tick_s, np.sqrt(self._acceleration * np.abs(error)))
        slew = self._acceleration * self._tick_s
        velocity = self.velocity + np.clip(stream + closing - self.velocity, -slew, slew)
        velocity = np.clip(velocity, -self._max_velocity, self._max_velocity)
        moved = self.target + velocity * self._tick_s
        self._wanted = wanted
        close = np.abs(wanted - moved) < 0.1 * slew * self._tick_s
        self._blend = not bool((close & (np.abs(velocity - stream) <= slew)).all())
        return moved

    def _brake(self) -> None:
        drop = self._acceleration * self._tick_s
        self.velocity = np.sign(self.velocity) * np.maximum(np.abs(self.velocity) - drop, 0.0)
        self.target = self.target + self.velocity * self._tick_s
