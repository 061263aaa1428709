"""The states of the arm and every way between them, as one table without side effects.

::

    OFFLINE -> CONNECTED -> ARMED -> HOLD -> ALIGNING -> RUNNING <-> PAUSED
                                      ^---- STOPPING <----'            FAULT, ESTOP: latched until ``arm``

========== ==================================================================================================
state      what the real-time loop does
========== ==================================================================================================
OFFLINE    no robot
CONNECTED  reads the robot, sends nothing
ARMED      a person has allowed motion; nothing is sent yet
HOLD       streams the pose of the moment of ``enable``
ALIGNING   waits for the first chunk and, when its first action is far, goes there slowly
RUNNING    follows the policy
PAUSED     has stopped as planned and holds; ``resume`` goes through ALIGNING with a new epoch
STOPPING   brakes within all limits, then holds
FAULT      brakes if the robot still listens, holds; only ``arm`` leads out
ESTOP      the robot's own stop was called; only ``arm`` leads out
========== ==================================================================================================

Whoever enters a moving state begins a new epoch, so no chunk made before a stop, a fault or a pause is ever resumed.
This software is not a safety function: a hardware emergency stop (ISO 13850) stays mandatory.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["EVENTS", "INTERNAL_EVENTS", "OPERATOR_EVENTS", "Outcome", "State", "next_state"]


class State(IntEnum):
    """State of one arm; the numbers travel in shared memory."""

    OFFLINE = 0
    CONNECTED = 1
    ARMED = 2
    HOLD = 3
    ALIGNING = 4
    RUNNING = 5
    PAUSED = 6
    STOPPING = 7
    FAULT = 8
    ESTOP = 9

    @property
    def streaming(self) -> bool:
        """Whether setpoints are sent in this state by right; FAULT sends only while it still brakes."""
        return self in (State.HOLD, State.ALIGNING, State.RUNNING, State.PAUSED, State.STOPPING)

    @property
    def moving(self) -> bool:
        """Whether chunks are taken in this state."""
        return self in (State.ALIGNING, State.RUNNING)

    @property
    def latched(self) -> bool:
        """Whether a person has to arm again."""
        return self in (State.FAULT, State.ESTOP)


class Outcome(IntEnum):
    """What became of an event."""

    CHANGED = 0
    UNCHANGED = 1
    REFUSED = 2


OPERATOR_EVENTS = ("connect", "disconnect", "arm", "enable", "disable", "start", "pause", "resume", "stop", "estop")
"""What a person or a program may ask for. Order is the code in shared memory."""

INTERNAL_EVENTS = (
    "aligned",
    "at_rest",
    "dry",
    "no_chunk",
    "worker_lost",
    "overrun",
    "supervisor_lost",
    "robot_lost",
    "robot_fault",
    "executor_fault",
    "deadman_lost",
    "sensors_lost",
)
"""What the real-time loop and the supervisor find out."""

EVENTS = (*OPERATOR_EVENTS, *INTERNAL_EVENTS)

_S = State
_TABLE: dict[str, dict[State, State]] = {
    "connect": {_S.OFFLINE: _S.CONNECTED},
    "disconnect": dict.fromkeys((_S.CONNECTED, _S.ARMED, _S.HOLD), _S.OFFLINE),
    "arm": dict.fromkeys((_S.CONNECTED, _S.ARMED, _S.FAULT, _S.ESTOP), _S.ARMED),
    "enable": {_S.ARMED: _S.HOLD, _S.HOLD: _S.HOLD},
    "disable": {_S.HOLD: _S.ARMED, _S.ARMED: _S.ARMED},
    "start": {_S.HOLD: _S.ALIGNING, _S.RUNNING: _S.RUNNING, _S.ALIGNING: _S.ALIGNING},
    "pause": {_S.RUNNING: _S.PAUSED, _S.PAUSED: _S.PAUSED},
    "resume": {_S.PAUSED: _S.ALIGNING, _S.RUNNING: _S.RUNNING},
    # A stop is never refused: where nothing moves it changes nothing.
    "stop": dict.fromkeys((_S.ALIGNING, _S.RUNNING, _S.PAUSED), _S.STOPPING) | {s: s for s in _S if not s.moving},
    "estop": dict.fromkeys(_S, _S.ESTOP),
    "aligned": {_S.ALIGNING: _S.RUNNING},
    "at_rest": {_S.STOPPING: _S.HOLD},
    "dry": {_S.RUNNING: _S.STOPPING},
    "no_chunk": {_S.ALIGNING: _S.STOPPING},
    "worker_lost": dict.fromkeys((_S.ALIGNING, _S.RUNNING, _S.PAUSED), _S.STOPPING),
    "overrun": dict.fromkeys((_S.ALIGNING, _S.RUNNING, _S.PAUSED), _S.STOPPING),
    "supervisor_lost": dict.fromkeys((_S.ALIGNING, _S.RUNNING, _S.PAUSED), _S.STOPPING),
    "deadman_lost": dict.fromkeys((_S.ALIGNING, _S.RUNNING), _S.STOPPING),
    "sensors_lost": dict.fromkeys((_S.ALIGNING, _S.RUNNING), _S.STOPPING),
    "robot_lost": {s: _S.FAULT for s in _S if s not in (_S.OFFLINE, _S.ESTOP)},
    "robot_fault": {s: _S.FAULT for s in _S if s not in (_S.OFFLINE, _S.ESTOP)},
    "executor_fault": {s: _S.FAULT for s in _S if s.streaming},
}
_TABLE["stop"] |= {_S.PAUSED: _S.STOPPING}


def next_state(state: State, event: str) -> tuple[State, Outcome]:
    """Where ``event`` leads from ``state``. Defined for every pair.

    Operator events that make no sense in a state are refused; internal ones have no effect there.

    Raises:
        KeyError: the event is not one of :data:`EVENTS`.
    """
    ways = _TABLE[event]
    if state not in ways:
        return state, Outcome.REFUSED if event in OPERATOR_EVENTS else Outcome.UNCHANGED
    target = ways[state]
    return target, Outcome.UNCHANGED if target == state else Outcome.CHANGED
