"""What the real-time loop tells the policy worker of the future: the path that is scheduled, by absolute time.

::

    realtime   chunk accepted --> knots of the path at its control steps --ring "schedule"--> worker
    worker     new observation --> the knots after it, between two of them by interpolation --> Policy.act(prefix=...)

Written only when a chunk has been accepted, so a tick without one pays nothing. The loop stays the only one who knows
what is sent: a worker that reads nothing, or something old, asks its policy without a prefix.
"""

from __future__ import annotations

import numpy as np

from robopolicy.control.between import delay_steps
from robopolicy.control.executor import Executor
from robopolicy.deploy.mailbox import ReceivedChunk, chunk_record
from robopolicy.deploy.shm import RecordRing
from robopolicy.types import ActionChunk

__all__ = ["Outlook", "publish_nothing", "publish_outlook"]


def publish_outlook(
    ring: RecordRing, executor: Executor, *, t_obs_ns: int, starts_ns: int, epoch: int, lag_ns: int = 0
) -> bool:
    """Write what is scheduled after a chunk was accepted. -> whether there was anything to tell.

    Args:
        ring: The ring ``schedule``.
        executor: Has accepted the chunk.
        t_obs_ns: Path time of its observation.
        starts_ns: Time on the executor's clock from which on it is followed.
        epoch: The arm's.
        lag_ns: Wall time minus path time; what is written is in wall time.
    """
    ahead = executor.scheduled(t_obs_ns, max(starts_ns - t_obs_ns, 0))
    if ahead is None:
        return False
    most = ring.dtype["values"].shape[0]
    kept = ActionChunk(ahead.values[:most], ahead.t0_ns + lag_ns, ahead.dt_s, ahead.embodiment, horizon=ahead.horizon)
    record = chunk_record(ring.dtype, kept)
    record["epoch"], record["t_made_ns"] = epoch, starts_ns + lag_ns
    ring.write(record)
    return True


def publish_nothing(ring: RecordRing, epoch: int) -> None:
    """Write that what was scheduled will not happen: the arm stops."""
    record = np.zeros((), ring.dtype)
    record["epoch"] = epoch
    ring.write(record)


class Outlook:
    """The worker's view of the ring ``schedule``.

    Args:
        ring: Written by the real-time loop.
        embodiment: Hash of the card that it drives.
    """

    def __init__(self, ring: RecordRing, embodiment: str):
        self._ring, self._embodiment = ring, embodiment
        self._cursor = ring.newest
        self._epoch = -1
        self._known: ActionChunk | None = None

    def poll(self, epoch: int) -> list[int]:
        """Read what is new of this epoch.

        Returns:
            Delay (ns) from observation to motion of every chunk accepted since the last call.
        """
        if epoch != self._epoch:
            self._epoch, self._known = epoch, None
        records, self._cursor, _ = self._ring.since(self._cursor)
        found = [ReceivedChunk(record) for record in records]
        delays = []
        for received in found:
            if received.epoch != epoch:
                continue
            told = bool(received.record["n"])
            self._known = received.chunk() if told else None
            if told:
                delays.append(received.t_made_ns - received.t_obs_ns)
        return delays

    def standing(self, time_ns: int) -> bool:
        """Whether nothing that is known is scheduled after ``time_ns``."""
        return self._known is None or int(self._known.time_ns[-1]) <= time_ns

    def scheduled(self, t0_ns: int, delay_ns: int) -> ActionChunk | None:
        """As :meth:`robopolicy.control.executor.Executor.scheduled`, from what was written last.

        Between two knots of what was written the values are interpolated; the way to rest after the last one is a hold.
        """
        known = self._known
        if known is None or known.embodiment != self._embodiment:
            return None
        end_ns = int(known.time_ns[-1])
        fixed = delay_steps(delay_ns, known.dt_s)
        left = int((end_ns - t0_ns) * 1e-9 / known.dt_s + 1e-6)
        if left < 1 or t0_ns + delay_ns >= end_ns + round(known.dt_s * 1e9):
            return None
        times = [t0_ns + round(k * known.dt_s * 1e9) for k in range(1, max(left, fixed) + 1)]
        values = np.array([known.at(time_ns) for time_ns in times])
        return ActionChunk(values, t0_ns, known.dt_s, known.embodiment, horizon=fixed)
