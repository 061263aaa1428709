"""The serial port below a vendor's servo SDK: waits instead of spinning, and gives up when it was told to.

Both SDKs (they share an ancestor) poll the port in a busy loop that holds the interpreter, allow every packet 34 ms on
top of its length, count that time on the wall clock, and one of them never throws away the late bytes of an answer that
it has given up. All four are methods of their ``PortHandler``, so a subclass mends them::

    class Port(PromptPort, sdk.PortHandler): ...
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from typing import Any

from robopolicy.errors import DeployError, explain

__all__ = ["PromptPort", "open_port"]


class PromptPort:
    """Mixed into an SDK's ``PortHandler``; method names are the SDK's.

    Attributes:
        timeout_s: How long an answer may take beyond its own length.
        received: Bytes that arrived since the last request.
    """

    ser: Any
    packet_start_time: float
    packet_timeout: float
    tx_time_per_byte: float
    timeout_s = 0.01
    received = 0

    def clearPort(self) -> None:
        """Throw away what is left of earlier answers."""
        self.ser.reset_input_buffer()
        self.received = 0

    def readPort(self, length: int) -> bytes:
        """Up to ``length`` bytes; waits until some are there or the packet's time is over."""
        left_ms = self.packet_timeout - (self.getCurrentTime() - self.packet_start_time)
        if length <= 0 or not select.select([self.ser.fileno()], [], [], max(left_ms, 0.0) / 1e3)[0]:
            return b""
        data = os.read(self.ser.fileno(), length)
        if not data:
            raise OSError(errno.EIO, "the serial device has gone")
        self.received += len(data)
        return data

    def writePort(self, packet: Any) -> int:
        """Send without ever waiting. -> bytes taken."""
        try:
            return os.write(self.ser.fileno(), bytes(packet))
        except BlockingIOError:
            return 0

    def setPacketTimeout(self, packet_length: int) -> None:
        """Begin to wait for ``packet_length`` bytes."""
        self.packet_start_time = self.getCurrentTime()
        self.packet_timeout = self.tx_time_per_byte * packet_length + 1e3 * self.timeout_s

    def getCurrentTime(self) -> float:
        """Milliseconds of a clock that nobody sets."""
        return time.monotonic_ns() / 1e6


def open_port(kind: type, device: str, baud: int, timeout_s: float, *, claim: bool) -> Any:
    """Open a serial device for an SDK.

    Args:
        kind: The SDK's ``PortHandler``.
        device: Path.
        baud: Bits per second.
        timeout_s: See :class:`PromptPort`.
        claim: Refuse to share it with another driver. The lock ends with the process.

    Raises:
        DeployError: no such device, no rights, a rate that it does not have, or another driver has it.
    """
    if not device:
        raise DeployError(
            explain("which serial device?", given="nothing", mend="robot.driver.device=/dev/serial/by-id/...")
        )
    port = type("Port", (PromptPort, kind), {})(device)
    port.timeout_s = timeout_s
    try:
        if not port.setBaudRate(baud):
            raise DeployError(explain("the SDK does not know this baud rate", given=baud, mend="1000000 is usual"))
        if claim:
            fcntl.flock(port.ser.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        port.closePort()
        raise DeployError(
            explain("another driver owns this bus", given=device, mend="end the daemon that has it")
        ) from error
    except OSError as error:
        mend = "is it plugged in, is the path right (ls /dev/serial/by-id), are you in the group dialout?"
        raise DeployError(explain(f"serial device: {error}", given=device, mend=mend)) from error
    return port
