"""One record per tick into the state ring: everything that anybody outside the real-time loop ever learns of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.executor import Tick
from robopolicy.deploy.intake import ChunkIntake
from robopolicy.deploy.records import EXECUTOR_MODES, REASONS, TEXT_BYTES, code_of
from robopolicy.deploy.shm import RecordRing, monotonic_ns
from robopolicy.deploy.state_machine import State
from robopolicy.types import RobotState

__all__ = ["TickRecorder"]


class TickRecorder:
    """Fills and publishes the record of a tick; keeps one record and writes it again and again.

    Args:
        ring: The state ring.
    """

    def __init__(self, ring: RecordRing):
        self._ring = ring
        self._record = np.zeros((), ring.dtype)
        self._count = 0

    def situation(
        self, *, state: State, epoch: int, reason: str, message: str, events_done: int, overruns: int
    ) -> None:
        """Where the state machine stands."""
        record = self._record
        record["state"], record["epoch"], record["reason"] = state, epoch, code_of(REASONS, reason)
        record["message"] = message.encode("utf-8", "replace")[:TEXT_BYTES]
        record["events_done"], record["overruns"] = events_done, overruns

    def motion(
        self,
        tick: Tick | None,
        *,
        command: NDArray[np.float64] | None,
        reach_ns: int,
        velocity_step: float,
        remaining_s: float,
    ) -> None:
        """What was sent, or None."""
        record = self._record
        record["streamed"] = tick is not None
        record["mode"] = 0 if tick is None else code_of(EXECUTOR_MODES, tick.mode)
        record["seam"] = tick is not None and tick.seam
        record["clipped"] = tick is not None and not tick.verdict.ok
        record["verdict"] = 0 if tick is None else tick.verdict.bits
        record["velocity_step"], record["remaining_s"] = velocity_step, remaining_s
        if tick is not None and command is not None:
            record["setpoint"], record["t_setpoint_ns"] = command, reach_ns

    def measured(self, state: RobotState | None) -> None:
        """What the robot said."""
        if state is not None:
            record = self._record
            record["t_robot_ns"], record["robot_fault"] = state.time_ns, state.fault
            record["position"], record["velocity"] = state.position, state.velocity

    def chunks(self, intake: ChunkIntake, now_ns: int) -> None:
        """What came out of the mailbox."""
        record, chunk = self._record, intake.accepted
        record["torn"], record["refused"] = intake.torn, list(intake.refused.values())
        record["accepted"] = chunk is not None
        record["inference_ms"] = 0.0 if chunk is None else chunk.inference_s * 1e3
        record["latency_ms"] = 0.0 if chunk is None else (now_ns - chunk.t_obs_ns) / 1e6

    def publish(self, due_ns: int, late_ns: int) -> None:
        """Write the record. ``work_ns`` is the time from the tick's beginning to here."""
        self._count += 1
        record = self._record
        record["t_ns"], record["late_ns"], record["tick"] = due_ns, late_ns, self._count
        record["work_ns"] = monotonic_ns() - due_ns - late_ns
        self._ring.write(record)
