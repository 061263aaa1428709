"""The real-time loop's end of the process that holds ``ur_rtde``: orders go out, answers are taken as they come."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
import time

from robopolicy.deploy.drivers.ur_control import END, FEED, ORDER, SERVO
from robopolicy.errors import DeployError, explain

__all__ = ["UrControl"]

NAMES = ("start of the program", "setpoint", "servo stop", "watchdog", "feeding", "end of the program")
START_S = 8.0
MOST_ANSWER = 512


class UrControl:
    """A child process that commands one controller.

    Args:
        address: Of the controller.

    Raises:
        DeployError: it does not start; the extra ``ur`` is missing.
    """

    def __init__(self, address: str):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "robopolicy.deploy.drivers.ur_control", address, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        ours.setblocking(False)
        self._line, self._trouble = ours, ""
        self._pending = [END]
        try:
            self.wait(START_S)
        except BaseException:
            self.close()
            raise

    @property
    def process(self) -> int:
        """Number of the child process."""
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether an order is still being carried out."""
        self.poll()
        return bool(self._pending)

    def order(self, kind: int, *numbers: float) -> None:
        """Send an order; does not wait.

        Raises:
            DeployError: the child is gone or has not read for long.
        """
        try:
            self._line.send(ORDER.pack(kind, *numbers, *([0.0] * (9 - len(numbers)))))
        except OSError as error:
            raise DeployError(
                explain("the process of ur_rtde is gone", given=error, mend="connect again, then enable")
            ) from error
        if kind not in (SERVO, FEED):
            self._pending.append(kind)

    def call(self, kind: int, *numbers: float, deadline_s: float) -> None:
        """Send an order and wait until it is carried out.

        Raises:
            DeployError: it was not, or not in time.
        """
        self.order(kind, *numbers)
        self.wait(deadline_s)

    def poll(self) -> None:
        """Take the answers that are there.

        Raises:
            DeployError: an order failed, or the child is gone.
        """
        while True:
            try:
                answer = self._line.recv(MOST_ANSWER)
            except BlockingIOError:
                break
            except OSError as error:
                answer = b""
                self._trouble = str(error)
            if not answer:
                self._pending = []
                why = self._trouble or f"exit code {self._process.poll()}"
                raise DeployError(
                    explain("the process of ur_rtde has ended", given=why, mend="connect again, then enable")
                )
            if self._pending and answer[0] not in (SERVO, FEED):
                self._pending.pop(0)
            if len(answer) > 1:
                what, why = NAMES[answer[0] % len(NAMES)], answer[1:].decode("utf-8", "replace")
                raise DeployError(explain(f"the UR client failed at '{what}'", given=why, mend="look at the pendant"))

    def wait(self, deadline_s: float) -> None:
        """Wait until every order is carried out.

        Raises:
            DeployError: not in time, or an order failed.
        """
        until = time.monotonic() + deadline_s
        while self.busy:
            left_s = until - time.monotonic()
            if left_s <= 0:
                what = NAMES[self._pending[0]]
                raise DeployError(
                    explain(f"the UR client did not finish '{what}'", given=f"{deadline_s} s", mend="connect again")
                )
            select.select([self._line], [], [], left_s)

    def close(self) -> None:
        """End the child; unless the program has been ended before, it brakes the arm and ends it."""
        self._line.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
