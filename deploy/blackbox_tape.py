"""What one arm was told and what it did, tick by tick: everything that decides a setpoint crosses this boundary.

::

    driver --read, capabilities--> |      | --command, hold, stop--> driver
    bus ----events, chunks, ages-> | Arm  |
    loop ---due, late, overrun---> |      |        tape: one record of both sides per tick, in the ring "tape"

:class:`Tape` wraps the driver and the bus that an :class:`~robopolicy.deploy.arm.Arm` is given and notes what passes.
The arm knows nothing of it, and computes the same with and without. ``replay.py`` plays the records back to another arm
and compares what that one does. Numbers stay float64, so equal means equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.driver_proxy import DriverProxy, in_front_of
from robopolicy.deploy.shm import RecordRing
from robopolicy.deploy.state_machine import EVENTS
from robopolicy.errors import DeployError
from robopolicy.types import RobotState, Setpoint

__all__ = ["CALLS", "OUTCOMES", "Tape", "TapedArm", "tape_dtype"]

CALLS = {"command": 1, "hold": 2, "stop": 4, "close": 8, "refused": 16}
"""Bits of ``calls``: what the arm asked of its driver in the tick, and whether the driver refused the command."""

OUTCOMES = ("not called", "well", "refused")
"""Values of ``read``, ``connect`` and ``enable``; ``refused`` means that the driver raised a DeployError."""

ASKED_NOT, NEVER_BEAT = np.nan, -1.0
"""Values of ``age_s`` beside a true age: nobody asked in this tick; that process has not shown itself yet."""

BUFFERED, HAS_SPEED_SCALE, HAS_WRENCH = 1, 2, 4
"""Bits of ``driver``: what the driver can do."""


def tape_dtype(joints: int, processes: int) -> np.dtype[Any]:
    """One tick: what went in, and what came out.

    Times are CLOCK_MONOTONIC ns. ``t_ns`` is when the tick was due and ``late_ns`` how late it began. ``events`` is the
    number of the newest event that the arm saw, ``chunk`` the number of the message that it took (0 for none),
    ``leave`` 1 + the index of the event with which the loop was told to end. ``setpoint``, ``t_setpoint_ns`` and
    ``flags`` are those of the command of this tick, if bit 1 of ``calls`` says that there was one.
    """
    wide = (joints,)
    return np.dtype(
        [
            *((name, "<i8") for name in ("t_ns", "late_ns", "overrun_ns", "overrun_late_ns", "leave_ns")),
            *((name, "<i8") for name in ("missed_wall_ns", "missed_ticks")),
            *((name, "<u8") for name in ("tick", "events", "chunk", "flags")),
            *((name, "u1") for name in ("read", "connect", "enable", "robot_fault", "calls", "leave", "driver", "pad")),
            ("age_s", "<f8", (processes,)),
            ("speed_scale", "<f8"),
            ("wrench", "<f8", (6,)),
            *((name, "<i8") for name in ("t_robot_ns", "t_setpoint_ns", "t_sent_ns")),
            *((name, "<f8", wide) for name in ("position", "velocity", "setpoint")),
        ]
    )


class Tape:
    """Notes one tick after another.

    Args:
        ring: The ring ``tape``.
        names: Processes with a heartbeat, in the order of ``age_s``.
    """

    def __init__(self, ring: RecordRing, names: tuple[str, ...]):
        self._ring, self.names = ring, names
        self.record: Any = np.zeros((), ring.dtype)
        self._blank = np.zeros((), ring.dtype)
        self._blank["age_s"] = self._blank["speed_scale"] = self._blank["wrench"] = ASKED_NOT
        self.record[()] = self._blank
        self._count = 0

    def driver(self, inner: Any) -> Any:
        """The driver that the arm is to be given."""
        taped = in_front_of(_TapedDriver, inner, self)
        bits = BUFFERED * bool(taped.buffered)
        bits |= HAS_SPEED_SCALE * hasattr(type(taped), "speed_scale") | HAS_WRENCH * hasattr(type(taped), "wrench")
        self._blank["driver"] = self.record["driver"] = bits
        return taped

    def bus(self, inner: Any) -> Any:
        """The bus that the arm is to be given."""
        return _TapedBus(inner, self)

    def arm(self, inner: Any) -> TapedArm:
        """The arm that the loop is to tick."""
        return TapedArm(inner, self)

    def publish(self, due_ns: int, late_ns: int) -> None:
        """The tick is over."""
        self._count += 1
        record = self.record
        record["t_ns"], record["late_ns"], record["tick"] = due_ns, late_ns, self._count
        self._ring.write(record)
        record[()] = self._blank


class TapedArm:
    """An arm whose loop is noted as well: overruns and the order to end are inputs too."""

    def __init__(self, inner: Any, tape: Tape):
        self._inner, self._tape = inner, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, due_ns: int, late_ns: int) -> None:
        """As :meth:`robopolicy.deploy.arm.Arm.step`."""
        self._inner.step(due_ns, late_ns)
        self._tape.publish(due_ns, late_ns)

    def event(self, name: str, now_ns: int) -> Any:
        """As :meth:`robopolicy.deploy.arm.Arm.event`; only the loop calls it here."""
        record = self._tape.record
        record["leave"], record["leave_ns"] = 1 + EVENTS.index(name), now_ns
        return self._inner.event(name, now_ns)

    def overrun(self, now_ns: int, late_ns: int = 0) -> None:
        """As :meth:`robopolicy.deploy.arm.Arm.overrun`."""
        self._tape.record["overrun_ns"], self._tape.record["overrun_late_ns"] = now_ns, late_ns
        self._inner.overrun(now_ns, late_ns)

    def missed(self, wall_ns: int, ticks: int) -> None:
        """As :meth:`robopolicy.deploy.arm.Arm.missed`."""
        self._tape.record["missed_wall_ns"], self._tape.record["missed_ticks"] = wall_ns, ticks
        self._inner.missed(wall_ns, ticks)


class _TapedDriver(DriverProxy):
    def __init__(self, inner: Any, tape: Tape):
        super().__init__(inner)
        self._tape = tape

    def connect(self) -> None:
        self._noted("connect", super().connect)

    def enable(self) -> None:
        self._noted("enable", super().enable)

    def read(self) -> RobotState:
        record = self._tape.record
        record["read"] = 2
        state = super().read()
        record["read"], record["robot_fault"], record["t_robot_ns"] = 1, state.fault, state.time_ns
        record["position"], record["velocity"] = state.position, state.velocity
        return state

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        record = self._tape.record
        record["calls"] |= CALLS["command"]
        record["t_setpoint_ns"], record["t_sent_ns"] = setpoint.time_ns, t_ns
        record["setpoint"], record["flags"] = setpoint.position, self.flags
        try:
            super().command(setpoint, t_ns)
        except DeployError:
            record["calls"] |= CALLS["refused"]
            raise

    def hold(self) -> None:
        self._tape.record["calls"] |= CALLS["hold"]
        super().hold()

    def stop(self) -> None:
        self._tape.record["calls"] |= CALLS["stop"]
        super().stop()

    def close(self) -> None:
        self._tape.record["calls"] |= CALLS["close"]
        super().close()

    def _noted(self, name: str, action: Callable[[], None]) -> None:
        self._tape.record[name] = 2
        action()
        self._tape.record[name] = 1

    def _scale(self) -> float:
        self._tape.record["speed_scale"] = scale = super()._scale()
        return scale

    def _force(self) -> NDArray[np.float64]:
        self._tape.record["wrench"] = wrench = super()._force()
        return wrench


class _TapedBus:
    def __init__(self, inner: Any, tape: Tape):
        self._inner = inner
        self.mailbox, self.heartbeat = _TapedMailbox(inner.mailbox, tape), _TapedHeartbeat(inner.heartbeat, tape)
        self._events = _TapedEvents(inner.ring("events"), tape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def ring(self, name: str) -> Any:
        return self._events if name == "events" else self._inner.ring(name)


class _TapedMailbox:
    def __init__(self, inner: Any, tape: Tape):
        self._inner, self._tape = inner, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def take(self) -> Any:
        received = self._inner.take()
        if received is not None:
            self._tape.record["chunk"] = received.number
        return received


class _TapedEvents:
    def __init__(self, inner: RecordRing, tape: Tape):
        self._inner, self._tape = inner, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def newest(self) -> int:
        number = self._inner.newest
        self._tape.record["events"] = number
        return number


class _TapedHeartbeat:
    def __init__(self, inner: Any, tape: Tape):
        self._inner, self._tape = inner, tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def age_s(self, name: str, now_ns: int | None = None) -> float | None:
        age: float | None = self._inner.age_s(name, now_ns)
        self._tape.record["age_s"][self._tape.names.index(name)] = NEVER_BEAT if age is None else age
        return age
