"""How the black box is doing, as the supervisor tells it; a logger that died is started again."""

from __future__ import annotations

from typing import Any

from robopolicy.deploy.blackbox_json import plain
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.shm import monotonic_ns

__all__ = ["Revival", "recording_of"]

AGAIN_NS = 1_000_000_000


def recording_of(bus: Bus) -> dict[str, Any]:
    """The logger's own newest word; empty when there is none."""
    found = bus.ring("recording").latest()
    if found is None:
        return {}
    status: dict[str, Any] = plain(found[1])
    return status | {"recording": bool(status["recording"])}


class Revival:
    """Says when a process that nobody waits for may be started again: at most once a second."""

    def __init__(self) -> None:
        self._last_ns = 0
        self.count = 0

    def due(self) -> bool:
        """Whether to start it now."""
        now_ns = monotonic_ns()
        if now_ns - self._last_ns < AGAIN_NS:
            return False
        self._last_ns = now_ns
        self.count += 1
        return True
