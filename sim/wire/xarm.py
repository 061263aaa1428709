"""UFACTORY's control box for an xArm: commands on TCP 502, reports on 30000, 30001 and 30003, one loopback address.

It is played as the vendor's Python client 1.18 meets it, with what users report about the servo mode: of several
``servoJ`` only the newest is carried out, at the arm's own full speed; a step that the arm could not make in 50 ms is
error C24, a tool centre point faster than the box allows is C60; silence means that the last target is held. There is
no watchdog. Poses and torques of the reports are zero; the rates of the reports are options, firmwares differ.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.sim.plant import Plant
from robopolicy.sim.wire import xarm_frames as frames
from robopolicy.sim.wire.box import Watch, monotonic_ns
from robopolicy.sim.wire.faults import WireFaults
from robopolicy.sim.wire.recorder import WireRecorder
from robopolicy.sim.wire.xarm_frames import Function, Request
from robopolicy.sim.wire.xarm_gripper import GripperRegisters
from robopolicy.sim.wire.xarm_ports import COMMAND_PORT, Client, Ports

__all__ = ["VirtualXArm"]

Vector = NDArray[np.float64]

MOVING, STANDBY, PAUSED, STOPPED, CHANGED = 1, 2, 3, 4, 5
"""States as the vendor numbers them; CHANGED asks for ``set_state(0)`` after a change of mode."""
SERVO_MODE = 1
EMERGENCY, COLLISION, TOO_FAST, TOO_FAST_TIP = 1, 31, 24, 60
"""Error codes: emergency stop button, collision, speed limit of the joints, linear speed limit in servo mode."""
BIT_ERROR, BIT_WARNING, BIT_NOT_READY, BIT_INVALID = 0x40, 0x20, 0x10, 0x08
REACH_S = 0.05
TIP_WINDOW = 13


class VirtualXArm:
    """A :class:`~robopolicy.sim.wire.box.Box` that plays the control box of an xArm 5, 6 or 7.

    Args:
        card: The robot.
        plant: What its motors move.
        faults: Faults in force.
        address: Loopback address; empty takes the first of 127.42.1.1 to 127.42.20.250 that is free.
        port: Command port; 0 takes a free one. The vendor's is 502.
        report_port: Port of the first report, the others follow with the vendor's distances; 0 takes free ones.
        setpoint_hz: Nominal rate of the setpoints, at which their sequence is judged.
        report_hz: Rate of port 30003; 30000 reports every cycle, 30001 five times a second.
        firmware: Version that is told.
        tip_speed_m_s: Linear speed of the tool centre point at which C60 is raised.

    Raises:
        SimulationError: the ports cannot be bound.
    """

    period_s = 0.004
    _powered: bool
    _error: int

    def __init__(
        self,
        card: Embodiment,
        plant: Plant,
        faults: WireFaults,
        *,
        address: str = "",
        port: int = COMMAND_PORT,
        report_port: int = frames.REPORT_TIMED,
        setpoint_hz: float = 250.0,
        report_hz: float = 100.0,
        firmware: str = "v2.3.0",
        tip_speed_m_s: float = 1.0,
    ):
        self.plant, self.faults, self._card = plant, faults, card
        names = card.joints.names
        self._arm = [names.index(link.joint) for link in card.chain]
        self._end = names.index(card.gripper) if card.gripper else None
        self._limits = {kind: card.joints.limit(f"max_{kind}")[self._arm] for kind in ("velocity", "acceleration")}
        self._kinematics = RobotKinematics(card)
        self._tip_speed, self._firmware = tip_speed_m_s, firmware
        # The wire carries f32; the gripper's drive makes its own profile towards an end position.
        resolution = np.full(len(names), 2.0**-22)
        if self._end is not None:
            resolution[self._end] = 1.0
        self.recorder = WireRecorder(card, 1.0 / setpoint_hz, resolution)
        self._every = {
            frames.REPORT_TIMED: 1,
            frames.REPORT_NORMAL: max(round(0.2 / self.period_s), 1),
            frames.REPORT_REAL: max(round(1.0 / report_hz / self.period_s), 1),
        }
        self._ports = Ports(address, port, report_port, faults, self._serve)
        self.address, self._clients = self._ports.address, self._ports.clients
        self._cycles = self._refused = 0
        self._time_us = 0
        self.reset(plant.measure()[0])

    def files(self) -> list[Watch]:
        """Listeners and connections; none while the box is frozen."""
        if self.faults.freeze:
            return []
        return self._ports.files()

    def tick(self, time_ns: int) -> None:
        """One cycle: stops, motion, reports."""
        if self.faults.stopped and not self._error:
            self._stop(EMERGENCY if self.faults.emergency_stop else COLLISION)
            self._powered = self._powered and not self.faults.emergency_stop
        if not self.faults.freeze:
            self._move()
        whole = self.plant.measure()[0].copy()
        whole[self._arm] = self._target
        if self._end is not None:
            whole[self._end] = self._gripper.step(0.0 if self.faults.freeze else self.period_s)
        self.plant.servo(whole)
        self._cycles += 1
        if self.faults.freeze:
            return
        if not self.faults.silent_clock:
            self._time_us = time_ns // 1000
        self._report()
        self._ports.flush(monotonic_ns())

    def state(self) -> dict[str, Any]:
        """What a person at the teach pendant sees."""
        return {
            "at_rest": bool(np.abs(self._velocity).max() < 1e-9),
            "fault": bool(self._error),
            "error": self._error,
            "powered": self._powered,
            "mode": self._mode,
            "arm_state": self._state,
            "target": self._whole_target().tolist(),
            "refused": self._refused,
            "clients": {str(number): len(group) for number, group in self._clients.items()},
        }

    def reset(self, standing: ArrayLike) -> None:
        """A new scene."""
        whole = np.array(standing, float)
        self._target = self._newest = whole[self._arm].copy()
        self._velocity = np.zeros(len(self._arm))
        self._last_step = 0.0
        opening = 0.0 if self._end is None else float(whole[self._end])
        rate = 1.0 if self._end is None else float(self._card.joints.limit("max_velocity")[self._end])
        self._gripper = GripperRegisters(opening, 1.0 / rate)
        self._state, self._mode, self._error, self._powered = STOPPED, 0, 0, False
        self._tips: deque[Vector] = deque(maxlen=TIP_WINDOW)
        self.recorder.restart(whole)

    def recover(self) -> None:
        """The error is cleared; the arm has to be enabled again."""
        self._error, self._state = 0, STOPPED
        self._newest = self._target.copy()
        self.recorder.restart(self._whole_target())

    def close(self) -> None:
        """Close every socket."""
        self._ports.close()

    # ------------------------------------------------------------------ motion

    def _whole_target(self) -> Vector:
        whole = np.zeros(len(self._card.joints))
        whole[self._arm] = self._target
        if self._end is not None:
            whole[self._end] = self._gripper.opening
        return whole

    def _stop(self, error: int = 0) -> None:
        self._state, self._error = STOPPED, error or self._error
        self._tips.clear()

    @property
    def _follows(self) -> bool:
        return self._powered and not self._error and self._mode == SERVO_MODE and self._state in (MOVING, STANDBY)

    def _move(self) -> None:
        before = self._target
        if self._follows:
            most = self._limits["velocity"] * self.period_s * self.faults.speed_scale
            self._target = before + np.clip(self._newest - before, -most, most)
            self._velocity = (self._target - before) / self.period_s
            self._state = MOVING if np.abs(self._velocity).max() > 1e-9 else STANDBY
            self._check_tip()
            # Silence after a target that no longer moved is an end; silence in motion is a gap, which is counted.
            if self._last_step < 1e-6 and self.recorder.silent_s(monotonic_ns()) > 2 * self.recorder.period_s:
                self.recorder.restart(self._whole_target())
            return
        drop = self._limits["acceleration"] * self.period_s
        self._velocity = np.sign(self._velocity) * np.maximum(np.abs(self._velocity) - drop, 0.0)
        self._target = before + self._velocity * self.period_s
        self.recorder.restart(self._whole_target())

    def _check_tip(self) -> None:
        if self._state != MOVING:
            self._tips.clear()
            return
        self._tips.append(np.asarray(self._kinematics.tcp_state(self._whole_target()), float)[:3])
        if len(self._tips) == TIP_WINDOW:
            way_m = float(np.linalg.norm(self._tips[-1] - self._tips[0]))
            if way_m > self._tip_speed * (TIP_WINDOW - 1) * self.period_s:
                self._stop(TOO_FAST_TIP)

    def _servo_joint(self, payload: bytes) -> bool:
        """Take one ``servoJ``. -> whether it is understood."""
        if len(payload) != 40:
            return False
        wanted = np.frombuffer(payload, "<f4", 7).astype(float)[: len(self._arm)]
        if not self._follows:
            self._refused += 1
            return True
        whole = self._whole_target()
        whole[self._arm] = wanted
        self._last_step = float(np.abs(wanted - self._newest).max()) if np.isfinite(wanted).all() else np.inf
        self.recorder.setpoint(whole, monotonic_ns())
        if not np.isfinite(wanted).all():
            return False
        if (np.abs(wanted - self._target) > self._limits["velocity"] * REACH_S).any():
            self._stop(TOO_FAST)
        else:
            self._newest = wanted
        return True

    # ------------------------------------------------------------------ the wire

    def _serve(self, client: Client) -> None:
        while True:
            size = len(client.buffer)
            try:
                request, client.buffer = frames.take_request(client.buffer)
            except ValueError:
                return self._ports.drop(COMMAND_PORT, client)
            if request is None:
                if len(client.buffer) == size:
                    break
                continue
            understood, data = self._carry_out(request)
            self._ports.send(COMMAND_PORT, client, frames.answer(request, self._status(understood), data))
        self._ports.flush(monotonic_ns())

    def _status(self, understood: bool) -> int:
        ready = self._powered and self._state in (MOVING, STANDBY, PAUSED)
        return (BIT_ERROR if self._error else 0) | (0 if ready else BIT_NOT_READY) | (0 if understood else BIT_INVALID)

    def _carry_out(self, request: Request) -> tuple[bool, bytes]:
        """One request. -> (understood, data of the answer)."""
        function, payload = request.function, request.payload
        if function == Function.SERVO_JOINT:
            return self._servo_joint(payload), b""
        if function == Function.VERSION:
            axes = len(self._arm)
            return True, f"{axes},{axes},XI130100,AC130100,{self._firmware}".encode().ljust(40, b"\0")[:40]
        if function == Function.SERIAL:
            return True, b"XI13010000000000".ljust(40, b"\0")
        if function == Function.GET_STATE:
            return True, bytes([self._state])
        if function == Function.COMMAND_COUNT:
            return True, b"\0\0"
        if function == Function.ERRORS:
            return True, bytes([self._error, 0])
        if function == Function.JOINTS:
            actual = np.zeros(7)
            actual[: len(self._arm)] = self.plant.measure()[0][self._arm]
            return True, frames.floats(actual)
        if function == Function.TOOL_BUS and self._end is not None:
            try:
                return True, self._gripper.answer(payload, float(self.plant.measure()[0][self._end]))
            except ValueError:
                return False, b""
        return self._order(function, payload), b""

    def _order(self, function: int, payload: bytes) -> bool:
        value = payload[0] if payload else 0
        if function == Function.MOTION_ENABLE and len(payload) == 2:
            self._powered = bool(payload[1]) and not self.faults.emergency_stop
            self._newest = self._target.copy()
        elif function == Function.SET_MODE and payload:
            if value != self._mode:
                self._mode, self._state = value, CHANGED
        elif function == Function.SET_STATE and payload:
            if value == 0 and not self._error and self._powered:
                self._state, self._newest = STANDBY, self._target.copy()
                self.recorder.restart(self._whole_target())
            elif value in (PAUSED, STOPPED):
                self._state = value
        elif function == Function.CLEAR_ERRORS:
            if not self.faults.stopped:
                self.recover()
        elif function != Function.CLEAR_WARNINGS:
            return False
        return True

    def _report(self) -> None:
        for number, every in self._every.items():
            if self._clients[number] and self._cycles % every == 0:
                packet = self._packet(number)
                for client in list(self._clients[number]):
                    self._ports.send(number, client, packet)

    def _packet(self, number: int) -> bytes:
        position, velocity = self.plant.measure()
        wide = {name: np.zeros(7) for name in ("target", "target_velocity", "actual", "actual_velocity")}
        values = (self._target, self._velocity, position[self._arm], velocity[self._arm])
        for name, value in zip(wide, values, strict=True):
            wide[name][: len(self._arm)] = value
        if number == frames.REPORT_TIMED:
            return frames.timed_report(self._time_us, self._state, self._mode, 0, wide)
        if number == frames.REPORT_REAL:
            return frames.real_report(self._state, self._mode, 0, wide["actual"])
        return frames.normal_report(self._state, self._mode, 0, wide["actual"], self._powered, (self._error, 0))
