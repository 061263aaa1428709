"""A bus of Dynamixel X servos (ALOHA, WidowX, Koch) on a pseudo-terminal, protocol 2.0.

Packets: ``FF FF FD 00 | id | length (2) | instruction | parameters | CRC-16 (2)``, length = parameters + 3. Within
instruction and parameters every ``FF FF FD`` is followed by one more ``FD``, which the length counts and the CRC
(polynomial 8005, begins at 0) covers. An answer has instruction 55 and an error byte: bit 7 while a hardware error is
latched, below it the number of what was wrong with the instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from robopolicy.sim.wire.dynamixel_frames import Dynamixel, Fault, frame, joined_frame, take_frame
from robopolicy.sim.wire.serial_bus import SerialServoBus, Servo

__all__ = ["DynamixelBus"]

BROADCAST = 0xFE
MODEL_XM430_W350 = 1020
HARDWARE_OVERLOAD = 0x20
MODE, SECONDARY_ID, MIN_LIMIT, TORQUE, HARDWARE_ERROR, WATCHDOG = 11, 12, 52, 64, 70, 98
PROFILE_ACCELERATION, PROFILE_VELOCITY, GOAL, CLOCK = 108, 112, 116, 120
CURRENT, SPEED, PRESENT, VOLTAGE = 126, 128, 132, 144
EEPROM_END = 64
RAM_END = CLOCK
GOALS = range(100, CLOCK)
WATCHDOG_UNIT_S = 0.02
WATCHDOG_TRIPPED = 0xFF
SPEED_UNIT_STEPS_S = 0.229 / 60 * 4096
ACCELERATION_UNIT_STEPS_S2 = 214.577 / 3600 * 4096
CLEAR_TURNS = bytes([0x01, 0x44, 0x58, 0x4C, 0x22])


class DynamixelBus(SerialServoBus):
    """X servos; options of :class:`~robopolicy.sim.wire.serial_bus.SerialServoBus`.

    A protective stop is the overload of one servo: it latches the hardware error and its torque is gone until it is
    rebooted. When the bus watchdog (register 98, units of 20 ms) expires, the servo stops where it stands, powered, and
    its goals are read-only until 0 is written to the register.
    """

    period_s: ClassVar[float] = 1 / 250
    table_bytes: ClassVar[int] = 256

    def boot(self, servo: Servo) -> None:
        """Values of a servo that has just been switched on or rebooted."""
        self.power(servo, False, told=False)
        servo.table[:] = bytes(self.table_bytes)
        servo.registered = None
        grips = self.card.joints.channels[servo.joint].unit != "rad"
        fixed = {
            (0, 2): MODEL_XM430_W350,
            (6, 1): 46,
            (7, 1): servo.number,
            (8, 1): 3,
            (MODE, 1): 5 if grips else 4,
            (SECONDARY_ID, 1): 255,
            (48, 4): 4095,
            (63, 1): 0x34,
            (68, 1): 2,
            (100, 2): 885,
            (102, 2): 1193,
            (146, 1): 33,
        }
        for (address, size), value in fixed.items():
            servo.put(address, size, value)
        self.motion.unlatch(servo.joint)
        servo.heard_ns = self.now_ns
        self.refresh(servo)
        self.put_goal(servo, self.motion.present_step(servo.joint))
        self.drive(servo)

    def put_goal(self, servo: Servo, step: int) -> None:
        """Goal position."""
        servo.put(GOAL, 4, step)

    def refresh(self, servo: Servo) -> None:
        """Clock, moving, current, velocity, position, trajectories, voltage."""
        joint, motion = servo.joint, self.motion
        speed, step = motion.speed_steps(joint), motion.present_step(joint)
        servo.put(CLOCK, 2, self.now_ns // 1_000_000 % 32768)
        servo.put(122, 1, int(abs(speed) > 2))
        servo.put(124, 2, round(885 * motion.effort(joint)))
        servo.put(CURRENT, 2, round(1193 * motion.effort(joint)))
        servo.put(SPEED, 4, round(speed / SPEED_UNIT_STEPS_S))
        servo.put(PRESENT, 4, step)
        servo.put(136, 4, round(speed / SPEED_UNIT_STEPS_S))
        servo.put(140, 4, step)
        servo.put(VOLTAGE, 2, 119)

    def drive(self, servo: Servo) -> None:
        """Goal and profile. Without a profile velocity there is no profile at all."""
        self.motion.set_goal(servo.joint, servo.get(GOAL, 4, signed=True))
        velocity = servo.get(PROFILE_VELOCITY, 4)
        acceleration = servo.get(PROFILE_ACCELERATION, 4) if velocity else 0
        self.motion.set_profile(
            servo.joint,
            steps_s=velocity * SPEED_UNIT_STEPS_S,
            steps_s2=acceleration * ACCELERATION_UNIT_STEPS_S2,
        )

    def overload(self, servo: Servo) -> None:
        """Latch the hardware error; the servo lets go by itself."""
        servo.put(HARDWARE_ERROR, 1, HARDWARE_OVERLOAD)
        servo.put(TORQUE, 1, 0)
        self.power(servo, False, told=False)

    def watch(self, servo: Servo) -> None:
        """The bus watchdog of one servo, which counts while it is powered."""
        setting = servo.get(WATCHDOG, 1)
        if not 1 <= setting <= 127 or not servo.get(TORQUE, 1):
            return
        if (self.now_ns - servo.heard_ns) / 1e9 > setting * WATCHDOG_UNIT_S:
            servo.put(WATCHDOG, 1, WATCHDOG_TRIPPED)
            self.motion.halt(servo.joint)
            if not self._tripped():
                self.recorder.watchdog_stops += 1

    def _tripped(self) -> bool:
        """Whether another servo has tripped with this one: the arm is counted once."""
        return sum(s.get(WATCHDOG, 1) == WATCHDOG_TRIPPED for s in self.servos.values()) > 1

    def parse(self, buffer: bytes) -> bytes:
        """Whole packets with a true CRC are carried out."""
        while True:
            found, buffer = take_frame(buffer)
            if found is None:
                return buffer
            if not found:
                self.counts["bad"] += 1
                continue
            number, code, parameters = found[0], found[1], found[2:]
            # Every instruction packet on the wire is communication, whomever it is for.
            for servo in self.servos.values():
                servo.heard_ns = self.now_ns
            self._obey(number, code, parameters)

    def _obey(self, number: int, code: int, parameters: bytes) -> None:
        try:
            kind = Dynamixel(code)
        except ValueError:
            self._status(self._addressed(number), Fault.INSTRUCTION, silent=number == BROADCAST)
            self.counts["unknown"] += 1
            return
        self.counts[kind.name.lower()] += 1
        if kind in (Dynamixel.SYNC_READ, Dynamixel.FAST_SYNC_READ, Dynamixel.BULK_READ):
            self._read_many(kind, parameters)
        elif kind is Dynamixel.SYNC_WRITE:
            address, length = _word(parameters, 0), _word(parameters, 2)
            rest = parameters[4:]
            entries = [rest[at : at + length + 1] for at in range(0, len(rest) - length, length + 1)]
            self._write_all([(self.servos[e[0]], address, e[1:]) for e in entries if e[0] in self.servos])
        elif kind is Dynamixel.BULK_WRITE:
            self._bulk_write(parameters)
        else:
            self._single(kind, number, parameters)

    def _single(self, kind: Dynamixel, number: int, parameters: bytes) -> None:
        servos, silent = self._addressed(number), number == BROADCAST
        error = 0
        if kind is Dynamixel.PING:
            model = {s.number: bytes(s.table[0:2] + s.table[6:7]) for s in servos}
            self.answer([frame(s.number, 0x55, bytes([self._alert(s)]) + model[s.number]) for s in servos])
            return
        if kind is Dynamixel.READ and not silent:
            self.answer([self._reading(s, _word(parameters, 0), _word(parameters, 2)) for s in servos])
            return
        if kind is Dynamixel.WRITE:
            error = self._write_all([(s, _word(parameters, 0), parameters[2:]) for s in servos])
        elif kind is Dynamixel.REG_WRITE:
            for servo in servos:
                servo.registered = (_word(parameters, 0), parameters[2:])
        elif kind is Dynamixel.ACTION:
            kept = [(s, *s.registered) for s in servos if s.registered is not None]
            for servo in servos:
                servo.registered = None
            error = self._write_all(kept)
        elif kind is Dynamixel.REBOOT:
            self._status(servos, 0, silent=silent)
            for servo in servos:
                self.power(servo, False, told=True)
                self.boot(servo)
            return
        elif kind is Dynamixel.CLEAR:
            error = 0 if parameters[:5] == CLEAR_TURNS else Fault.RANGE
        else:
            error = Fault.INSTRUCTION
        self._status(servos, error, silent=silent)

    def _addressed(self, number: int) -> list[Servo]:
        if number == BROADCAST:
            return list(self.servos.values())
        return [self.servos[number]] if number in self.servos else []

    def _alert(self, servo: Servo, error: int = 0) -> int:
        return error | (0x80 if servo.get(HARDWARE_ERROR, 1) else 0)

    def _status(self, servos: Sequence[Servo], error: int, *, silent: bool) -> None:
        if not silent:
            self.answer([frame(s.number, 0x55, bytes([self._alert(s, error)])) for s in servos])

    def _reading(self, servo: Servo, address: int, length: int) -> bytes:
        if address + length > self.table_bytes:
            return frame(servo.number, 0x55, bytes([self._alert(servo, Fault.ACCESS)]))
        return frame(servo.number, 0x55, bytes([self._alert(servo)]) + bytes(servo.table[address : address + length]))

    def _read_many(self, kind: Dynamixel, parameters: bytes) -> None:
        if kind is Dynamixel.BULK_READ:
            asked = [parameters[at : at + 5] for at in range(0, len(parameters) - 4, 5)]
            wanted = [(self.servos[a[0]], _word(a, 1), _word(a, 3)) for a in asked if a[0] in self.servos]
        else:
            address, length = _word(parameters, 0), _word(parameters, 2)
            wanted = [(self.servos[n], address, length) for n in parameters[4:] if n in self.servos]
        if kind is not Dynamixel.FAST_SYNC_READ:
            self.answer([self._reading(*entry) for entry in wanted])
            return
        pieces = [bytes([self._alert(s), s.number]) + bytes(s.table[a : a + n]) for s, a, n in wanted]
        if pieces:
            self.answer([joined_frame(pieces)])

    def _bulk_write(self, parameters: bytes) -> None:
        writes, at = [], 0
        while at + 5 <= len(parameters):
            number, address, length = parameters[at], _word(parameters, at + 1), _word(parameters, at + 3)
            if number in self.servos:
                writes.append((self.servos[number], address, parameters[at + 5 : at + 5 + length]))
            at += 5 + length
        self._write_all(writes)

    def _write_all(self, writes: Sequence[tuple[Servo, int, bytes]]) -> int:
        """-> error number of the last refused write, 0 for none."""
        error, goals, profiled, done = 0, [], True, []
        for servo, address, data in writes:
            refused = self._refusal(servo, address, data)
            error = refused or error
            if refused:
                continue
            servo.table[address : address + len(data)] = data
            done.append((servo, address, len(data)))
            self.drive(servo)
            if address <= GOAL < address + len(data):
                goals.append(servo)
                profiled &= address <= PROFILE_ACCELERATION
        self.wrote_goals(goals, whole=len(goals) == len(self.servos), profiled=profiled)
        for servo, address, length in done:
            if address <= TORQUE < address + length:
                self.power(servo, servo.get(TORQUE, 1) == 1, told=True)
        return error

    def _refusal(self, servo: Servo, address: int, data: bytes) -> int:
        """What is wrong with a write, 0 for nothing."""
        end = address + len(data)
        if not data or end > RAM_END:
            return Fault.ACCESS
        if address < EEPROM_END:
            return Fault.ACCESS if servo.get(TORQUE, 1) else 0
        if servo.get(WATCHDOG, 1) == WATCHDOG_TRIPPED and set(range(address, end)) & set(GOALS):
            return Fault.RANGE
        if address <= TORQUE < end and data[TORQUE - address] and servo.get(HARDWARE_ERROR, 1):
            return Fault.RESULT
        return Fault.ACCESS if address <= HARDWARE_ERROR < end else 0


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")
