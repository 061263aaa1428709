"""What has happened, as lines with a time: events that were sent, ways of the state machine, refusals, scenes."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from robopolicy.deploy.records import REASONS, REFUSALS
from robopolicy.deploy.state_machine import State

__all__ = ["EventLog"]

KEPT = 200
GATHER_NS = 1_000_000_000
"""Refused chunks come by the dozen: one line a second says how many."""


class EventLog:
    """The newest lines, numbered from 1.

    Attributes:
        newest: Number of the newest line.
    """

    def __init__(self) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._batch: list[dict[str, Any]] = []
        self.newest = 0
        self._state: int | None = None
        self._message = b""
        self._overruns = 0
        self._refused = np.zeros(len(REFUSALS), np.int64)
        self._refused_ns = 0
        self._scene: int | None = None
        self._success = False

    def since(self, number: int) -> list[dict[str, Any]]:
        """Lines after ``number``, oldest first."""
        return [line for line in self._lines if line["n"] > number]

    def add(self, time_ns: int, level: str, text: str) -> None:
        """One line; ``level`` is ``info``, ``ask``, ``warn`` or ``bad``."""
        self._batch.append({"t_ms": time_ns / 1e6, "level": level, "text": text})

    def flush(self) -> None:
        """Number what was added since the last call, in the order of its time: it came from several rings."""
        for line in sorted(self._batch, key=lambda line: float(line["t_ms"])):
            self.newest += 1
            self._lines.append({"n": self.newest, **line})
        self._batch.clear()

    def event(self, record: np.void) -> None:
        """An event that somebody sent to the loop."""
        name = bytes(record["event"]).decode("ascii", "replace")
        self.add(int(record["time_ns"]), "ask", f"asked: {name}")

    def tick(self, record: np.void) -> None:
        """One record of the state ring; most say nothing new."""
        # a tick's own end: after every event that it obeyed
        number = int(record["state"])
        time_ns = int(record["t_ns"]) + int(record["late_ns"]) + int(record["work_ns"])
        if number != self._state:
            self._changed(time_ns, number, REASONS[int(record["reason"])])
        message = bytes(record["message"])
        if message != self._message:
            self._message = message
            if message:
                self.add(time_ns, "warn", message.decode("utf-8", "replace"))
        overruns = int(record["overruns"])
        if overruns > self._overruns:
            self.add(time_ns, "warn", f"a tick began too late for its setpoint ({overruns} so far)")
        self._overruns = overruns
        if time_ns - self._refused_ns > GATHER_NS:
            self._count_refused(time_ns, np.asarray(record["refused"], np.int64))

    def frame(self, record: np.void) -> None:
        """One sensor frame: new scenes and success."""
        scene, success = int(record["scene"]), bool(record["success"])
        if self._scene is not None and scene != self._scene:
            split = bytes(record["split"]).decode("ascii", "replace")
            self.add(int(record["time_ns"]), "info", f"scene {split} {int(record['index'])} is set up")
        if success and not self._success:
            self.add(int(record["time_ns"]), "info", "the task has succeeded")
        self._scene, self._success = scene, success

    def _changed(self, time_ns: int, number: int, reason: str) -> None:
        state = State(number)
        before = "" if self._state is None else f"{State(self._state).name} to "
        because = f" ({reason})" if reason and (state.latched or state in (State.STOPPING, State.PAUSED)) else ""
        level = "bad" if state.latched else "warn" if reason not in ("", "operator") and because else "info"
        self.add(time_ns, level, f"{before}{state.name}{because}")
        self._state = number

    def _count_refused(self, time_ns: int, refused: np.ndarray[Any, Any]) -> None:
        more = refused - self._refused
        words = [f"{word} {n}" for word, n in zip(REFUSALS, more, strict=True) if n > 0]
        if words:
            self.add(time_ns, "warn", "chunks refused: " + ", ".join(words))
            self._refused_ns = time_ns
        self._refused = refused
