"""What two public systems do with chunks between inference and the robot, from their documented behaviour."""

from __future__ import annotations

import numpy as np

__all__ = ["InterpolatedQueue", "LinearWaypoints", "OverlapQueue"]

OLD, NEW = 0.3, 0.7
MOST_M_S = 0.25


class OverlapQueue:
    """Actions by time step; a new chunk is averaged into what is queued, steps that have begun are dropped.

    Each action is the robot's target for one control step; with an empty queue it keeps its last one.
    """

    straight = False

    def __init__(self, hz: float):
        self._hz, self._queue = hz, {}
        self._step = -1
        self._from = self._to = None
        self._fresh = False

    def take(self, t_obs_s: float, values: np.ndarray, now_s: float) -> None:
        """A chunk whose first action belongs to one control step after its observation."""
        first = round(t_obs_s * self._hz) + 1
        for k, value in enumerate(values):
            step = first + k
            if step <= self._step:
                continue
            old = self._queue.get(step)
            self._queue[step] = value if old is None else OLD * old + NEW * value
        last = first + len(values) - 1
        self._queue = {step: value for step, value in self._queue.items() if step <= last}

    def at(self, now_s: float) -> tuple[np.ndarray | None, bool]:
        """Target now, and whether it is a new one."""
        step = int(np.floor(now_s * self._hz + 1e-9)) + 1
        if step != self._step:
            self._step = step
            value = self._queue.pop(step, None)
            self._fresh = value is not None
            self._from = self._to
            self._to = self._to if value is None else value
            self._from = self._to if self._from is None else self._from
        if self._to is None:
            return None, False
        share = now_s * self._hz + 1 - step if self.straight else 1.0
        return self._from + share * (self._to - self._from), self._fresh


class InterpolatedQueue(OverlapQueue):
    """The same with a straight line from action to action."""

    straight = True


class LinearWaypoints:
    """Time-stamped waypoints joined by straight lines: what is late is dropped, the end is kept, speed is bounded."""

    def __init__(self, hz: float):
        self._dt_s = 1.0 / hz
        self._times: list[float] = []
        self._values: list[np.ndarray] = []

    def take(self, t_obs_s: float, values: np.ndarray, now_s: float) -> None:
        """From now on along the new waypoints."""
        begin = self.at(now_s)[0]
        times = [] if begin is None else [now_s]
        points = [] if begin is None else [begin]
        for k, value in enumerate(values):
            t = t_obs_s + (k + 1) * self._dt_s
            if t <= now_s:
                continue
            if points:
                t = max(t, times[-1] + float(np.linalg.norm(value - points[-1])) / MOST_M_S)
            times.append(t)
            points.append(value)
        if points:
            self._times, self._values = times, points

    def at(self, now_s: float) -> tuple[np.ndarray | None, bool]:
        """Target now, and whether the schedule reaches that far."""
        if not self._times or now_s < self._times[0]:
            return None, False
        if now_s >= self._times[-1]:
            return self._values[-1], False
        k = int(np.searchsorted(self._times, now_s, side="right"))
        share = (now_s - self._times[k - 1]) / (self._times[k] - self._times[k - 1])
        return self._values[k - 1] + share * (self._values[k] - self._values[k - 1]), True
