"""A Robotiq 2F gripper through its URCap's socket, without ever waiting in the real-time loop.

At most one request is on its way. While it is unanswered nothing more is sent, and of the openings that were wanted
meanwhile only the newest goes out: the gripper takes goals and moves at its own speed, so a skipped one costs nothing.
Between goals its position is asked for.
"""

from __future__ import annotations

import contextlib
import socket
import time

from robopolicy.deploy.shm import monotonic_ns
from robopolicy.errors import DeployError, explain

__all__ = ["RobotiqLine"]

GRIPPER_PORT = 63352
ACTIVE = 3


class RobotiqLine:
    """The gripper at a controller's address.

    Args:
        address: Of the controller.
        speed: Register SPE, 0..255.
        force: Register FOR, 0..255.
        timeout_s: For connecting; and after which an unanswered request is given up.

    Attributes:
        opening: [0, 1] as measured last.
        velocity: 1/s, of the last two measurements.

    Raises:
        DeployError: nobody serves a gripper there.
    """

    def __init__(self, address: str, *, speed: int = 255, force: int = 100, timeout_s: float = 1.0):
        self._address, self._speed, self._force, self._timeout_s = address, speed, force, timeout_s
        try:
            self._socket = socket.create_connection((address, GRIPPER_PORT), timeout_s)
        except OSError as error:
            raise self._trouble(error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._asked, self._asked_ns, self._goal, self._sent = "", 0, -1, -1
        self._measured_ns = 0
        self.velocity = 0.0
        try:
            self.opening = 1.0 - self._get("POS") / 255
        except BaseException:
            self.close()
            raise

    def activate(self, deadline_s: float) -> None:
        """Activate it unless it is; an inactive one opens and closes once, so keep fingers away.

        Raises:
            DeployError: it did not become active in time.
        """
        self._drain()
        if self._get("STA") != ACTIVE:
            self._ask_now("SET ACT 1")
        until = time.monotonic() + deadline_s
        while self._get("STA") != ACTIVE:
            if time.monotonic() > until:
                raise self._trouble(f"not active after {deadline_s} s", "look at the gripper's status on the pendant")
            time.sleep(0.02)
        byte = self._get("POS")
        self._ask_now(f"SET POS {byte} SPE {self._speed} FOR {self._force} GTO 1")
        self._goal = self._sent = byte
        self._socket.setblocking(False)

    def command(self, opening: float) -> None:
        """Want an opening; sent now or when the last request has been answered."""
        self._goal = min(max(round((1.0 - opening) * 255), 0), 255)
        self._pump()

    def poll(self) -> None:
        """Take an answer that has come, and ask on.

        Raises:
            DeployError: the connection is gone.
        """
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                raise
            except OSError as error:
                raise self._trouble(error) from error
            if not data:
                raise self._trouble("closed by the controller")
            self._take(data)
        self._pump()

    def close(self) -> None:
        """Close the connection; the gripper keeps its goal."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _pump(self) -> None:
        now_ns = monotonic_ns()
        if self._asked and now_ns - self._asked_ns < self._timeout_s * 1e9:
            return
        ask = "GET POS"
        if self._goal >= 0 and self._goal != self._sent:
            ask, self._sent = f"SET POS {self._goal}", self._goal
        try:
            self._socket.send(ask.encode() + b"\n")
        except BlockingIOError:
            return
        except OSError:
            # the next poll says so
            return
        self._asked, self._asked_ns = ask, now_ns

    def _take(self, data: bytes) -> None:
        words = data.decode("ascii", "replace").split()
        self._asked = ""
        if len(words) >= 2 and words[-2] == "POS" and words[-1].isdigit() and int(words[-1]) <= 255:
            now_ns, opening = monotonic_ns(), 1.0 - int(words[-1]) / 255
            if self._measured_ns:
                self.velocity = (opening - self.opening) / max((now_ns - self._measured_ns) / 1e9, 1e-3)
            self.opening, self._measured_ns = opening, now_ns

    def _drain(self) -> None:
        """An answer that is still on its way would be taken for the next one's."""
        self._socket.settimeout(0.2 if self._asked else 0.0)
        with contextlib.suppress(OSError):
            self._socket.recv(4096)
        self._asked = ""

    def _get(self, name: str) -> int:
        words = self._ask_now(f"GET {name}").split()
        if len(words) != 2 or words[0] != name or not words[1].isdigit():
            raise self._trouble(f"{name} answered by '{' '.join(words)[:40]}'", "is the gripper powered and in reach?")
        return int(words[1])

    def _ask_now(self, line: str) -> str:
        try:
            self._socket.settimeout(self._timeout_s)
            self._socket.sendall(line.encode() + b"\n")
            data = self._socket.recv(4096)
        except OSError as error:
            raise self._trouble(error) from error
        if not data:
            raise self._trouble("closed by the controller")
        return data.decode("ascii", "replace").strip()

    def _trouble(self, why: object, mend: str = "") -> DeployError:
        return DeployError(
            explain(
                "the Robotiq gripper does not answer",
                given=f"{self._address}:{GRIPPER_PORT}, {why}",
                mend=mend or "install and activate the Robotiq URCap, or set robot.driver.gripper=none",
            )
        )
