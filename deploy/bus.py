"""All shared segments of one daemon under their names, created once and inherited by every process."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from robopolicy.deploy.mailbox import ChunkMailbox
from robopolicy.deploy.records import PROCESSES, Layout
from robopolicy.deploy.shm import Heartbeat, RecordRing, Segment, monotonic_ns
from robopolicy.errors import DeployError, explain

__all__ = ["BUS_VARIABLE", "Bus"]

BUS_VARIABLE = "ROBOPOLICY_DEPLOY_BUS"
"""Environment variable in which a child finds the layout and its inherited descriptors."""


class Bus:
    """The rings, the mailbox and the heartbeats of one daemon.

    Args:
        layout: Sizes.
        fds: Segment name -> descriptor; None creates all segments.
        writable: Segments that this process may write; the others are mapped read-only. None means all.
    """

    def __init__(self, layout: Layout, fds: Mapping[str, int] | None = None, *, writable: set[str] | None = None):
        self.layout = layout
        create = fds is None
        self._segments: dict[str, Segment] = {}

        def segment(name: str, size: int) -> Segment:
            if fds is None:
                made = Segment.create(name, size)
            else:
                made = Segment(fds[name], writable=writable is None or name in writable)
            self._segments[name] = made
            return made

        self._rings = {
            name: RecordRing(segment(name, RecordRing.nbytes(dtype, n)), dtype, n, create=create)
            for name, (dtype, n) in layout.rings.items()
        }
        mail = segment("mailbox", ChunkMailbox.nbytes(layout.chunk_steps, layout.action))
        self.mailbox = ChunkMailbox(mail, layout.chunk_steps, layout.action, create=create)
        self.heartbeat = Heartbeat(segment("heartbeat", Heartbeat.nbytes(PROCESSES)), PROCESSES)

    def ring(self, name: str) -> RecordRing:
        """The ring of that segment."""
        return self._rings[name]

    @property
    def fds(self) -> dict[str, int]:
        """Segment name -> descriptor."""
        return {name: segment.fd for name, segment in self._segments.items()}

    def environment(self) -> dict[str, str]:
        """What a child needs in its environment to attach; the descriptors themselves go through ``pass_fds``."""
        text = json.dumps({"layout": dataclasses.asdict(self.layout), "fds": self.fds})
        return {BUS_VARIABLE: text}

    @classmethod
    def attach(cls, writable: set[str]) -> Bus:
        """The bus that this process inherited.

        Raises:
            DeployError: it was not started by a supervisor.
        """
        text = os.environ.get(BUS_VARIABLE)
        if not text:
            raise DeployError(
                explain(
                    "no shared memory was inherited", mend="start the daemon with `robopolicy deploy`, not this module"
                )
            )
        described: dict[str, Any] = json.loads(text)
        layout = described["layout"]
        layout["cameras"] = tuple((str(n), int(h), int(w)) for n, h, w in layout["cameras"])
        return cls(Layout(**layout), described["fds"], writable=writable | {"heartbeat"})

    def post_event(self, event: str) -> int:
        """Send an event to the real-time loop. -> its number."""
        ring = self.ring("events")
        return ring.write(np.array((monotonic_ns(), event.encode()), ring.dtype))

    def post_command(self, kind: str, split: str = "", index: int = 0) -> int:
        """Send an order to the simulated robot. -> its number."""
        ring = self.ring("commands")
        return ring.write(np.array((kind.encode(), split.encode(), index), ring.dtype))

    def close(self) -> None:
        """Give all descriptors back."""
        for segment in self._segments.values():
            segment.close()
