"""Reports of an xArm's control box, read without waiting: what it says about itself, and whether its clock advances.

Three streams exist: port 30000 with the box's time stamp and joint velocities, 30001 with error codes five times a
second, 30003 with joints alone. A report begins with its own length, big-endian; joint values are f32 little-endian.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DeployError, explain

__all__ = ["NORMAL", "REAL", "TIMED", "Report", "ReportStream", "open_report"]

Vector = NDArray[np.float64]

TIMED, NORMAL, REAL = 30000, 30001, 30003
LEAST_BYTES = {TIMED: 172, NORMAL: 91, REAL: 87}
MOST_BYTES = 4096


@dataclass(frozen=True)
class Report:
    """What one report says.

    Attributes:
        clock: The box's time stamp, or a count of reports where it sends none; only its change means anything.
        state: 1 moving, 2 ready, 3 paused, 4 and above stopped.
        mode: 0 position, 1 servo.
        position: f64 [7] rad.
        velocity: f64 [7] rad/s, None where the report has none.
        error: Error code, None where the report has none.
    """

    clock: int
    state: int
    mode: int
    position: Vector
    velocity: Vector | None = None
    error: int | None = None


class ReportStream:
    """One report connection.

    Args:
        connection: To one of the report ports; closed with this.
        kind: :data:`TIMED`, :data:`NORMAL` or :data:`REAL`.

    Attributes:
        damaged: Reports that could not be used.
        closed: Whether the box has closed the stream, or it had to be given up.
    """

    def __init__(self, connection: socket.socket, kind: int):
        self._kind, self._socket = kind, connection
        connection.setblocking(False)
        self._buffer, self._count, self._size = b"", 0, 0
        self.damaged, self.closed = 0, False
        self.newest: Report | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for something to read."""
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def poll(self) -> Report | None:
        """Take what has arrived. -> newest report, None when there never was one."""
        while not self.closed:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            self._buffer += data
            self._cut()
        return self.newest

    def close(self) -> None:
        """Let go of it."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._socket.close()

    def _cut(self) -> None:
        while len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">I", self._buffer)
            if not LEAST_BYTES[self._kind] <= size <= MOST_BYTES or (self._size and size != self._size):
                self._find_next()
                continue
            if len(self._buffer) < size:
                return
            packet, self._buffer = self._buffer[:size], self._buffer[size:]
            report = self._parse(packet)
            if report is None:
                self.damaged += 1
            else:
                self.newest, self._size = report, size

    def _find_next(self) -> None:
        """A length that is none: go to the next place that has the length of the reports before."""
        self.damaged += 1
        at = self._buffer.find(struct.pack(">I", self._size), 1) if self._size else -1
        self._buffer = self._buffer[at:] if at > 0 else self._buffer[-3:]

    def _parse(self, packet: bytes) -> Report | None:
        self._count += 1
        if self._kind == TIMED:
            (clock,) = struct.unpack_from(">Q", packet, 4)
            joints, velocity = _joints(packet, 116), _joints(packet, 144)
            if joints is None or velocity is None:
                return None
            return Report(clock, packet[12] & 15, packet[12] >> 4, joints, velocity)
        joints = _joints(packet, 7)
        if joints is None:
            return None
        error = packet[89] if self._kind == NORMAL else None
        return Report(self._count, packet[4] & 15, packet[4] >> 4, joints, None, error)


def _joints(packet: bytes, at: int) -> Vector | None:
    values = np.frombuffer(packet, "<f4", 7, at).astype(float)
    # nine turns: no joint of these arms has so much; a flipped bit of an exponent does
    return values if np.isfinite(values).all() and float(np.abs(values).max()) < 60.0 else None


def open_report(address: str, first_port: int, kind: int) -> ReportStream:
    """Open one of the streams of a box whose first report port is ``first_port``.

    Raises:
        DeployError: nobody listens there.
    """
    port = first_port + kind - TIMED
    try:
        return ReportStream(socket.create_connection((address, port), 1.0), kind)
    except OSError as error:
        raise DeployError(
            explain(
                f"the xArm's report port {port} does not answer",
                given=f"{address}: {error}",
                mend="is the box on, and the address right? let 502 and 30000 to 30003 through the firewall",
            )
        ) from error
