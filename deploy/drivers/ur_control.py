"""``ur_rtde``'s control interface in a process of its own.

``python -m robopolicy.deploy.drivers.ur_control ADDRESS FD`` is started by :mod:`robopolicy.deploy.drivers.ur_client`.

Why not in the real-time process (ur_rtde 1.6.5): its constructor waits with the interpreter locked; ``servoStop``
waits up to 300 s for a frozen controller; and when the controller closes the connection, its thread reconnects and
uploads the program again and again until it ends the process by a segmentation fault. Here all that costs a child,
which its parent replaces.

Orders come over a Unix socket that keeps messages apart, one struct each, and are carried out in their order; all but
setpoints and feeding are answered. When the parent is gone, the arm is braked and the program ended, at once; when this
process is killed as well, the controller's watchdog does the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

__all__ = ["END", "FEED", "ORDER", "PLAY", "SERVO", "STOP", "WATCHDOG", "main"]

ORDER = struct.Struct("=B9d")
PLAY, SERVO, STOP, WATCHDOG, FEED, END = range(6)
"""Kinds of orders; numbers: SERVO six angles, time, lookahead, gain; STOP deceleration; WATCHDOG minimum rate."""

PLAY_S, LOOK_S, FAREWELL_S = 2.0, 0.02, 2


class _Control:
    """The interface, made by the first PLAY."""

    def __init__(self, address: str, kind: Any):
        self._address, self._kind = address, kind
        self._made: Any = None
        self._sockets: frozenset[str] = frozenset()
        self._looked_s = 0.0

    def obey(self, order: bytes) -> str | None:
        """Carry out one order. -> what went wrong, nothing, or None when there is nothing to answer."""
        kind, *numbers = ORDER.unpack(order)
        if kind == PLAY:
            return self._play()
        made = self._made
        if made is None or not made.isConnected() or not made.isProgramRunning():
            # where no program runs, nothing has to be stopped; but a setpoint that is lost makes the next one a jump
            return None if kind == FEED else "" if kind in (STOP, END) else "no program runs"
        if kind == SERVO:
            return None if made.servoJ(numbers[:6], 0.0, 0.0, *numbers[6:]) else "the setpoint was not taken"
        if kind == FEED:
            made.kickWatchdog()
            return None
        if kind == STOP:
            done = made.servoStop(numbers[0]) or not made.isProgramRunning()
        elif kind == WATCHDOG:
            done = made.setWatchdog(numbers[0])
        else:
            made.stopScript()
            done = True
        return "" if done else "the controller did not do it"

    def look(self) -> None:
        """End this process when the interface has replaced a socket: it has lost its connection and lost its way."""
        now_s = time.monotonic()
        if self._made is not None and now_s - self._looked_s > LOOK_S:
            self._looked_s = now_s
            if not self._sockets <= _sockets():
                os._exit(3)

    def farewell(self) -> None:
        """The parent is gone: brake, end the program."""
        if self._made is not None and self._made.isConnected() and self._made.isProgramRunning():
            self._made.servoStop(10.0)
            self._made.stopScript()

    def _play(self) -> str:
        if self._made is None:
            before = _sockets()
            flags = self._kind.FLAG_UPLOAD_SCRIPT | self._kind.FLAG_NO_EXT_FT
            self._made = self._kind(self._address, 500.0, flags)
            self._sockets = _sockets() - before
        elif not self._made.isProgramRunning():
            self._made.reuploadScript()
        until = time.monotonic() + PLAY_S
        while not self._made.isProgramRunning():
            if time.monotonic() > until:
                return "the control program does not run"
            time.sleep(0.002)
        return ""


def _sockets() -> frozenset[str]:
    """Names of the sockets that this process has open now."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if name.startswith("socket:"):
            found.add(name)
    return frozenset(found)


def main(argv: list[str] | None = None) -> int:
    """Serve until the parent closes its end."""
    address, number = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = socket.socket(fileno=int(number))
    try:
        import rtde_control
    except ImportError:
        line.send(bytes([PLAY]) + b"ur_rtde is not installed; mend: pip install robopolicy[ur]")
        return 1
    control = _Control(address, rtde_control.RTDEControlInterface)
    line.send(bytes([END]))
    while True:
        ready, _, _ = select.select([line], [], [], LOOK_S)
        control.look()
        if not ready:
            continue
        order = line.recv(ORDER.size)
        if len(order) != ORDER.size:
            break
        try:
            answer = control.obey(order)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            answer = f"{error}" or type(error).__name__
        if answer is not None:
            line.send(order[:1] + answer.encode("utf-8", "replace")[:400])
    # whatever the interface waits for, this process is gone soon
    signal.alarm(FAREWELL_S)
    control.farewell()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
