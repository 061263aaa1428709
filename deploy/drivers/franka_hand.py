"""The process that talks to a Franka Hand: its moves block until they are done, so they have a process of their own.

``python -m robopolicy.deploy.drivers.franka_hand FD JSON``; openings 0..1 in, measured openings out.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import sys

__all__ = ["OPENING", "main"]

OPENING = struct.Struct("<d")
SPEED_M_S = 0.1
LEAST_STEP = 0.02
PERIOD_S = 0.05


def main(argv: list[str] | None = None) -> int:
    """Serve until the driver closes the socket."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    line, settings = socket.socket(fileno=int(arguments[0])), json.loads(arguments[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import pylibfranka

    width_m = float(settings["width_m"])
    hand = pylibfranka.Gripper(settings["address"])
    line.settimeout(PERIOD_S)
    reached: float | None = None
    while True:
        with contextlib.suppress(OSError):
            line.send(OPENING.pack(hand.read_once().width / width_m))
        wanted = _newest(line)
        if wanted is None:
            return 0
        if wanted == wanted and (reached is None or abs(wanted - reached) > LEAST_STEP):
            with contextlib.suppress(pylibfranka.CommandException):
                hand.move(min(max(wanted, 0.0), 1.0) * width_m, SPEED_M_S)
            reached = wanted


def _newest(line: socket.socket) -> float | None:
    """Wait a little for an opening. -> the newest, NaN when there is none, None at the end."""
    newest = float("nan")
    while True:
        try:
            data = line.recv(OPENING.size + 1)
        except (TimeoutError, BlockingIOError):
            return newest
        except OSError:
            return None
        if len(data) != OPENING.size:
            return None
        (newest,) = OPENING.unpack(data)
        line.settimeout(0.0)
        try:
            data = line.recv(OPENING.size + 1, socket.MSG_PEEK)
        except (BlockingIOError, TimeoutError):
            return newest
        finally:
            line.settimeout(PERIOD_S)


if __name__ == "__main__":
    sys.exit(main())
