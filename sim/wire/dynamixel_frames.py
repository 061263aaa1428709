"""Frames of Dynamixel protocol 2.0: stuffing, CRC, instruction and error numbers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

__all__ = ["Dynamixel", "Fault", "crc16", "frame", "joined_frame", "stuff", "take_frame", "unstuff"]

HEADER = b"\xff\xff\xfd\x00"
LONGEST = 1021


class Dynamixel(IntEnum):
    """Instructions."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    RESET = 0x06
    REBOOT = 0x08
    CLEAR = 0x10
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83
    FAST_SYNC_READ = 0x8A
    BULK_READ = 0x92
    BULK_WRITE = 0x93


class Fault(IntEnum):
    """Numbers of what can be wrong with an instruction."""

    RESULT = 1
    INSTRUCTION = 2
    CRC = 3
    RANGE = 4
    LENGTH = 5
    LIMIT = 6
    ACCESS = 7


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1) ^ 0x8005 if value & 0x8000 else value << 1
        table.append(value & 0xFFFF)
    return table


_CRC = _table()


def crc16(data: bytes) -> int:
    """CRC with polynomial 8005, most significant bit first, from 0."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC[(value >> 8) ^ byte]
    return value


def stuff(data: bytes) -> bytes:
    """``FD`` after every ``FF FF FD``."""
    return data.replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")


def unstuff(data: bytes) -> bytes:
    """The inverse of :func:`stuff`."""
    return data.replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")


def frame(number: int, code: int, parameters: bytes = b"") -> bytes:
    """One packet."""
    body = stuff(bytes([code]) + parameters)
    head = HEADER + bytes([number]) + (len(body) + 2).to_bytes(2, "little") + body
    return head + crc16(head).to_bytes(2, "little")


def joined_frame(pieces: Sequence[bytes]) -> bytes:
    """The one answer to a fast sync read: each servo adds its piece and the CRC of the packet so far; not stuffed."""
    length = 1 + sum(len(piece) + 2 for piece in pieces)
    packet = HEADER + b"\xfe" + length.to_bytes(2, "little") + b"\x55"
    for piece in pieces:
        packet += piece
        packet += crc16(packet).to_bytes(2, "little")
    return packet


def take_frame(buffer: bytes) -> tuple[bytes | None, bytes]:
    """Cut the next packet off.

    Returns:
        (id, instruction and parameters as bytes; empty for a damaged packet; None when more is needed; the rest).
    """
    start = buffer.find(HEADER)
    if start < 0:
        return None, buffer[-3:]
    buffer = buffer[start:]
    if len(buffer) < 7:
        return None, buffer
    length = int.from_bytes(buffer[5:7], "little")
    if not 3 <= length <= LONGEST:
        return b"", buffer[4:]
    end = 7 + length
    if len(buffer) < end:
        return None, buffer
    if crc16(buffer[: end - 2]) != int.from_bytes(buffer[end - 2 : end], "little"):
        return b"", buffer[4:]
    return buffer[4:5] + unstuff(buffer[7 : end - 2]), buffer[end:]
