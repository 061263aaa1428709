"""A bus of Feetech STS3215 servos (SO-100, SO-101) on a pseudo-terminal.

Packets: ``FF FF | id | length = parameters + 2 | instruction | parameters | checksum``; the checksum is the complement
of the sum of everything after the header. An answer has the servo's error bits in place of the instruction. Numbers are
little-endian; signed ones have a sign bit (position and speed 15, load 10), not two's complement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from robopolicy.sim.wire.serial_bus import SerialServoBus, Servo

__all__ = ["FeetechBus", "frame", "sign_magnitude"]

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x04, 0x05, 0x82, 0x83
NAMES = {
    PING: "ping",
    READ: "read",
    WRITE: "write",
    REG_WRITE: "reg_write",
    ACTION: "action",
    SYNC_READ: "sync_read",
    SYNC_WRITE: "sync_write",
}
BROADCAST = 0xFE
MODEL_STS3215 = 777
OVERLOAD_BIT = 0x20
TORQUE, ACCELERATION, GOAL, GOAL_SPEED, TORQUE_LIMIT, LOCK, PRESENT = 40, 41, 42, 46, 48, 55, 56
STATUS, MOVING, CURRENT = 65, 66, 69
ACCELERATION_UNIT = 100
"""Steps/s^2 per unit of the acceleration register."""


def frame(number: int, code: int, parameters: bytes = b"") -> bytes:
    """One packet: instruction or error bits ``code``, with header and checksum."""
    body = bytes([number, len(parameters) + 2, code]) + parameters
    return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


def sign_magnitude(value: int, bit: int) -> int:
    """A number as these servos write it: magnitude, and ``bit`` for the sign."""
    magnitude = min(abs(value), (1 << bit) - 1)
    return magnitude | (1 << bit) if value < 0 else magnitude


class FeetechBus(SerialServoBus):
    """STS3215 servos; options of :class:`~robopolicy.sim.wire.serial_bus.SerialServoBus`.

    A protective stop is the overload of one servo: its error bit is set in every answer and it no longer follows its
    goal, until the supply was off. These servos have no clock, no watchdog, and no answer to a sync write.
    """

    period_s: ClassVar[float] = 1 / 240
    table_bytes: ClassVar[int] = 256

    def boot(self, servo: Servo) -> None:
        """Values of a servo that has just been switched on."""
        self.power(servo, False, told=False)
        servo.table[:] = bytes(self.table_bytes)
        servo.registered = None
        fixed = {
            (0, 1): 3,
            (1, 1): 10,
            (3, 2): MODEL_STS3215,
            (5, 1): servo.number,
            (11, 2): 4095,
            (13, 1): 70,
            (16, 2): 1000,
            (TORQUE_LIMIT, 2): 1000,
            (LOCK, 1): 1,
        }
        for (address, size), value in fixed.items():
            servo.put(address, size, value)
        self.motion.unlatch(servo.joint)
        self.refresh(servo)
        self.put_goal(servo, self.motion.present_step(servo.joint))
        self.drive(servo)

    def put_goal(self, servo: Servo, step: int) -> None:
        """Goal position, with the sign bit."""
        servo.put(GOAL, 2, sign_magnitude(step, 15))

    def refresh(self, servo: Servo) -> None:
        """Present position, speed, load, voltage, temperature, status, moving, current."""
        joint, motion = servo.joint, self.motion
        speed, load = motion.speed_steps(joint), motion.effort(joint)
        servo.put(PRESENT, 2, sign_magnitude(motion.present_step(joint), 15))
        servo.put(PRESENT + 2, 2, sign_magnitude(speed, 15))
        servo.put(PRESENT + 4, 2, sign_magnitude(round(1000 * load), 10))
        servo.put(PRESENT + 6, 1, 122)
        servo.put(PRESENT + 7, 1, 31)
        servo.put(MOVING, 1, int(abs(speed) > 2))
        servo.put(CURRENT, 2, sign_magnitude(round(400 * load), 15))

    def drive(self, servo: Servo) -> None:
        """Torque, goal (kept within the servo's own limits) and profile."""
        goal = servo.get(GOAL, 2)
        goal = -(goal & 0x7FFF) if goal & 0x8000 else goal
        lower, upper = servo.get(9, 2), servo.get(11, 2)
        self.motion.set_goal(servo.joint, min(max(goal, lower), upper) if upper > lower else goal)
        self.motion.set_profile(
            servo.joint,
            steps_s=servo.get(GOAL_SPEED, 2) & 0x7FFF,
            steps_s2=servo.get(ACCELERATION, 1) * ACCELERATION_UNIT,
        )

    def overload(self, servo: Servo) -> None:
        """The error bit stays until the supply was off."""
        servo.put(STATUS, 1, OVERLOAD_BIT)
        self.motion.latch(servo.joint)

    def parse(self, buffer: bytes) -> bytes:
        """Whole packets with a true checksum are carried out; anything else is passed over in silence."""
        while True:
            start = buffer.find(b"\xff\xff")
            if start < 0:
                return buffer[-1:]
            buffer = buffer[start:]
            if len(buffer) >= 3 and buffer[2] == 0xFF:
                buffer = buffer[1:]
                continue
            if len(buffer) < 6 or len(buffer) < buffer[3] + 4:
                return buffer
            length = buffer[3] + 4
            packet, good = buffer[:length], buffer[3] >= 2
            if not good or ~sum(packet[2:-1]) & 0xFF != packet[-1]:
                self.counts["bad"] += 1
                buffer = buffer[2:]
                continue
            buffer = buffer[length:]
            self._obey(packet[2], packet[4], packet[5:-1])

    def _obey(self, number: int, code: int, parameters: bytes) -> None:
        self.counts[NAMES.get(code, "unknown")] += 1
        addressed = list(self.servos.values()) if number == BROADCAST else [s for s in [self.servos.get(number)] if s]
        if code == SYNC_READ:
            self._sync_read(parameters)
        elif code == SYNC_WRITE:
            self._sync_write(parameters)
        elif code == PING:
            self._status(addressed)
        elif code == READ and len(parameters) == 2 and number != BROADCAST:
            for servo in addressed:
                self.answer([self._reading(servo, parameters[0], parameters[1])])
        elif code == WRITE and len(parameters) >= 2:
            self._write_all([(servo, parameters[0], parameters[1:]) for servo in addressed])
            self._status(addressed, silent=number == BROADCAST)
        elif code == REG_WRITE and len(parameters) >= 2:
            for servo in addressed:
                servo.registered = (parameters[0], parameters[1:])
            self._status(addressed, silent=number == BROADCAST)
        elif code == ACTION:
            kept = [(s, *s.registered) for s in addressed if s.registered is not None]
            for servo in addressed:
                servo.registered = None
            self._write_all(kept)
            self._status(addressed, silent=number == BROADCAST)

    def _status(self, servos: Sequence[Servo], *, silent: bool = False) -> None:
        if not silent:
            self.answer([frame(servo.number, servo.get(STATUS, 1)) for servo in servos])

    def _reading(self, servo: Servo, address: int, length: int) -> bytes:
        data = bytes(servo.table[address : address + length]).ljust(length, b"\0")
        return frame(servo.number, servo.get(STATUS, 1), data)

    def _sync_read(self, parameters: bytes) -> None:
        if len(parameters) < 3:
            return
        asked = [self.servos[n] for n in parameters[2:] if n in self.servos]
        self.answer([self._reading(servo, parameters[0], parameters[1]) for servo in asked])

    def _sync_write(self, parameters: bytes) -> None:
        if len(parameters) < 2 or (len(parameters) - 2) % (parameters[1] + 1):
            return
        address, length, rest = parameters[0], parameters[1], parameters[2:]
        entries = [rest[at : at + length + 1] for at in range(0, len(rest), length + 1)]
        self._write_all([(self.servos[e[0]], address, e[1:]) for e in entries if e[0] in self.servos])

    def _write_all(self, writes: Sequence[tuple[Servo, int, bytes]]) -> None:
        goals, profiled = [], True
        for servo, address, data in writes:
            end = min(address + len(data), PRESENT)  # what is measured cannot be written
            if address >= end:
                continue
            servo.table[address:end] = data[: end - address]
            self.drive(servo)
            if address <= GOAL < end:
                goals.append(servo)
                profiled &= address <= ACCELERATION
        self.wrote_goals(goals, whole=len(goals) == len(self.servos), profiled=profiled)
        for servo, address, data in writes:
            if address <= TORQUE < address + len(data):
                self.power(servo, servo.get(TORQUE, 1) == 1, told=True)
