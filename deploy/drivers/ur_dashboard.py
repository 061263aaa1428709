"""A UR controller's dashboard server: questions and orders in lines of text, each with a deadline."""

from __future__ import annotations

import contextlib
import socket
import time

from robopolicy.errors import DeployError, explain

__all__ = ["DashboardLine", "DashboardStop"]

DASHBOARD_PORT = 29999
MOST_LINE = 4096


class DashboardLine:
    """One connection to the dashboard: a line out, a line back.

    Args:
        address: Of the controller.
        timeout_s: For connecting and for each answer.

    Raises:
        DeployError: it cannot be reached.
    """

    def __init__(self, address: str, *, timeout_s: float = 1.0):
        self._address, self._timeout_s = address, timeout_s
        self._buffer = b""
        try:
            self._socket = socket.create_connection((address, DASHBOARD_PORT), timeout_s)
        except OSError as error:
            raise self._lost(error) from error
        try:
            self._line()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str) -> str:
        """Send a command. -> the answer without its line end.

        Raises:
            DeployError: no answer in time, or the connection is gone.
        """
        self._buffer = b""
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OSError as error:
            raise self._lost(error) from error
        return self._line()

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _line(self) -> str:
        until = time.monotonic() + self._timeout_s
        while b"\n" not in self._buffer:
            left_s = until - time.monotonic()
            try:
                if left_s <= 0 or len(self._buffer) > MOST_LINE:
                    raise TimeoutError(f"no line within {self._timeout_s} s")
                self._socket.settimeout(left_s)
                data = self._socket.recv(1024)
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                raise self._lost("closed by the controller")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode("ascii", "replace").strip()

    def _lost(self, why: object) -> DeployError:
        return DeployError(
            explain(
                "the UR dashboard does not answer",
                given=f"{self._address}:{DASHBOARD_PORT}, {why}",
                mend="check address, cable and that the controller is on; e-Series: Settings, Security, Services",
            )
        )


class DashboardStop:
    """A :class:`~robopolicy.protocols.StopChannel`: ends the controller's program, whereupon the arm brakes and holds.

    The connection is kept open, and opened anew when it has gone.

    Args:
        address: Of the controller.
        timeout_s: For the answer.

    Raises:
        DeployError: it cannot be reached.
    """

    def __init__(self, address: str, *, timeout_s: float = 0.5):
        self._address, self._timeout_s = address, timeout_s
        self._line: DashboardLine | None = DashboardLine(address, timeout_s=timeout_s)

    def stop(self) -> None:
        """End the program.

        Raises:
            DeployError: the controller did not confirm it.
        """
        if self._line is not None:
            with contextlib.suppress(DeployError):
                self._confirm(self._line)
                return
            self.close()
        self._line = DashboardLine(self._address, timeout_s=self._timeout_s)
        self._confirm(self._line)

    def close(self) -> None:
        """Close the connection."""
        if self._line is not None:
            self._line.close()
            self._line = None

    @staticmethod
    def _confirm(line: DashboardLine) -> None:
        answer = line.ask("stop")
        if "stopped" not in answer.lower():
            raise DeployError(explain("the controller did not stop its program", given=answer, allowed="Stopped"))
