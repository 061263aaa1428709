"""Driver of Franka arms (Panda, FR3) on the vendor's ``pylibfranka`` (extra ``franka``).

libfranka wants a new position every millisecond. A process of its own keeps that cycle (``franka_loop.py``); this
driver hands it setpoints with their times and gets states back. Between setpoints the process plays a B-spline, joint
positions under the robot's own joint impedance controller. Cycles that were lost are counted; when the robot aborts
(``communication_constraints_violation``, a reflex), that is a fault, and only :meth:`FrankaDriver.enable`, which a
person asks for, calls the robot's error recovery.

A Franka takes one controlling connection, so there is no stop channel beside it: the process brakes by itself when the
driver's process dies, and the emergency stop button is the rest.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from robopolicy.deploy.drivers.franka_hand import OPENING
from robopolicy.deploy.drivers.franka_loop import ORDER, STATE, TEXT
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["FrankaDriver"]

CONNECT_S, ENABLE_S, END_S = 10.0, 3.0, 3.0


class FrankaDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` of a Panda or FR3.

    Args:
        card: Seven joints in the order of the arm, with or without a gripper.
        tick_s: Time between two setpoints.
        timeout_s: How long the robot's clock may stand still.
        address: Of the control box.
        gripper: ``hand`` for the Franka Hand, ``none`` when the card's gripper channel shall only be mirrored.
        realtime: ``enforce`` refuses a kernel without real-time scheduling, the vendor's default; ``ignore`` does not.
        priority: SCHED_FIFO priority of the 1 kHz process.
        longest_ratio: How much faster than its own clock the robot may play the path to keep up with the host's.

    Attributes:
        lost: Robot cycles that had no command in time.
        success_rate: Share of the last hundred commands that arrived, as the robot counts.

    Raises:
        DeployError: the card cannot be a Franka, or an unknown option.
    """

    buffered = True

    def __init__(
        self,
        card: Embodiment,
        *,
        tick_s: float,
        timeout_s: float,
        address: str,
        gripper: str = "none",
        realtime: str = "enforce",
        priority: int = 85,
        longest_ratio: float = 1.02,
    ):
        names = card.joints.names
        self._arm = [names.index(link.joint) for link in card.chain]
        self._end = names.index(card.gripper) if card.gripper else None
        if len(self._arm) != 7 or len(names) - 7 - (self._end is not None):
            raise DeployError(
                explain(f"the card '{card.name}' is no Franka", given=names, allowed="7 joints, a gripper")
            )
        if gripper not in ("none", "hand") or realtime not in ("enforce", "ignore") or longest_ratio < 1:
            given = f"gripper={gripper}, realtime={realtime}, longest_ratio={longest_ratio}"
            raise DeployError(explain("unknown option", given=given, allowed="none, hand; enforce, ignore; at least 1"))
        self._card, self._tick_s, self._timeout_s, self._address = card, tick_s, timeout_s, address
        self._wants_hand = gripper == "hand" and self._end is not None
        self._settings = {
            "address": address,
            "tick_s": tick_s,
            "publish_s": min(tick_s / 2, 0.002),
            "realtime": realtime,
            "priority": priority,
            "longest_ratio": longest_ratio,
            "max_acceleration": card.joints.limit("max_acceleration")[self._arm].tolist(),
            "max_jerk": card.joints.limit("max_jerk")[self._arm].tolist(),
        }
        self._line: socket.socket | None = None
        self._hand_line: socket.socket | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self.flags = 0
        self._forget()

    def _forget(self) -> None:
        self._record: tuple[Any, ...] | None = None
        self._clock_ms, self._advanced_ns, self._said = -1, 0, ""
        self._enabled = False
        self._opening = float(self._card.home_position[self._end]) if self._end is not None else 0.0
        self.lost, self.success_rate = 0, 1.0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        return self._card

    def connect(self) -> None:
        """Start the 1 kHz process and wait for the first state.

        Raises:
            DeployError: no package, no robot, another version of its interface.
        """
        if self._line is not None:
            return
        self._line = self._start("robopolicy.deploy.drivers.franka_loop", self._settings)
        try:
            until = time.monotonic() + CONNECT_S
            while self._record is None:
                self._wait(until, "the Franka does not answer", "is it unlocked, FCI active, and the address right?")
            if self._wants_hand:
                arm = self._card.arm()
                told = {"address": self._address, "width_m": arm.gripper_width_m}
                self._hand_line = self._start("robopolicy.deploy.drivers.franka_hand", told)
        except BaseException:
            self.close()
            raise

    def enable(self) -> None:
        """Begin to control at the present pose; clears a reflex, since a person has asked for it.

        Raises:
            DeployError: the robot refuses, with its own words.
        """
        self._poll()
        self._said = ""
        self._send(b"E", 0, np.zeros(7))
        until = time.monotonic() + ENABLE_S
        while not (self._record is not None and self._record[3] and not self._record[4]):
            self._wait(until, "the Franka does not take control", "look at Desk: unlocked, no error, FCI active?")
        self._enabled = True

    def read(self) -> RobotState:
        """Newest state.

        Raises:
            DeployError: not connected, the 1 kHz process has ended, or the robot's clock stands still.
        """
        self._poll()
        record = self._record
        if record is None:
            raise DeployError(explain("the Franka is not connected", mend="call connect() first"))
        silent_s = (monotonic_ns() - self._advanced_ns) / 1e9
        if silent_s > self._timeout_s or self._line is None:
            given = self._said or f"{silent_s:.3f} s"
            raise DeployError(explain("the Franka's clock stands still", given=given, allowed=f"{self._timeout_s} s"))
        self.lost, self.success_rate = int(record[5]), float(record[6])
        # control that has ended without a stop() is a fault too: the loop has said why
        fault = bool(record[4]) or (self._enabled and not record[3])
        position, velocity = np.zeros(len(self._card.joints)), np.zeros(len(self._card.joints))
        position[self._arm], velocity[self._arm] = record[7:14], record[14:21]
        if self._end is not None:
            position[self._end] = self._opening
        return RobotState(self._advanced_ns, position, velocity, fault)

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Hand on one setpoint with the time at which it is to be reached.

        Raises:
            DeployError: not connected, not finite, or of another width.
        """
        wanted = np.asarray(setpoint.position, float)
        if wanted.shape != (len(self._card.joints),) or not np.isfinite(wanted).all():
            allowed = f"{len(self._card.joints)} finite numbers"
            raise DeployError(explain("not a setpoint", given=wanted, allowed=allowed))
        if self._record is None:
            raise DeployError(explain("the Franka is not connected", mend="call connect() first"))
        self._send(b"S", setpoint.time_ns, wanted[self._arm])
        if self._end is not None:
            if self._hand_line is None:
                self._opening = float(wanted[self._end])
            else:
                with contextlib.suppress(OSError):
                    self._hand_line.send(OPENING.pack(float(wanted[self._end])))

    def hold(self) -> None:
        """Nothing to say: a stream that ends at rest stands, under control."""

    def stop(self) -> None:
        """Brake within the card's acceleration and give control back; the robot then holds its pose by itself."""
        if self._line is not None:
            self._send(b"X", 0, np.zeros(7))
        self._enabled = False

    def close(self) -> None:
        """Brake, give control back, end the processes."""
        for line, order in ((self._line, ORDER.pack(b"Q", 0, *[0.0] * 7)), (self._hand_line, b"")):
            if line is not None:
                with contextlib.suppress(OSError):
                    line.send(order)
                line.shutdown(socket.SHUT_WR)
        for child in self._children:
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                # a robot that no longer answers leaves the library waiting; there is nothing left to brake
                child.kill()
                child.wait()
        for line in (self._line, self._hand_line):
            if line is not None:
                line.close()
        self._line = self._hand_line = None
        self._children.clear()
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, module: str, settings: dict[str, Any]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, "-m", module, str(theirs.fileno()), json.dumps(settings)]
            self._children.append(subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL))
        ours.setblocking(False)
        return ours

    def _wait(self, until: float, what: str, mend: str) -> None:
        """Wait for news.

        Raises:
            DeployError: the process has ended or complained, or time is up.
        """
        line = self._line
        if line is not None and not self._said:
            select.select([line], [], [], 0.05)
            self._poll()
        if self._said or self._line is None or time.monotonic() > until:
            raise DeployError(explain(what, given=self._said or self._address, mend=mend))

    def _poll(self) -> None:
        """Take every message; the last state counts."""
        while self._line is not None:
            try:
                data = self._line.recv(1024)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._line.close()
                self._line = None
            elif data[:1] == TEXT:
                self._said = data[1:].decode("utf-8", "replace")
            elif len(data) == STATE.size:
                self._record = STATE.unpack(data)
                if self._record[2] != self._clock_ms:
                    self._clock_ms, self._advanced_ns = int(self._record[2]), int(self._record[1])
        if self._hand_line is not None:
            with contextlib.suppress(OSError):
                while len(data := self._hand_line.recv(64)) == OPENING.size:
                    self._opening = min(max(OPENING.unpack(data)[0], 0.0), 1.0)

    def _send(self, kind: bytes, time_ns: int, position: Any) -> None:
        if self._line is None:
            return
        with contextlib.suppress(OSError):  # gone or full: read() finds that out
            self._line.send(ORDER.pack(kind, time_ns, *position))
