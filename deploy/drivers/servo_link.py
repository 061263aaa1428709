"""The exchange with a bus of servos through a vendor's SDK: whole-arm reads and writes, single registers, patience.

Both SDKs have the same shape (port handler, packet handler, group sync read and write) and the same weaknesses: a
damaged packet can raise from inside their parsers, and an exception leaves their port marked as in use for ever.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.deploy.drivers.servo_port import open_port
from robopolicy.errors import DeployError, explain

__all__ = ["Sdk", "ServoLink"]

TRIES, PAUSE_S = 5, 0.02
"""In the pause a late answer comes, to be thrown away and not to be taken for the answer to another question."""


@dataclass(frozen=True)
class Sdk:
    """What is used of a vendor's SDK.

    Attributes:
        port: Its class of ports.
        handler: Its packet handler.
        reader, writer: Its classes for sync read and sync write.
    """

    port: type
    handler: Any
    reader: type
    writer: type


class ServoLink:
    """An open port and the packets that go over it.

    Args:
        sdk: The vendor's.
        make: Its name, for messages.
        ids: Bus identifiers.
        device: Serial device.
        baud: Bits per second.
        timeout_s: How long answers may take beyond their own length.
        claim: Be the only driver of this device.

    Attributes:
        silent: The last :meth:`ask` brought not a single byte, so its answer may still come.

    Raises:
        DeployError: the device cannot be opened.
    """

    def __init__(
        self, sdk: Sdk, make: str, ids: Sequence[int], *, device: str, baud: int, timeout_s: float, claim: bool
    ):
        self._sdk, self._make, self._ids, self._device = sdk, make, list(ids), device
        self._port = open_port(sdk.port, device, baud, timeout_s, claim=claim)
        self._readers: dict[tuple[int, int], Any] = {}
        self._writers: dict[tuple[int, int], Any] = {}
        self.silent = False

    def ask(self, address: int, length: int) -> list[tuple[Sequence[int], int]] | None:
        """One sync read of every servo. -> (bytes, error bits) each, or None when one is missing.

        Raises:
            DeployError: the device has gone.
        """
        reader = self._readers.get((address, length))
        if reader is None:
            reader = self._readers[address, length] = self._sdk.reader(self._port, self._sdk.handler, address, length)
            for number in self._ids:
                reader.addParam(number)
        answers: list[tuple[Sequence[int], int]] = []
        self.silent = False
        try:
            if reader.txPacket() != 0:
                return None
            for number in self._ids:
                data, result, error = self._sdk.handler.readRx(self._port, number, length)
                if result != 0 or len(data) != length:
                    self.silent = self._port.received == 0
                    return None
                answers.append((data, error))
        except OSError as error:
            raise DeployError(
                explain(f"the serial device has gone: {error}", given=self._device, mend="plug it in, connect again")
            ) from error
        except (IndexError, TypeError):
            return None
        finally:
            self._port.is_using = False
        return answers

    def send(self, address: int, length: int, data: Sequence[list[int]]) -> None:
        """One sync write of every servo. Nobody answers it; trouble shows in the next :meth:`ask`."""
        writer = self._writers.get((address, length))
        if writer is None:
            writer = self._writers[address, length] = self._sdk.writer(self._port, self._sdk.handler, address, length)
        writer.clearParam()
        for number, entry in zip(self._ids, data, strict=True):
            writer.addParam(number, entry)
        with contextlib.suppress(OSError):
            writer.txPacket()
        self._port.is_using = False

    def ping(self, number: int) -> bool:
        """Whether this servo answers."""
        for _ in range(TRIES):
            found = self._try(lambda: self._sdk.handler.ping(self._port, number))
            if found is not None and found[1] == 0:
                return True
            time.sleep(PAUSE_S)
        return False

    def glance(self, number: int, address: int, length: int) -> list[int] | None:
        """Bytes of one servo's table; None when they do not come at once."""
        found = self._try(lambda: self._sdk.handler.readTxRx(self._port, number, address, length))
        return list(found[0]) if found is not None and found[1] == 0 and len(found[0]) == length else None

    def read(self, number: int, address: int, length: int) -> list[int]:
        """Bytes of one servo's table, with patience.

        Raises:
            DeployError: it does not answer.
        """
        for _ in range(TRIES):
            found = self.glance(number, address, length)
            if found is not None:
                return found
            time.sleep(PAUSE_S)
        raise DeployError(
            explain(
                f"{self._make} servo {number} does not answer", given=f"register {address}", mend="look at the cables"
            )
        )

    def write(self, number: int, address: int, length: int, data: Sequence[int], trouble: Callable[[int], str]) -> None:
        """Write to one servo and read back until it is there; ``trouble`` puts error bits into words.

        Raises:
            DeployError: it is not taken.
        """
        said: Any = None
        for _ in range(TRIES):
            said = self._try(lambda: self._sdk.handler.writeTxRx(self._port, number, address, length, list(data)))
            if said is None or said[0] != 0:
                time.sleep(PAUSE_S)
            if self.glance(number, address, length) == list(data):
                return
            time.sleep(PAUSE_S)
        why = trouble(said[-1]) if said is not None else ""
        raise DeployError(
            explain(
                f"{self._make} servo {number} does not take {list(data)} at register {address}",
                given=why or "no answer",
                mend="look at supply and cables",
            )
        )

    def close(self) -> None:
        """Let go of the device."""
        with contextlib.suppress(OSError):
            self._port.closePort()

    def _try(self, exchange: Callable[[], Any]) -> Any:
        """The result of an exchange; None when the device has gone or a damaged packet upset the parser."""
        try:
            return exchange()
        except (OSError, IndexError, TypeError):
            return None
        finally:
            self._port.is_using = False
