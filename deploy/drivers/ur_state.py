"""State of a UR controller over RTDE, read in the real-time loop itself: no thread, no wait, only the newest packet.

The public client reads in a thread that wakes ten thousand times a second, and a packet whose size is damaged ends its
process. Here every size is checked before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from typing import NamedTuple

from robopolicy.errors import DeployError, explain

__all__ = ["PLAYING", "RUNNING_MODE", "RtdeReader", "UrState"]

RTDE_PORT = 30004
PLAYING, RUNNING_MODE = 2, 7
"""Runtime state of a program that runs; robot mode of an arm with released brakes."""

HEADER = struct.Struct(">HB")
FIELDS = (
    ("timestamp", "DOUBLE", "d"),
    ("actual_q", "VECTOR6D", "6d"),
    ("actual_qd", "VECTOR6D", "6d"),
    ("actual_TCP_force", "VECTOR6D", "6d"),
    ("speed_scaling", "DOUBLE", "d"),
    ("target_speed_fraction", "DOUBLE", "d"),
    ("robot_mode", "INT32", "i"),
    ("runtime_state", "UINT32", "I"),
    ("safety_status_bits", "UINT32", "I"),
)
LAYOUT = struct.Struct(">B" + "".join(form for _, _, form in FIELDS))
MOST_BUFFERED = 1 << 18


class UrState(NamedTuple):
    """One state packet.

    Attributes:
        clock_s: The controller's own clock.
        position, velocity: Six joints, rad and rad/s.
        force: TCP wrench, N and N m.
        scale: Speed slider times trajectory limiter.
        mode: Robot mode.
        runtime: Runtime state of its program.
        safety: Safety status bits.
    """

    clock_s: float
    position: tuple[float, ...]
    velocity: tuple[float, ...]
    force: tuple[float, ...]
    scale: float
    mode: int
    runtime: int
    safety: int

    @property
    def finite(self) -> bool:
        """Whether every number is one, which no sum hides."""
        return math.isfinite(self.clock_s + self.scale + sum(self.position) + sum(self.velocity) + sum(self.force))


class RtdeReader:
    """One RTDE connection that only listens.

    Args:
        address: Of the controller.
        rate_hz: Of packets.
        timeout_s: For connecting and for each answer of the handshake.

    Attributes:
        version: Of the controller: major, minor, bugfix, build.
        newest: The newest packet; None before the first.

    Raises:
        DeployError: nobody there, no answer in time, or not a UR controller.
    """

    def __init__(self, address: str, *, rate_hz: float = 500.0, timeout_s: float = 2.0):
        self._address, self._buffer = address, b""
        self.newest: UrState | None = None
        try:
            self._socket = socket.create_connection((address, RTDE_PORT), timeout_s)
        except OSError as error:
            raise self._lost(error) from error
        try:
            self.version = self._handshake(rate_hz, time.monotonic() + timeout_s)
            self._socket.setblocking(False)
        except OSError as error:
            self.close()
            raise self._lost(error) from error
        except BaseException:
            self.close()
            raise

    def wait(self, timeout_s: float) -> UrState:
        """Wait for the first packet.

        Raises:
            DeployError: none came.
        """
        until = time.monotonic() + timeout_s
        while (state := self.poll()) is None:
            if time.monotonic() > until:
                raise self._lost(f"no state within {timeout_s} s")
            time.sleep(0.001)
        return state

    def poll(self) -> UrState | None:
        """Take what has come. -> the newest packet, new or not.

        Raises:
            DeployError: the controller closed the connection, or what it sends is not RTDE.
        """
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                raise self._lost("closed by the controller")
            self._buffer += data
            if len(data) < 65536 or len(self._buffer) > MOST_BUFFERED:
                break
        payload = self._last_packet()
        if payload is not None:
            values = LAYOUT.unpack(payload)
            scale, fraction, mode, runtime, safety = values[20:25]
            self.newest = UrState(
                values[1], values[2:8], values[8:14], values[14:20], scale * fraction, mode, runtime, safety
            )
        return self.newest

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _last_packet(self) -> bytes | None:
        """Payload of the last whole state packet in the buffer; what is before it is forgotten."""
        buffer, at, found = self._buffer, 0, None
        while len(buffer) - at >= HEADER.size:
            size, kind = HEADER.unpack_from(buffer, at)
            if size < HEADER.size or (kind == ord("U") and size != HEADER.size + LAYOUT.size):
                raise self._lost(f"a packet of {size} bytes")
            if len(buffer) - at < size:
                break
            if kind == ord("U"):
                found = buffer[at + HEADER.size : at + size]
            at += size
        self._buffer = buffer[at:]
        return found

    def _handshake(self, rate_hz: float, until: float) -> tuple[int, int, int, int]:
        if self._ask("V", struct.pack(">H", 2), until) != b"\x01":
            raise self._lost("RTDE protocol 2 is refused")
        version = self._ask("v", b"", until)
        if len(version) != 16:
            raise self._lost(f"a version of {len(version)} bytes")
        names, types = (",".join(field[k] for field in FIELDS).encode() for k in (0, 1))
        answer = self._ask("O", struct.pack(">d", rate_hz) + names, until)
        if answer[1:] != types:
            raise self._lost(f"types {answer[1:].decode('ascii', 'replace')[:200]}")
        if self._ask("S", b"", until) != b"\x01":
            raise self._lost("it does not start")
        major, minor, bugfix, build = struct.unpack(">4I", version)
        return major, minor, bugfix, build

    def _ask(self, kind: str, payload: bytes, until: float) -> bytes:
        """Payload of the answer to one request; text messages are passed over."""
        self._socket.sendall(HEADER.pack(HEADER.size + len(payload), ord(kind)) + payload)
        while True:
            size, answered = HEADER.unpack(self._exactly(HEADER.size, until))
            body = self._exactly(max(size - HEADER.size, 0), until)
            if answered == ord(kind):
                return body
            if answered != ord("M"):
                raise self._lost(f"an answer of type {answered} to {kind}")

    def _exactly(self, count: int, until: float) -> bytes:
        found = b""
        while len(found) < count:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no answer in time")
            self._socket.settimeout(left_s)
            data = self._socket.recv(count - len(found))
            if not data:
                raise ConnectionError("closed by the controller")
            found += data
        return found

    def _lost(self, why: object) -> DeployError:
        return DeployError(
            explain(
                "the UR controller does not answer over RTDE",
                given=f"{self._address}:{RTDE_PORT}, {why}",
                mend="check robot.driver.address, the cable, and that RTDE is on (Settings, Security, Services)",
            )
        )
