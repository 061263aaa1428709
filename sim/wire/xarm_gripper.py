"""The xArm Gripper behind the tool's serial bus: the Modbus registers that the vendor's client uses."""

from __future__ import annotations

import struct

__all__ = ["CLOSED_PULSES", "GripperRegisters"]

CLOSED_PULSES, OPEN_PULSES = 0, 850
HOST, UNIT = 9, 8
READ, WRITE = 0x03, 0x10
ERROR, ENABLED, MODE, SPEED, TARGET, POSITION = 0x000F, 0x0100, 0x0101, 0x0303, 0x0700, 0x0702
MOST_REGISTERS = 16


class GripperRegisters:
    """Registers of the gripper and its own profile: it goes to its target at the speed that was set.

    Args:
        opening: Opening 0..1 at the beginning.
        stroke_s: Seconds for the whole stroke.

    Attributes:
        opening: Present target of its motor, 0 closed to 1 open.
        wanted: Where it is told to go.
        enabled: Whether it is switched on.
    """

    def __init__(self, opening: float, stroke_s: float):
        self.opening = self.wanted = opening
        self._rate = 1.0 / stroke_s
        self.enabled = False

    def step(self, dt_s: float) -> float:
        """Go on towards the target. -> opening."""
        if self.enabled:
            most = self._rate * dt_s
            self.opening += min(max(self.wanted - self.opening, -most), most)
        return self.opening

    def answer(self, payload: bytes, measured: float) -> bytes:
        """Carry out one Modbus frame without its checksum; ``measured`` is the opening to be reported.

        Raises:
            ValueError: not a frame that the gripper knows.
        """
        if len(payload) < 7 or payload[0] != HOST or payload[1] != UNIT:
            raise ValueError("not for the gripper")
        function, address, count = payload[2], *struct.unpack_from(">HH", payload, 3)
        if not 1 <= count <= MOST_REGISTERS:
            raise ValueError(f"{count} registers")
        head = bytes([HOST, UNIT, function])
        if function == READ:
            value = b"".join(self._read(address, measured)[:count])
            return head + bytes([2 * count]) + value.ljust(2 * count, b"\0")
        if function != WRITE or len(payload) != 8 + 2 * count:
            raise ValueError(f"function {function}")
        self._write(address, payload[8:])
        return head + payload[3:7]

    def _read(self, address: int, measured: float) -> list[bytes]:
        if address == POSITION:
            whole = struct.pack(">i", round(CLOSED_PULSES + measured * (OPEN_PULSES - CLOSED_PULSES)))
            return [whole[:2], whole[2:]]
        return [struct.pack(">H", int(self.enabled) if address == ENABLED else 0)]

    def _write(self, address: int, data: bytes) -> None:
        if address == ENABLED:
            self.enabled = data[-1] != 0
        elif address == TARGET and len(data) == 4:
            (pulses,) = struct.unpack(">i", data)
            self.wanted = min(max((pulses - CLOSED_PULSES) / (OPEN_PULSES - CLOSED_PULSES), 0.0), 1.0)
