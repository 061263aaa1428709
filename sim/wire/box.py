"""The Box protocol, and the loop that serves a box and steps its arm in real time."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike

from robopolicy.sim.plant import Plant
from robopolicy.sim.wire.faults import WireFaults
from robopolicy.sim.wire.recorder import WireRecorder

__all__ = ["Box", "BoxLoop", "Watch", "monotonic_ns"]

Watch = tuple[Any, Callable[[], None]]
"""A file object, and what to call when it can be read."""

SLIP_NS = 250_000_000


def monotonic_ns() -> int:
    """Nanoseconds of ``CLOCK_MONOTONIC``."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Box(Protocol):
    """One vendor controller: its wire on one side, the motors of a plant on the other.

    Attributes:
        period_s: Controller cycle.
        address: What a driver needs to reach it, as keyword arguments.
        plant: What its motors move; :meth:`~robopolicy.sim.plant.Plant.servo` once per cycle, targets in channel units.
        faults: Faults in force.
        recorder: Every setpoint that arrived, judged.
    """

    period_s: float
    address: dict[str, Any]
    plant: Plant
    faults: WireFaults
    recorder: WireRecorder

    def files(self) -> list[Watch]:
        """What to wait for now; asked again whenever a callback has run. Callbacks never block."""
        ...

    def tick(self, time_ns: int) -> None:
        """One controller cycle up to ``time_ns``: watchdogs, motion, ``plant.servo``."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain values for :meth:`WireProcess.report`: at least ``at_rest``, ``fault``, ``powered``, ``target``."""
        ...

    def reset(self, standing: ArrayLike) -> None:
        """The arm stands at ``standing`` [J] of a new scene: forget the stream."""
        ...

    def recover(self) -> None:
        """A person cleared the stop at the teach pendant."""
        ...

    def close(self) -> None:
        """Close every file and remove what was made."""
        ...


class BoxLoop:
    """Serves files and ticks on an absolute grid, from one thread.

    Args:
        box: What is served.
        now_ns: Clock.

    Attributes:
        slips: Times the loop fell so far behind that its clock was moved.
    """

    def __init__(self, box: Box, now_ns: Callable[[], int] = monotonic_ns):
        self.box, self._now_ns = box, now_ns
        self._period_ns = round(box.period_s * 1e9)
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Any, Callable[[], None]] = {}
        self._extra: list[Watch] = []
        self.slips = 0
        self.time_ns = now_ns()

    def watch(self, file: Any, callback: Callable[[], None]) -> None:
        """Wait for this file too."""
        self._extra.append((file, callback))

    def unwatch(self, file: Any) -> None:
        """Wait for it no longer."""
        self._extra = [(f, c) for f, c in self._extra if f is not file]

    def anchor(self) -> None:
        """Begin the grid anew."""
        self.time_ns = self._now_ns()

    def step(self, most_s: float = 0.05) -> bool:
        """Wait for the next file or tick, and serve it. -> whether a tick was made."""
        self._refresh()
        now_ns = self._now_ns()
        due_ns = self.time_ns + self._period_ns
        wait_s = min(max(due_ns - now_ns, 0) / 1e9, most_s)
        for key, _ in self._selector.select(wait_s):
            key.data()
        now_ns = self._now_ns()
        if now_ns < due_ns:
            return False
        if now_ns - due_ns > SLIP_NS:
            self.time_ns += (now_ns - due_ns) // self._period_ns * self._period_ns
            self.slips += 1
        self.time_ns += self._period_ns
        self.box.recorder.cycle(now_ns)
        self.box.tick(self.time_ns)
        return True

    def close(self) -> None:
        """Close the selector and the box."""
        self._selector.close()
        self.box.close()

    def _refresh(self) -> None:
        wanted = dict(self.box.files() + self._extra)
        for file in [f for f in self._watched if f not in wanted]:
            try:
                self._selector.unregister(file)
            except (KeyError, ValueError):
                # closed meanwhile: its number is gone, look for the object itself
                for key in [k for k in self._selector.get_map().values() if k.fileobj is file]:
                    self._selector.unregister(key.fd)
            del self._watched[file]
        for file, callback in wanted.items():
            if file not in self._watched:
                self._selector.register(file, selectors.EVENT_READ, callback)
                self._watched[file] = callback
