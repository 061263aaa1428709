"""A half-duplex servo bus on a pseudo-terminal: what Feetech and Dynamixel arms have in common, whatever the framing.

The master side of the terminal is served here; a driver opens the other side as it would open ``/dev/ttyUSB0``. What
the servos remember is a memory table each, as on the real thing, and everything that a driver does is a read or a write
of it. Motion, torque, faults and the judgement of goals live in :mod:`robopolicy.sim.wire.servo_motion`.
"""

from __future__ import annotations

import contextlib
import os
import tty
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from robopolicy.embodiment import Embodiment
from robopolicy.errors import SimulationError, explain
from robopolicy.sim.plant import Plant
from robopolicy.sim.wire.box import Watch, monotonic_ns
from robopolicy.sim.wire.faults import WireFaults
from robopolicy.sim.wire.servo_motion import ServoMotion, StepScale

__all__ = ["PtyLine", "SerialServoBus", "Servo"]

LONGEST_BUFFER = 4096


class PtyLine:
    """A pseudo-terminal in raw mode.

    Args:
        link: Where to keep a symbolic link to the device, as udev does below ``/dev/serial/by-id``; empty for none.

    Attributes:
        device: Path of the side that a driver opens.
    """

    def __init__(self, link: str = ""):
        self._link = Path(link) if link else None
        master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(master, False)
        # A file object, not a number: the next terminal may get the same number.
        self.file = os.fdopen(master, "r+b", buffering=0)
        self.device = os.ttyname(self._slave)
        if self._link is not None:
            beside = self._link.with_name(f"{self._link.name}.{os.getpid()}")
            beside.unlink(missing_ok=True)
            beside.symlink_to(self.device)
            beside.replace(self._link)

    def read(self) -> bytes:
        """What has arrived."""
        return self.file.read(65536) or b""

    def write(self, data: bytes) -> None:
        """Send; what a client that does not read has no room for is lost."""
        with contextlib.suppress(BlockingIOError):
            self.file.write(data)

    def close(self) -> None:
        """Pull the plug: the other side reads an error."""
        if not self.file.closed:
            self.file.close()
            os.close(self._slave)
        if self._link is not None:
            self._link.unlink(missing_ok=True)


class Servo:
    """The memory of one servo.

    Args:
        number: Its bus identifier.
        joint: Which channel of the card it moves.
        size: Bytes of its table.

    Attributes:
        table: The bytes.
        registered: A write that waits for an action.
        heard_ns: When an instruction was last on the wire.
    """

    def __init__(self, number: int, joint: int, size: int):
        self.number, self.joint = number, joint
        self.table = bytearray(size)
        self.registered: tuple[int, bytes] | None = None
        self.heard_ns = 0

    def get(self, address: int, size: int, *, signed: bool = False) -> int:
        """Little-endian number at ``address``."""
        return int.from_bytes(self.table[address : address + size], "little", signed=signed)

    def put(self, address: int, size: int, value: int) -> None:
        """Store a number, negative ones as two's complement."""
        self.table[address : address + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


class SerialServoBus(ABC):
    """A :class:`~robopolicy.sim.wire.box.Box` of several servos on one wire.

    Args:
        card: The robot.
        plant: What the servos move.
        faults: Faults in force.
        setpoint_hz: Rate at which goals are meant to come; the card's by default.
        ids: Bus identifiers by joint; 1, 2, 3 ... by default.
        calibration: joint -> {zero_step, sign} or {lower_step, upper_step}; see :class:`StepScale`.
        lag_s: Time constant of a servo's position loop; 0 where the plant's own motors have one.
        overload_joint: Which servo overloads at a protective stop.
        hand: ``sweep``: while no servo is powered a hand moves the arm to zero and through its range, again and again.
        link: See :class:`PtyLine`.
    """

    period_s: ClassVar[float]
    table_bytes: ClassVar[int]

    def __init__(
        self,
        card: Embodiment,
        plant: Plant,
        faults: WireFaults,
        *,
        setpoint_hz: float | None = None,
        ids: Sequence[int] | None = None,
        calibration: Mapping[str, Mapping[str, float]] | None = None,
        lag_s: float = 0.02,
        overload_joint: int = 1,
        hand: str = "",
        link: str = "",
    ):
        joints = len(card.joints)
        numbers = list(range(1, joints + 1)) if ids is None else list(ids)
        if len(set(numbers)) != joints or not all(0 <= n < 253 for n in numbers):
            raise SimulationError(explain("one bus identifier per joint is needed", given=numbers, allowed="0..252"))
        self.card, self.plant, self.faults, self._link = card, plant, faults, link
        self.motion = ServoMotion(
            card,
            plant,
            StepScale(card, calibration or {}),
            period_s=self.period_s,
            setpoint_s=1.0 / setpoint_hz if setpoint_hz else card.tick_s,
            lag_s=lag_s,
            hand=hand,
        )
        self.recorder = self.motion.recorder
        self._overload_joint = overload_joint
        self.servos = {n: Servo(n, joint, self.table_bytes) for joint, n in enumerate(numbers)}
        self._by_joint = list(self.servos.values())
        self.counts: Counter[str] = Counter()
        self._buffer, self._late = b"", deque[tuple[int, bytes]]()
        self._cut = self._frozen = self._stopped = False
        self.now_ns = monotonic_ns()
        self._line: PtyLine | None = None
        self._plug()
        for servo in self._by_joint:
            self.boot(servo)

    # -- what a protocol adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def parse(self, buffer: bytes) -> bytes:
        """Carry out every whole packet of ``buffer``. -> what remains of it."""

    @abstractmethod
    def boot(self, servo: Servo) -> None:
        """Fill the table as after switching on, torque off."""

    @abstractmethod
    def refresh(self, servo: Servo) -> None:
        """Write what the servo measures into its table."""

    @abstractmethod
    def drive(self, servo: Servo) -> None:
        """Tell the motion torque, goal and profile of this table."""

    @abstractmethod
    def overload(self, servo: Servo) -> None:
        """Latch an overload."""

    def watch(self, servo: Servo) -> None:  # noqa: B027 - a make without watchdogs has nothing to add
        """Once per cycle and servo: watchdogs. None by default."""

    # -- the Box ----------------------------------------------------------------------------------------------------

    def files(self) -> list[Watch]:
        """The terminal."""
        # what came while it was frozen is thrown away by the next cycle, before anything is read
        if self._line is None or self.faults.freeze or self._frozen:
            return []
        return [(self._line.file, self._receive)]

    def tick(self, time_ns: int) -> None:
        """One cycle: faults, watchdogs, motion, late answers."""
        self.now_ns = monotonic_ns()
        self._apply_faults()
        frozen = self.faults.freeze
        if not frozen and not self._cut:
            for servo in self._by_joint:
                self.watch(servo)
        self.motion.advance(self.now_ns, hung=frozen or self.faults.silent_clock, scale=self.faults.speed_scale)
        if not frozen and not self._cut and not self.faults.silent_clock:
            for servo in self._by_joint:
                self.refresh(servo)
        while self._late and self._late[0][0] <= self.now_ns and not frozen:
            self._write(self._late.popleft()[1])

    def state(self) -> dict[str, Any]:
        """Plain values for the report; ``torque_dropped`` counts powered servos that were told to let go."""
        device = self._line.device if self._line is not None else ""
        return {
            **self.motion.state(),
            "fault": self._stopped or self._cut,
            "device": device,
            "instructions": dict(self.counts),
        }

    def reset(self, standing: ArrayLike) -> None:
        """A new scene; torque stays as it is and the goals are where the arm stands."""
        self.motion.stand(np.asarray(standing, float))
        for servo in self._by_joint:
            self.refresh(servo)
            self.put_goal(servo, self.motion.present_step(servo.joint))
            self.drive(servo)

    def recover(self) -> None:
        """The supply was switched off and on: every servo boots, without torque."""
        self._stopped = self._cut = False
        for servo in self._by_joint:
            self.boot(servo)

    def close(self) -> None:
        """Close the terminal."""
        if self._line is not None:
            self._line.close()
            self._line = None

    @abstractmethod
    def put_goal(self, servo: Servo, step: int) -> None:
        """Store a goal in its table."""

    # -- for the protocols ------------------------------------------------------------------------------------------

    def answer(self, packets: Sequence[bytes]) -> None:
        """Send status packets, with the faults in force on each."""
        for packet in packets:
            left = self.faults.answer(packet)
            if left is None:
                continue
            if self.faults.disconnect:
                self.faults.set(disconnect=False)
                self._write(left[: len(left) // 2])
                self._unplug()
                return
            if self.faults.delay_s or self._late:
                self._late.append((monotonic_ns() + round(self.faults.delay_s * 1e9), left))
            else:
                self._write(left)

    def wrote_goals(self, servos: Sequence[Servo], *, whole: bool, profiled: bool = False) -> None:
        """Goals of these servos have been written; ``whole``: in one packet, which makes them one setpoint."""
        if servos:
            self.motion.judge([s.joint for s in servos], self.now_ns, whole=whole, profiled=profiled)

    def power(self, servo: Servo, on: bool, *, told: bool) -> None:
        """Torque of one servo; ``told``: by an instruction, as against a protection of its own."""
        self.motion.power(servo.joint, on, self.now_ns, told=told)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        line = self._line
        if line is None:
            return
        try:
            data = line.read()
        except OSError:
            data = b""
        if not data or self._cut:
            self._buffer = b""
            return
        self.now_ns = monotonic_ns()
        self._buffer = self.parse(self._buffer + data)[-LONGEST_BUFFER:]

    def _write(self, data: bytes) -> None:
        if self._line is not None and not self._cut:
            self._line.write(data)

    def _apply_faults(self) -> None:
        if self._frozen and not self.faults.freeze and self._line is not None:
            self._line.read()  # what was sent to a bus that did not listen is lost
            self._late.clear()
        self._frozen = self.faults.freeze
        if self.faults.emergency_stop and not self._cut:
            self._cut = True
            self._late.clear()
            for servo in self._by_joint:
                self.power(servo, False, told=False)
        elif self._cut and not self.faults.emergency_stop:
            self.recover()
        if self.faults.protective_stop and not self._stopped:
            self._stopped = True
            self.overload(self._by_joint[min(self._overload_joint, len(self._by_joint) - 1)])
        if self._line is None and not self.faults.refuse:
            self._plug()

    def _plug(self) -> None:
        self._line = PtyLine(self._link)
        self.address: dict[str, Any] = {"device": self._link or self._line.device}
        self._buffer = b""

    def _unplug(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        self._late.clear()
