"""The last minute in memory: when the arm faults, it becomes a file that nothing rotates away soon."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.deploy.blackbox import BlackBoxFile, Channel

__all__ = ["LastMinute"]

SPAN_NS = 60_000_000_000
MOST_BYTES = 1 << 28


class LastMinute:
    """Messages of the last 60 s, or as many as fit into 256 MB."""

    def __init__(self) -> None:
        self._kept: deque[tuple[Channel, int, int, bytes, int]] = deque()
        self._bytes = 0
        self._newest_ns = 0

    def add(self, channel: Channel, t_ns: int, log_ns: int, data: bytes, number: int) -> None:
        """Keep one message and let go of the oldest."""
        self._kept.append((channel, t_ns, log_ns, data, number))
        self._bytes += len(data)
        self._newest_ns = max(self._newest_ns, t_ns)
        while self._kept[0][1] < self._newest_ns - SPAN_NS or self._bytes > MOST_BYTES:
            self._bytes -= len(self._kept.popleft()[3])

    def dump(self, path: Path, run: Mapping[str, Any]) -> None:
        """Write everything kept into a new file.

        Raises:
            OSError: the disk is full.
        """
        file = BlackBoxFile(path, run)
        try:
            for channel, _, log_ns, data, number in self._kept:
                file.add(channel, log_ns, data, number)
        finally:
            file.close()
