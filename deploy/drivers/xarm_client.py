"""Two ways to an xArm's control box: the vendor's client for commands, and one frame of our own that stops the arm."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Any

from robopolicy.errors import DeployError, explain

__all__ = ["SET_STATE", "STOPPED", "XArmStopChannel", "close_client", "open_client"]

SET_STATE, STOPPED = 12, 4


class XArmStopChannel:
    """Stops the arm over a connection of its own, without the vendor's package.

    Args:
        address: Of the control box.
        port: Command port.

    Raises:
        DeployError: it cannot be reached.
    """

    def __init__(self, address: str, port: int = 502):
        self._where, self._number = (address, port), 0
        self._socket: socket.socket | None = None
        self._connect()

    def _connect(self) -> socket.socket:
        try:
            self._socket = socket.create_connection(self._where, 1.0)
        except OSError as error:
            mend = "is the box switched on, and the address right?"
            raise DeployError(
                explain("the xArm cannot be reached", given=f"{self._where}: {error}", mend=mend)
            ) from error
        self._socket.settimeout(0.5)
        return self._socket

    def stop(self) -> None:
        """``set_state(4)``, answered.

        Raises:
            DeployError: no answer within half a second.
        """
        trouble = ""
        for _ in range(2):  # a connection that has gone stale is opened anew once
            try:
                line = self._socket or self._connect()
                self._number = self._number % 65535 + 1
                line.sendall(struct.pack(">HHHBB", self._number, 2, 2, SET_STATE, STOPPED))
                answer = line.recv(64)
                if len(answer) >= 8 and answer[6] == SET_STATE:
                    return
                trouble = f"{len(answer)} bytes"
            except OSError as error:
                trouble = str(error)
            self.close()
        raise DeployError(explain("the xArm did not take the stop", given=trouble, mend="press the emergency stop"))

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def open_client(address: str, port: int) -> Any:
    """The vendor's client, connected for commands only.

    Raises:
        DeployError: the package is missing, or nobody answers.
    """
    # The package talks on standard output; what belongs there is not for it to decide.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            from xarm.core.config.x_config import XCONF
            from xarm.wrapper import XArmAPI
        except ImportError as error:
            raise DeployError(
                explain("the package of the xArm is missing", mend="pip install robopolicy[xarm]")
            ) from error
        timeout_s = socket.getdefaulttimeout()
        XCONF.SocketConf.TCP_CONTROL_PORT = port
        client = XArmAPI(
            address, is_radian=True, do_not_open=True, enable_report=False, forbid_uds=True, baud_checkset=False,
            timed_comm=False, check_joint_limit=False, check_cmdnum_limit=False,
        )  # fmt: skip
        try:
            client.connect()
        except Exception as error:  # the package raises Exception itself
            mend = "is the box switched on, and the address right? UFACTORY Studio must reach it too"
            raise DeployError(
                explain("the xArm does not answer", given=f"{address}:{port}: {error}", mend=mend)
            ) from error
        finally:
            socket.setdefaulttimeout(timeout_s)
            XCONF.SocketConf.TCP_CONTROL_PORT = 502
    return client


def close_client(client: Any) -> None:
    """Disconnect it, and end the thread that it leaves waiting."""
    with contextlib.redirect_stdout(sys.stderr):
        client.disconnect()
    core = client._arm
    core._feedback_que.put(bytes(16))
    if core._feedback_thread is not None:
        core._feedback_thread.join(2.0)
