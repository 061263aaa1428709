"""A loader process: fills the frames of batches in a ring of shared memory. Imports neither torch nor zarr.

Started by :mod:`robopolicy.data.ring` as ``python -m robopolicy.data.ring_worker DESCRIPTOR PARENT``. Over the socket
DESCRIPTOR come one JSON document and then commands of 24 bytes; every command is answered. Arrays never travel: the
parent writes into the slot which frames are wanted, and finds them there.

The process ends when the socket does, which is when the parent has gone, by ``kill -9`` too. A descriptor of the socket
may have been inherited by another child of the parent, so it also looks every second whether the parent is alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.frame_cache import open_tier
from robopolicy.data.shared_block import SharedBlock

__all__ = ["COMMAND", "FILL", "GATHER", "REPLY", "receive", "serve"]

COMMAND = struct.Struct("<qqq")
"""(GATHER, slot, rows) or (FILL + number of the tier, start, stop)."""
REPLY = struct.Struct("<qqq")
"""(first two numbers of the command, length of the error text that follows: 0 when it went well)."""
GATHER, FILL = -1, 0
_LOOK_S = 1.0


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes, or fewer when the other side has gone."""
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


class _Slots:
    """The ring as this process sees it."""

    def __init__(self, plan: Mapping[str, Any]):
        self.block = SharedBlock(plan["slot_bytes"] * plan["slots"], plan["fd"])
        self.slot_bytes = plan["slot_bytes"]
        self.frames = plan["frames"]
        # a tier that serves two arrays is one tier here too: its memory and its descriptor are owned once
        named = [json.dumps(entry["tier"], sort_keys=True) for entry in self.frames]
        opened = {name: open_tier(entry["tier"]) for name, entry in dict(zip(named, self.frames, strict=True)).items()}
        self.tiers = [opened[name] for name in named]

    def gather(self, slot: int, rows: int) -> None:
        """Fill the frames of ``rows`` windows in a slot, as its addresses say; -1 means that another source does."""
        for entry, tier in zip(self.frames, self.tiers, strict=True):
            count = rows * entry["per_window"]
            base = slot * self.slot_bytes
            places: NDArray[np.int64] = self.block.array((count,), np.int64, base + entry["addresses"])
            out = self.block.array((count, *tier.frame), tier.dtype, base + entry["array"])
            wanted = places >= 0
            if wanted.all():
                tier.gather_filled(places, out)
            elif wanted.any():
                part = np.empty((int(wanted.sum()), *tier.frame), tier.dtype)
                tier.gather_filled(places[wanted], part)
                out[wanted] = part


def serve(connection: socket.socket, parent: int) -> None:
    """Answer commands until the other side has gone.

    Args:
        connection: To the parent.
        parent: Its process id.
    """
    size = int.from_bytes(receive(connection, 8), "little")
    try:
        slots = _Slots(json.loads(receive(connection, size)))
    except Exception as error:  # whatever it was, the parent raises it
        text = _error_text(error)
        connection.sendall(REPLY.pack(FILL, 0, len(text)) + text)
        return
    connection.sendall(REPLY.pack(FILL, 0, 0))
    while True:
        while not select.select([connection], [], [], _LOOK_S)[0]:
            if os.getppid() != parent:
                return
        command = receive(connection, COMMAND.size)
        if len(command) < COMMAND.size:
            return
        kind, first, second = COMMAND.unpack(command)
        text = b""
        try:
            if kind == GATHER:
                slots.gather(first, second)
            else:
                tier: Any = slots.tiers[kind - FILL]
                tier.fill(first, second)
        except Exception as error:  # as above
            text = _error_text(error)
        connection.sendall(REPLY.pack(kind, first, len(text)) + text)


def _error_text(error: Exception) -> bytes:
    return json.dumps([type(error).__name__, str(error)]).encode()


def main() -> None:
    """Entry of the process."""
    # Ctrl-C reaches the whole group; when to stop is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    connection = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent has gone
        serve(connection, int(sys.argv[2]))


if __name__ == "__main__":
    main()
