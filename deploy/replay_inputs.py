"""A recorded run as the driver and the bus that an arm is given: it is told what the recorded one was told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.blackbox_log import BlackBoxLog
from robopolicy.deploy.blackbox_tape import BUFFERED, CALLS, HAS_SPEED_SCALE, HAS_WRENCH, NEVER_BEAT
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.driver_proxy import with_capabilities
from robopolicy.deploy.mailbox import ReceivedChunk
from robopolicy.deploy.records import EVENT, REASONS
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["MissingInputError", "RecordedDriver", "RecordedInputs"]

REFUSED = 2
"""Outcome of a call that raised; see :data:`robopolicy.deploy.blackbox_tape.OUTCOMES`."""


class MissingInputError(DeployError):
    """Something that went into a tick is not in the recording: the logger was away, or its file was cut."""


class RecordedInputs:
    """What went into each tick.

    Args:
        log: The recording.
        tape, states: Its ticks, in order, the same in both.

    Attributes:
        index: Tick that is being computed.
    """

    def __init__(self, log: BlackBoxLog, tape: NDArray[Any], states: NDArray[Any]):
        self.tape, self.states, self.index = tape, states, 0
        self.processes: list[str] = log.run["processes"]
        chunks, events = log.topics.get("/binary/chunk"), log.topics.get("/event")
        self.chunk_steps = 1
        self.chunks: dict[int, np.void] = {}
        self.events: dict[int, bytes] = {}
        if chunks is not None:
            found = chunks.records()
            self.chunks = dict(zip(chunks.unique_numbers().tolist(), found, strict=True))
            self.chunk_steps = found["values"].shape[1]
        for number, text in zip(events.numbers, events.data, strict=True) if events is not None else ():
            self.events[number] = str(json.loads(text)["event"]).encode()

    def begin(self, index: int) -> None:
        """The next arm begins with that tick."""
        self.index = index

    @property
    def now(self) -> np.void:
        """Record of the tick that is being computed."""
        record: np.void = self.tape[self.index]
        return record

    def reason(self, index: int) -> str:
        """Word of the reason that stood after a tick."""
        return REASONS[int(self.states["reason"][index])]

    def driver(self, card: Embodiment) -> Any:
        """A driver that reads what was read."""
        bits = int(self.now["driver"])
        has = [n for n, bit in (("speed_scale", HAS_SPEED_SCALE), ("wrench", HAS_WRENCH)) if bits & bit]
        return with_capabilities(RecordedDriver, has)(self, card, bool(bits & BUFFERED))

    def bus(self, inner: Bus) -> Any:
        """A bus that tells what was told; what the arm writes goes to ``inner``."""
        return _RecordedBus(self, inner)


class RecordedDriver:
    """A driver without a robot: it answers as the recorded one did, and keeps what the arm asks of it.

    Args:
        inputs: The recording.
        card: The robot.
        buffered: Whether that robot kept setpoints until their time.
    """

    def __init__(self, inputs: RecordedInputs, card: Embodiment, buffered: bool):
        self._inputs, self.embodiment, self.buffered = inputs, card, buffered
        self.flags = 0
        self._calls, self._setpoint, self._time_ns = 0, np.zeros(len(card.joints)), 0

    def taken(self) -> tuple[int, NDArray[np.float64], int, int]:
        """Calls since the last time: bits, setpoint [J], its time, its flags."""
        found = self._calls, self._setpoint, self._time_ns, self.flags
        self._calls = 0
        return found

    def connect(self) -> None:
        """Connect."""
        self._answer("connect")

    def enable(self) -> None:
        """Power on."""
        self._answer("enable")

    def read(self) -> RobotState:
        """What was read in this tick."""
        record = self._inputs.now
        self._answer("read")
        return RobotState(
            int(record["t_robot_ns"]),
            np.array(record["position"]),
            np.array(record["velocity"]),
            bool(record["robot_fault"]),
        )

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Keep it for the comparison."""
        self._calls |= CALLS["command"]
        self._setpoint, self._time_ns = np.array(setpoint.position, float), setpoint.time_ns
        if int(self._inputs.now["calls"]) & CALLS["refused"]:
            self._calls |= CALLS["refused"]
            self._refuse("command")

    def hold(self) -> None:
        """Note it."""
        self._calls |= CALLS["hold"]

    def stop(self) -> None:
        """Note it."""
        self._calls |= CALLS["stop"]

    def close(self) -> None:
        """Note it."""
        self._calls |= CALLS["close"]

    def _answer(self, name: str) -> None:
        if int(self._inputs.now[name]) == REFUSED:
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        message = bytes(self._inputs.states["message"][self._inputs.index]).decode("utf-8", "replace")
        raise DeployError(message or f"{name} was refused")

    def _scale(self) -> float:
        scale = float(self._inputs.now["speed_scale"])
        return 1.0 if np.isnan(scale) else scale

    def _force(self) -> NDArray[np.float64]:
        return np.array(self._inputs.now["wrench"])


class _RecordedBus:
    def __init__(self, inputs: RecordedInputs, inner: Bus):
        self._inner = inner
        self.mailbox, self.heartbeat = _RecordedMailbox(inputs), _RecordedHeartbeat(inputs)
        self._events = _RecordedEvents(inputs)

    def ring(self, name: str) -> Any:
        return self._events if name == "events" else self._inner.ring(name)


class _RecordedMailbox:
    torn = 0

    def __init__(self, inputs: RecordedInputs):
        self._inputs = inputs

    def take(self) -> ReceivedChunk | None:
        number = int(self._inputs.now["chunk"])
        if not number:
            return None
        record = self._inputs.chunks.get(number & 0xFFFFFFFF)
        if record is None:
            raise _missing(self._inputs, f"chunk {number}")
        return ReceivedChunk(record, number)


class _RecordedEvents:
    def __init__(self, inputs: RecordedInputs):
        self._inputs = inputs

    @property
    def newest(self) -> int:
        return int(self._inputs.now["events"])

    def read(self, number: int) -> np.void:
        event = self._inputs.events.get(number & 0xFFFFFFFF)
        if event is None:
            raise _missing(self._inputs, f"event {number}")
        record: Any = np.array((0, event), EVENT)
        found: np.void = record[()]
        return found


class _RecordedHeartbeat:
    def __init__(self, inputs: RecordedInputs):
        self._inputs = inputs

    def age_s(self, name: str, now_ns: int | None = None) -> float | None:
        age = float(self._inputs.now["age_s"][self._inputs.processes.index(name)])
        return None if age == NEVER_BEAT else age

    def beat(self, name: str, now_ns: int | None = None) -> None:
        """Nobody looks."""


def _missing(inputs: RecordedInputs, what: str) -> MissingInputError:
    tick = int(inputs.now["tick"])
    return MissingInputError(
        explain(f"{what}, which went into tick {tick}, is not in the recording", mend="read the whole run folder")
    )
