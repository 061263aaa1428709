"""Layout of everything that lives in shared memory, and the words behind its codes.

=========  ==========================  ============================================================
segment    writer -> reader            content
=========  ==========================  ============================================================
mailbox    policy worker -> realtime   chunks, see :mod:`robopolicy.deploy.mailbox`
state      realtime -> all             one record per tick (``StateRing``)
tape       realtime -> logger          what went into each tick and came out, see :mod:`robopolicy.deploy.blackbox_tape`
recording  logger -> supervisor        how the black box is doing
schedule   realtime -> policy worker   what is going to be executed, after every chunk that was accepted
events     supervisor -> realtime      operator and internal events of the state machine
setpoints  realtime -> robot           time-stamped setpoints (simulated robot only)
robot      robot -> realtime           measured state and the controller's own time
report     robot -> supervisor         what the robot counted: received, missing, violations
commands   supervisor -> robot         scene resets and snapshots (simulated robot only)
frames     robot -> worker, supervisor sensor frames at ``control_hz``
heartbeat  everyone                    one word per process
=========  ==========================  ============================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.control.setpoint_check import VIOLATIONS
from robopolicy.deploy.blackbox_tape import tape_dtype
from robopolicy.deploy.mailbox import chunk_dtype
from robopolicy.embodiment import Embodiment

__all__ = [
    "EXECUTOR_MODES",
    "FLAG_END",
    "FLAG_MOVING",
    "FLAG_RUNNING",
    "PROCESSES",
    "REASONS",
    "REFUSALS",
    "Layout",
    "code_of",
]

PROCESSES = ("supervisor", "realtime", "worker", "robot", "logger", "operator", "deadman", "guardian", "sensors")
"""Words of the heartbeat segment."""

EXECUTOR_MODES = ("none", "tracking", "stopping", "holding", "fault")
"""``Tick.mode`` as numbers; ``none`` where nothing is computed."""

REFUSALS = ("epoch", "embodiment", "shape", "dt", "non_finite", "future", "old", "stale", "not_running", "executor")
"""Why a chunk did not become motion."""

REASONS = (
    "",
    "operator",
    "estop",
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
"""Why the arm last left a moving state."""

FLAG_RUNNING, FLAG_MOVING, FLAG_END = 1, 2, 4
"""Flags of a setpoint: the arm is RUNNING (a gap counts as missing); it may move; the stream ends here on purpose."""

MAX_ENVIRONMENT, MAX_INITIAL = 64, 32
TEXT_BYTES = 160


def code_of(words: tuple[str, ...], word: str) -> int:
    """Index of ``word``; 0 for a word that is not listed."""
    return words.index(word) if word in words else 0


@dataclass(frozen=True)
class Layout:
    """Sizes that decide every dtype.

    Attributes:
        joints: ``J``.
        action: ``A``.
        state: ``S``.
        cameras: (name, height, width) of the streamed cameras.
        chunk_steps: Longest chunk.
        state_capacity: Records of the state ring.
    """

    joints: int
    action: int
    state: int
    cameras: tuple[tuple[str, int, int], ...]
    chunk_steps: int
    state_capacity: int

    @classmethod
    def of(cls, card: Embodiment, *, cameras: tuple[str, ...], chunk_steps: int, state_capacity: int) -> Layout:
        """The layout for one embodiment card."""
        found = [card.camera(name) for name in cameras]
        sizes = tuple((c.name, c.height, c.width) for c in found)
        return cls(len(card.joints), len(card.action), len(card.state), sizes, chunk_steps, state_capacity)

    @property
    def rings(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """Segment name -> (dtype, capacity) of every plain ring."""
        return {
            "state": (self.state_dtype, self.state_capacity),
            "tape": (tape_dtype(self.joints, len(PROCESSES)), self.state_capacity),
            "recording": (RECORDING, 8),
            "schedule": (chunk_dtype(self.chunk_steps, self.action), 4),
            "events": (EVENT, 64),
            "setpoints": (self.setpoint_dtype, 512),
            "robot": (self.robot_dtype, 64),
            "report": (REPORT, 8),
            "commands": (COMMAND, 16),
            "frames": (self.frame_dtype, 32),
        }

    @property
    def state_dtype(self) -> np.dtype[Any]:
        """One tick of the real-time loop. Times in ns, joints in the card's order and units."""
        joints = (self.joints,)
        return np.dtype(
            [
                ("t_ns", "<i8"),
                ("t_robot_ns", "<i8"),
                ("t_setpoint_ns", "<i8"),
                ("late_ns", "<i8"),
                ("work_ns", "<i8"),
                ("epoch", "<u8"),
                ("tick", "<u8"),
                ("events_done", "<u8"),
                ("state", "u1"),
                ("mode", "u1"),
                ("reason", "u1"),
                ("seam", "u1"),
                ("accepted", "u1"),
                ("clipped", "u1"),
                ("streamed", "u1"),
                ("robot_fault", "u1"),
                ("verdict", "<u4"),
                ("velocity_step", "<f4"),
                ("inference_ms", "<f4"),
                ("latency_ms", "<f4"),
                ("remaining_s", "<f4"),
                ("overruns", "<u8"),
                ("refused", "<u8", (len(REFUSALS),)),
                ("torn", "<u8"),
                ("position", "<f8", joints),
                ("velocity", "<f8", joints),
                ("setpoint", "<f8", joints),
                ("message", f"S{TEXT_BYTES}"),
            ]
        )

    @property
    def setpoint_dtype(self) -> np.dtype[Any]:
        """One setpoint on the wire to the simulated robot; ``time_ns`` is when it is to be reached."""
        return np.dtype([("time_ns", "<i8"), ("sent_ns", "<i8"), ("flags", "<u8"), ("position", "<f8", (self.joints,))])

    @property
    def robot_dtype(self) -> np.dtype[Any]:
        """State of the robot; ``target`` is what its controller commands its motors to."""
        joints = (self.joints,)
        names = ("position", "velocity", "target", "target_velocity")
        return np.dtype([("time_ns", "<i8"), ("fault", "<u8"), *((n, "<f8", joints) for n in names)])

    @property
    def frame_dtype(self) -> np.dtype[Any]:
        """One sensor frame; ``scene`` counts resets, ``step`` the control steps since the reset."""
        return np.dtype(
            [
                ("time_ns", "<i8"),
                ("scene", "<u8"),
                ("step", "<u8"),
                ("index", "<u8"),
                ("split", "S16"),
                ("success", "u1"),
                ("environment_width", "u1"),
                ("state", "<f4", (self.state,)),
                ("joint_position", "<f4", (self.joints,)),
                ("environment_state", "<f4", (MAX_ENVIRONMENT,)),
                *((f"image/{name}", "u1", (height, width, 3)) for name, height, width in self.cameras),
            ]
        )


EVENT = np.dtype([("time_ns", "<i8"), ("event", "S24")])
"""One event for the state machine."""

COMMAND = np.dtype([("kind", "S16"), ("split", "S16"), ("index", "<u8")])
"""An order to the simulated robot: ``reset`` (split, index) or ``snapshot``."""

RECORDING = np.dtype(
    [
        ("recording", "u1"),
        *((name, "<u8") for name in ("bytes", "records", "lost", "files", "dumps")),
        ("file", f"S{TEXT_BYTES}"),
        ("message", f"S{TEXT_BYTES}"),
    ]
)
"""State of the black box: bytes and records in this file, records lost since the logger began."""

REPORT = np.dtype(
    [
        ("time_ns", "<i8"),
        ("done", "<u8"),
        ("scene", "<u8"),
        ("failed", "u1"),
        ("ticks", "<u8"),
        ("received", "<u8"),
        ("running", "<u8"),
        ("missing", "<u8"),
        ("gaps", "<u8"),
        ("late", "<u8"),
        ("lost", "<u8"),
        ("watchdog_stops", "<u8"),
        ("slips", "<u8"),
        ("behind_ms", "<f8"),
        ("setpoint_hz", "<f8"),
        ("violations", "<u8", (len(VIOLATIONS),)),
        ("worst", "<f8", (len(VIOLATIONS),)),
        ("at_rest", "u1"),
        ("horizon", "<u8"),
        ("initial_width", "u1"),
        ("initial_state", "<f8", (MAX_INITIAL,)),
        ("message", f"S{TEXT_BYTES}"),
    ]
)
"""Counts of the simulated robot since the last reset; ``done`` is the number of the last command carried out."""
