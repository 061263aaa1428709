"""The vendor's ``ur_rtde`` client, kept from blocking the loop and from being believed.

Facts that shape this file, read in ur_rtde 1.6.5: constructors and ``servoStop`` wait, the latter up to 300 s when the
controller has frozen; ``servoJ`` returns True whatever happens to a frozen controller; a call on a lost connection
reconnects and uploads the program again in the calling thread. So every call that can wait runs in a thread with a
deadline, ``servoJ`` is called only while the newest packet says that program and connection are there, and whether
anything works is judged by the controller's time stamp alone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from robopolicy.errors import DeployError, explain

__all__ = ["PLAYING", "VARIABLES", "Deputy", "UrClient"]

VARIABLES = (
    *("timestamp", "actual_q", "actual_qd", "actual_TCP_force", "robot_mode", "runtime_state"),
    *("safety_status_bits", "speed_scaling", "target_speed_fraction"),
)
"""What is asked for; by default it would be 58 variables, 500 times a second."""

PLAYING = 2
CONNECT_S, PROGRAM_S, CALL_S = 4.0, 2.5, 0.5

_SPENT: list[Any] = []
"""Interfaces that were let go of. Their destructors would sleep for half a second each, with the interpreter locked,
and they are few."""


class Deputy:
    """Calls that may wait, one at a time, in a thread of their own."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._done.set()
        self._what, self._began_s = "", 0.0
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a call is still under way."""
        return not self._done.is_set()

    @property
    def busy_s(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._began_s if self.busy else 0.0

    def start(self, what: str, call: Callable[[], Any]) -> None:
        """Begin a call, after the last one; its errors are kept for :meth:`wait`."""
        if self.busy:
            raise DeployError(explain(f"'{what}' has to wait for '{self._what}'", mend="connect again"))
        done, self._what, self._began_s, self._error = threading.Event(), what, time.monotonic(), None
        self._done = done

        def run() -> None:
            try:
                call()
            except Exception as error:  # the vendor raises RuntimeError, logic_error and what the socket has
                self._error = error
            finally:
                done.set()

        threading.Thread(target=run, name=f"ur {what}", daemon=True).start()

    def wait(self, deadline_s: float) -> None:
        """Wait for it.

        Raises:
            DeployError: it is still under way, or failed.
        """
        if not self._done.wait(deadline_s):
            raise DeployError(
                explain(f"the UR client did not finish '{self._what}'", given=f"{deadline_s} s", mend="connect again")
            )
        if self._error is not None:
            error, self._error = self._error, None
            raise DeployError(explain(f"the UR client failed at '{self._what}'", given=error)) from error

    def call(self, what: str, call: Callable[[], Any], deadline_s: float) -> None:
        """Both."""
        self.start(what, call)
        self.wait(deadline_s)


class UrClient:
    """Both interfaces of the vendor's client to one controller.

    Args:
        address: Of the controller.
        rate_hz: Of the state packets.

    Attributes:
        receive: State interface; None when closed.
        control: Control interface; None until :meth:`play`.
        deputy: Where its waiting calls run.

    Raises:
        DeployError: the package is missing, or no state came in time.
    """

    def __init__(self, address: str, *, rate_hz: float):
        try:
            import rtde_control
            import rtde_receive
        except ImportError as error:
            raise DeployError(explain("ur_rtde is not installed", mend="pip install robopolicy[ur]")) from error
        self._address, self._rate_hz, self._kind = address, rate_hz, rtde_control.RTDEControlInterface
        self.receive: Any = None
        self.control: Any = None
        self.deputy = Deputy()
        made: list[Any] = []
        variables = list(VARIABLES)
        self.deputy.call(
            "connect",
            lambda: made.append(rtde_receive.RTDEReceiveInterface(address, rate_hz, variables)),
            CONNECT_S,
        )
        self.receive = made[0]
        if not self.receive.isConnected():
            raise DeployError(explain("the UR controller sent no state", given=address, mend="look at its pendant"))

    @property
    def playing(self) -> bool:
        """Whether the newest packet says that a program runs, and the connection that commands it stands."""
        return self.control is not None and self.receive.getRuntimeState() == PLAYING and self.control.isConnected()

    def play(self) -> None:
        """Have the control program run, and wait until the state says so.

        Raises:
            DeployError: it does not run in time.
        """
        if self.playing:
            return
        if self.control is not None and self.control.isConnected():
            self.deputy.call("upload", self.control.reuploadScript, PROGRAM_S)
        else:
            self.drop_control()
            kind, made = self._kind, list[Any]()
            flags = kind.FLAG_UPLOAD_SCRIPT | kind.FLAG_NO_EXT_FT
            self.deputy.call("start", lambda: made.append(kind(self._address, self._rate_hz, flags)), PROGRAM_S)
            self.control = made[0]
        until = time.monotonic() + PROGRAM_S
        while not self.playing:
            if time.monotonic() > until:
                raise DeployError(
                    explain(
                        "the UR's control program does not run",
                        given=f"runtime state {self.receive.getRuntimeState()}",
                        mend="is the arm powered, brakes released, pendant in remote control, no pop-up open?",
                    )
                )
            time.sleep(0.002)

    def drop_control(self) -> None:
        """Let go of the control connection, if there is one."""
        control, self.control = self.control, None
        if control is not None:
            _SPENT.append(control)
            with contextlib.suppress(DeployError):
                self.deputy.call("disconnect", control.disconnect, 2.0)

    def close(self) -> None:
        """Let go of both, whatever state they are in."""
        spent = [one for one in (self.control, self.receive) if one is not None]
        self.control = self.receive = None
        _SPENT.extend(spent)

        def both() -> None:
            # each of them sleeps for half a second
            threads = [threading.Thread(target=one.disconnect, daemon=True) for one in spent]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        if self.deputy.busy:
            # what is stuck there keeps its own connection; it ends with the vendor's deadline of 2.5 s
            self.deputy = Deputy()
        with contextlib.suppress(DeployError):
            self.deputy.call("disconnect", both, 3.0)
