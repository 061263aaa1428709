"""Frames of UFACTORY's private protocol (TCP 502) and of its report streams, as the vendor's client 1.18 reads them.

A request is ``u16 number | u16 protocol | u16 length | u8 function | payload``, big-endian; the length counts function
and payload. An answer has a state byte before its data. Floats are little-endian. A report begins with its length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_BYTES",
    "REPORT_NORMAL",
    "REPORT_REAL",
    "REPORT_TIMED",
    "Function",
    "Request",
    "answer",
    "floats",
    "normal_report",
    "real_report",
    "take_request",
    "timed_report",
]

Vector = NDArray[np.float64]

HEADER = struct.Struct(">HHHB")
MOST_BYTES = 1024
"""A longer request is none: the connection is closed."""
REPORT_TIMED, REPORT_NORMAL, REPORT_REAL = 30000, 30001, 30003
"""Ports of the reports: with time stamp and velocities; with error codes, five a second; the short one."""
TIMED_BYTES, NORMAL_BYTES, REAL_BYTES = 804, 145, 135


class Function:
    """Numbers of the functions that are played."""

    VERSION, SERIAL = 1, 2
    MOTION_ENABLE, SET_STATE, GET_STATE, COMMAND_COUNT, ERRORS, CLEAR_ERRORS, CLEAR_WARNINGS = (
        11,
        12,
        13,
        14,
        15,
        16,
        17,
    )
    SET_MODE, SERVO_JOINT, JOINTS, TOOL_BUS = 19, 29, 42, 124


@dataclass(frozen=True)
class Request:
    """One request, its header taken apart."""

    number: int
    protocol: int
    function: int
    payload: bytes


def take_request(buffer: bytes) -> tuple[Request | None, bytes]:
    """The first whole request of a stream. -> (it or None, what is left).

    Raises:
        ValueError: what stands there is no request.
    """
    if len(buffer) < 6:
        return None, buffer
    number, protocol, length = struct.unpack_from(">HHH", buffer)
    if not 1 <= length <= MOST_BYTES:
        # the client's heartbeat has no function: six bytes of header with a length of zero
        if length == 0:
            return None, buffer[6:]
        raise ValueError(f"a request of {length} bytes")
    if len(buffer) < 6 + length:
        return None, buffer
    return Request(number, protocol, buffer[6], buffer[7 : 6 + length]), buffer[6 + length :]


def answer(request: Request, state: int, data: bytes = b"") -> bytes:
    """The answer to a request."""
    return HEADER.pack(request.number, request.protocol, 2 + len(data), request.function) + bytes([state]) + data


def floats(values: Any) -> bytes:
    """f32 little-endian."""
    return np.asarray(values, "<f4").tobytes()


def timed_report(time_us: int, state: int, mode: int, queued: int, joints: dict[str, Vector]) -> bytes:
    """Report of port 30000: ``target``, ``target_velocity``, ``actual``, ``actual_velocity`` [7]; poses are zero."""
    body = bytearray(TIMED_BYTES)
    struct.pack_into(">IQBH", body, 0, TIMED_BYTES, time_us, state | mode << 4, queued)
    for name, at in (("target", 32), ("target_velocity", 60), ("actual", 116), ("actual_velocity", 144)):
        body[at : at + 28] = floats(joints[name])
    return bytes(body)


def real_report(state: int, mode: int, queued: int, actual: Vector) -> bytes:
    """Report of port 30003: joints [7] without time; poses and torques are zero."""
    body = bytearray(REAL_BYTES)
    struct.pack_into(">IBH", body, 0, REAL_BYTES, state | mode << 4, queued)
    body[7:35] = floats(actual)
    return bytes(body)


def normal_report(state: int, mode: int, queued: int, actual: Vector, powered: bool, errors: tuple[int, int]) -> bytes:
    """Report of port 30001: joints [7], brakes, motors, (error, warning)."""
    body = bytearray(NORMAL_BYTES)
    struct.pack_into(">IBH", body, 0, NORMAL_BYTES, state | mode << 4, queued)
    body[7:35] = floats(actual)
    bits = 0xFF if powered else 0
    struct.pack_into(">BBBB", body, 87, bits, bits, *errors)
    return bytes(body)
