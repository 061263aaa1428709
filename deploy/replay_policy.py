"""The chunks of a recorded run as a policy: ``robopolicy deploy FILE.mcap robot=sim_panda``.

It plays the accepted chunks of the first epoch that moved, at the times after the start at which they were made then.
What the arm does with them is decided anew: by the robot, the executor and the limits of now.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.convert.blackbox_log import BlackBoxLog, sessions
from robopolicy.deploy.mailbox import ReceivedChunk
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["RecordedPolicy", "accepted_chunks"]

AGAIN_NS = 2_000_000_000
"""A call this long after the last one is the beginning of another run."""


def accepted_chunks(log: BlackBoxLog) -> list[ActionChunk]:
    """Chunks of the first epoch in which any became motion, in order.

    Raises:
        DeployError: none did.
    """
    tape, states = log.records("/binary/tape"), log.records("/binary/state")
    chunks = log.topics.get("/binary/chunk")
    if not len(tape) or not len(states) or chunks is None:
        raise DeployError(explain("the recording holds no chunks", given=sorted(log.topics)))
    accepted = {int(s["tick"]) for s in states[states["accepted"] > 0]}
    taken = [int(t["chunk"]) for t in tape[tape["chunk"] > 0] if int(t["tick"]) in accepted]
    found = dict(zip(chunks.unique_numbers().tolist(), chunks.records(), strict=True))
    received = [ReceivedChunk(found[n & 0xFFFFFFFF]) for n in taken if n & 0xFFFFFFFF in found]
    if not received:
        raise DeployError(explain("no chunk of the recording became motion", given=f"{len(found)} chunks"))
    return [one.chunk() for one in received if one.epoch == received[0].epoch]


class RecordedPolicy:
    """Plays chunks back. It remembers when it was first asked, which no other policy does.

    Args:
        path: A black box.
        embodiment: The robot; its hash must be the recorded one's.

    Raises:
        EmbodimentMismatchError: recorded on another robot.
    """

    def __init__(self, path: str | Path, embodiment: Embodiment):
        log = BlackBoxLog(sessions(Path(path))[0], ("/binary/tape", "/binary/state", "/binary/chunk"))
        embodiment.require_same(log.card, mine=f"the robot {embodiment.name}", theirs=f"the recording {path}")
        self._card, self.chunks = embodiment, accepted_chunks(log)
        self._times = np.array([chunk.t0_ns for chunk in self.chunks], np.int64)
        self._begun_ns = self._last_ns = 0

    @property
    def spec(self) -> PolicySpec:
        """Asked as often as the recorded policy was."""
        dt_ns = self._card.control_dt_s * 1e9
        every = max(1, round(float(np.median(np.diff(self._times))) / dt_ns)) if len(self._times) > 1 else 1
        longest = max(len(chunk.values) for chunk in self.chunks)
        return PolicySpec(self._card, 1, min(every, longest), longest + 1)

    def act(
        self, observation: Observation, *, rng: Any, prefix: ActionChunk | None = None, goal: Any = None
    ) -> ActionChunk:
        """What was decided then, this long after the start; the last action when the recording is over."""
        now_ns = int(observation.time_ns[-1])
        if not self._begun_ns or now_ns - self._last_ns > AGAIN_NS or now_ns < self._last_ns:
            self._begun_ns = now_ns
        self._last_ns = now_ns
        then_ns = int(self._times[0]) + now_ns - self._begun_ns
        step_ns = round(self._card.control_dt_s * 1e9)
        chunk = self.chunks[max(int(np.searchsorted(self._times, then_ns + step_ns // 2)) - 1, 0)]
        left = max(1, round((int(chunk.time_ns[-1]) - then_ns) / step_ns))
        values = np.array([chunk.at(then_ns + i * step_ns) for i in range(1, left + 1)])
        return ActionChunk(values, now_ns, chunk.dt_s, chunk.embodiment, horizon=chunk.horizon)
