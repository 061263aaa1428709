"""A virtual Universal Robots e-Series controller: RTDE, script port, dashboard, and a Robotiq gripper's socket.

::

    with WireProcess("robopolicy.sim.wire.ur:VirtualUR", card="ur5e_2f85", host="127.0.0.2") as arm:
        control = rtde_control.RTDEControlInterface("127.0.0.2")

It plays PolyScope 5.15 as far as a client that servos needs it. Port numbers are UR's own, so each arm has a loopback
address of its own. The first six joints of the card are the arm's, in UR's order, signs and zeros; the gripper is the
next one, if there is one.

Faults reach the RTDE output stream (``drop``, ``delay_s``, ``corrupt``, ``disconnect``); ``corrupt`` flips bytes of the
values and leaves size and type of a packet whole, as TCP's checksum would have caught anything below.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.rotations import matrix_to_axis_angle, rotation_6d_to_matrix
from robopolicy.sim.plant import Plant
from robopolicy.sim.wire.box import Watch, monotonic_ns
from robopolicy.sim.wire.faults import WireFaults
from robopolicy.sim.wire.recorder import WireRecorder
from robopolicy.sim.wire.robotiq import RobotiqGripper
from robopolicy.sim.wire.ur_dashboard import BANNER, Dashboard
from robopolicy.sim.wire.ur_dispatcher import PLAYING, UrController
from robopolicy.sim.wire.ur_rtde import Claims, RtdeSession, packet, split_packets
from robopolicy.sim.wire.ur_sockets import Listener, Peer

__all__ = ["VirtualUR"]

RTDE_PORT, SCRIPT_PORT, DASHBOARD_PORT, GRIPPER_PORT = 30004, 30003, 29999, 63352
VERSION = (5, 15, 0, 126)
MOST_SCRIPT = 1 << 20
JOINTS = 6
STREAM_OPEN = 1.0


class VirtualUR:
    """A :class:`~robopolicy.sim.wire.box.Box`.

    Args:
        card: Six arm joints, then at most a gripper.
        plant: What its motors move. If it has a method ``wrench() -> [6]``, that is the TCP force.
        faults: Faults in force.
        host: Address to listen at; ``auto`` takes a loopback address where nobody listens yet.
        stream_hz: Rate at which targets are meant to come; the limits are judged at its period.
        gripper_active: Whether the gripper has been activated already.
        remote: Whether the pendant's switch is at remote control.

    Raises:
        SimulationError: another kind of card, or a port is taken.
    """

    period_s = 0.002

    def __init__(
        self,
        card: Embodiment,
        plant: Plant,
        faults: WireFaults,
        *,
        host: str = "127.0.0.2",
        stream_hz: float = 500.0,
        gripper_active: bool = False,
        remote: bool = True,
    ):
        self.card, self.plant, self.faults = card, plant, faults
        joints = len(card.joints)
        if joints not in (JOINTS, JOINTS + 1):
            raise SimulationError(explain("not a UR's card", given=f"{joints} joints", allowed="6, and a gripper"))
        self._gripper = (
            RobotiqGripper(card.gripper_width_m, self.period_s, active=gripper_active) if joints > 6 else None
        )
        # A gripper is given goals, not setpoints, and plans its own motion: only the arm's steps are judged.
        resolution = np.array([0.0] * JOINTS + [STREAM_OPEN] * (joints - JOINTS))
        self.recorder = WireRecorder(card, 1.0 / stream_hz, resolution)
        self._kinematics = RobotKinematics(card)
        limits = card.joints.limit("max_velocity")[:JOINTS]
        self._controller = UrController(self.period_s, limits, self._target, self._end)
        self._dashboard = Dashboard(self._controller, VERSION, remote=remote)
        self._claims, self._sessions = Claims(), dict[Peer, RtdeSession]()
        self._pressed, self._snapshot, self._end_reason = False, dict[str, Any](), ""
        self._ports: list[Listener] = []
        self.address: dict[str, Any] = {"address": self._listen(host)}
        self.reset(plant.measure()[0])

    def files(self) -> list[Watch]:
        """Every socket; none while frozen."""
        if self.faults.freeze:
            return []
        return [watch for port in self._ports for watch in port.files()]

    def tick(self, time_ns: int) -> None:
        """One controller cycle."""
        now_ns, faults = monotonic_ns(), self.faults
        self._doors()
        if faults.freeze:
            self.plant.servo(self._commanded)
            return
        if not faults.silent_clock:
            self._stops()
            before = self._controller.watchdog_stops
            self._controller.cycle(now_ns, faults.speed_scale)
            self.recorder.watchdog_stops += self._controller.watchdog_stops - before
        position, velocity = self.plant.measure()
        self._commanded[:JOINTS] = self._controller.position
        if self._gripper is not None:
            self._commanded[JOINTS] = self._gripper.cycle(float(position[JOINTS]))
        self.plant.servo(self._commanded)
        if not faults.silent_clock or not self._snapshot:
            self._snapshot = self._values(position, velocity)
        self._publish(now_ns)

    def state(self) -> dict[str, Any]:
        """Plain values for a report."""
        controller = self._controller
        gripper = None if self._gripper is None else self._gripper.goal
        return {
            "at_rest": controller.at_rest,
            "fault": controller.protective or controller.emergency,
            "powered": controller.mode == 7,
            "target": self._commanded.tolist(),
            "playing": controller.runtime == PLAYING,
            "servoing": controller.servoing,
            "programs": controller.programs,
            "ignored": controller.ignored,
            "clock_s": controller.clock_s,
            "rest_after_s": controller.rest_after_s,
            "ended_by": self._end_reason,
            "gripper_goal": gripper,
            "clients": len(self._sessions),
        }

    def reset(self, standing: ArrayLike) -> None:
        """The arm stands at ``standing`` [J] of a new scene."""
        pose = np.array(standing, float)
        self._commanded = pose.copy()
        self._controller.reset(pose[:JOINTS])
        if self._gripper is not None:
            self._gripper.reset(float(pose[JOINTS]))
        self.recorder.restart(pose)

    def recover(self) -> None:
        """A person cleared the stop."""
        self._pressed = False
        self._controller.recover()

    def close(self) -> None:
        """Close every socket."""
        for port in self._ports:
            port.close()
        for session in self._sessions.values():
            session.close()
        self._ports, self._sessions = [], {}

    def _listen(self, host: str) -> str:
        """Open every port. -> the address."""
        number = os.getpid()
        own = [f"127.{64 + number // 250 % 128}.{1 + number % 250}.{last}" for last in range(2, 34)]
        for one in own if host == "auto" else [host]:
            try:
                self._open(one)
                return one
            except SimulationError:
                self.close()
                if one in (host, own[-1]):
                    raise
        raise AssertionError("the last one either listens or raises")

    def _open(self, host: str) -> None:
        wanted = [
            (RTDE_PORT, self._new_client, self._rtde),
            (SCRIPT_PORT, _nothing, self._script),
            (DASHBOARD_PORT, self._greet, self._lines_dashboard),
        ]
        if self._gripper is not None:
            wanted.append((GRIPPER_PORT, _nothing, self._lines_gripper))
        for number, accepted, received in wanted:
            self._ports.append(Listener(host, number, accepted=accepted, received=received))

    def _doors(self) -> None:
        for port in self._ports:
            if self.faults.refuse:
                port.refuse()
            else:
                port.open()
        for peer in [p for p in self._sessions if p.closed]:
            self._sessions.pop(peer).close()

    def _stops(self) -> None:
        faults, controller = self.faults, self._controller
        if faults.stopped and not self._pressed:
            controller.halt(emergency=faults.emergency_stop)
            self._pressed = True
        elif self._pressed and not (controller.protective or controller.emergency):
            # unlocked over the dashboard
            faults.protective_stop, self._pressed = False, False

    def _target(self, position: Sequence[float]) -> None:
        self.recorder.setpoint(self._full(position), monotonic_ns())

    def _end(self, reason: str) -> None:
        self._end_reason = reason
        self.recorder.restart(self._full(self.plant.measure()[0][:JOINTS]))

    def _full(self, arm: Sequence[float] | np.ndarray) -> np.ndarray:
        """[J] arm joints, and the goal that the gripper was given last."""
        full = np.empty(len(self.card.joints))
        full[:JOINTS] = arm
        if self._gripper is not None:
            full[JOINTS] = self._gripper.goal
        return full

    def _values(self, position: np.ndarray, velocity: np.ndarray) -> dict[str, Any]:
        values = self._controller.outputs(self.faults.speed_scale)
        values["actual_q"], values["actual_qd"] = position[:JOINTS].tolist(), velocity[:JOINTS].tolist()
        wrench = getattr(self.plant, "wrench", None)
        if wrench is not None:
            values["actual_TCP_force"] = values["ft_raw_wrench"] = [float(v) for v in wrench()]
        return values

    def _publish(self, now_ns: int) -> None:
        faults = self.faults
        due_ns = now_ns + round(faults.delay_s * 1e9)
        for peer, session in self._sessions.items():
            if any(n in session.names for n in ("actual_TCP_pose", "target_TCP_pose")):
                self._snapshot["actual_TCP_pose"] = self._snapshot["target_TCP_pose"] = self._pose()
            whole = session.outputs(self._snapshot)
            if not whole:
                continue
            if faults.disconnect:
                peer.send(whole[: len(whole) // 2])
                peer.flush(now_ns)
                peer.close()
                continue
            payload = faults.answer(whole[3:])
            if payload is not None:
                peer.send(packet("U", payload), due_ns=due_ns)
        if faults.disconnect and self._sessions:
            faults.disconnect = False
        for port in self._ports:
            port.flush(now_ns)

    def _pose(self) -> list[float]:
        state = np.asarray(self._kinematics.tcp_state(self.plant.measure()[0]), float)
        return [*state[:3].tolist(), *matrix_to_axis_angle(rotation_6d_to_matrix(state[3:9])).tolist()]

    def _new_client(self, peer: Peer) -> None:
        self._sessions[peer] = RtdeSession(VERSION, 1.0 / self.period_s, self._claims, self._write)

    def _write(self, names: Sequence[str], values: Sequence[Any]) -> None:
        self._controller.write(names, values, monotonic_ns())

    def _rtde(self, peer: Peer, data: bytes) -> None:
        session = self._sessions[peer]
        try:
            found, peer.buffer = split_packets(peer.buffer + data)
        except SimulationError:
            peer.close()
            return
        for kind, payload in found:
            peer.send(session.receive(kind, payload))
        peer.flush(monotonic_ns())

    def _script(self, peer: Peer, data: bytes) -> None:
        peer.buffer += data
        while (at := peer.buffer.find(b"\nend\n")) >= 0:
            source, peer.buffer = peer.buffer[: at + 5], peer.buffer[at + 5 :]
            self._controller.start(source.decode("utf-8", "replace"), monotonic_ns())
        peer.buffer = peer.buffer[-MOST_SCRIPT:]

    def _greet(self, peer: Peer) -> None:
        peer.send(BANNER.encode())
        peer.flush(monotonic_ns())

    def _lines_dashboard(self, peer: Peer, data: bytes) -> None:
        for line in _lines(peer, data):
            peer.send(self._dashboard.answer(line).encode())
        peer.flush(monotonic_ns())

    def _lines_gripper(self, peer: Peer, data: bytes) -> None:
        assert self._gripper is not None
        for line in _lines(peer, data):
            peer.send(self._gripper.answer(line).encode())
        peer.flush(monotonic_ns())


def _nothing(peer: Peer) -> None:
    """A client that is not greeted."""


def _lines(peer: Peer, data: bytes) -> list[str]:
    *whole, peer.buffer = (peer.buffer + data).split(b"\n")
    peer.buffer = peer.buffer[-4096:]
    return [line.decode("ascii", "replace") for line in whole]
