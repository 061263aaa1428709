"""The mailbox through which chunks reach the real-time loop: newest wins, nothing is trusted.

The header of a chunk carries everything that the reader checks: epoch (chunks made for an earlier run of the arm are
refused), observation number and time, step, size, and the hash of the embodiment whose channels the values are.
Slots are kept for a while after they have been taken, so that the black box can write down every chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.shm import RecordRing, Segment
from robopolicy.errors import DeployError, explain
from robopolicy.types import ActionChunk

__all__ = ["ChunkMailbox", "ReceivedChunk", "chunk_dtype", "chunk_record"]

SLOTS = 32
TRIES = 3
"""How many of the newest messages are looked at when some are torn."""
HASH_BYTES = 32


def chunk_dtype(max_steps: int, action_width: int) -> np.dtype[Any]:
    """dtype of one message: header and ``values f64 [max_steps, action_width]``."""
    return np.dtype(
        [
            ("epoch", "<u8"),
            ("obs_id", "<u8"),
            ("t_obs_ns", "<i8"),
            ("t_made_ns", "<i8"),
            ("dt_ns", "<i8"),
            ("inference_ns", "<i8"),
            ("n", "<u4"),
            ("dof", "<u4"),
            ("horizon", "<u4"),
            ("padding", "<u4"),
            ("embodiment", f"S{HASH_BYTES}"),
            ("valid", "u1", (max_steps,)),
            ("values", "<f8", (max_steps, action_width)),
        ]
    )


def chunk_record(dtype: np.dtype[Any], chunk: ActionChunk) -> NDArray[Any]:
    """One message of a chunk that fits; epoch, numbers and the other times are the caller's."""
    n, width = chunk.values.shape
    record = np.zeros((), dtype)
    record["t_obs_ns"], record["dt_ns"] = chunk.t0_ns, round(chunk.dt_s * 1e9)
    record["n"], record["dof"], record["horizon"] = n, width, chunk.horizon or 0
    record["embodiment"] = chunk.embodiment.encode("ascii", "replace")[:HASH_BYTES]
    record["valid"][:n] = chunk.valid
    record["values"][:n] = chunk.values
    return record


class ReceivedChunk:
    """One message as it stands in the mailbox, not yet believed.

    Attributes:
        epoch: Epoch of the arm's run that the observation belonged to.
        obs_id: Number of the newest sensor frame used.
        t_obs_ns, t_made_ns: When that frame was captured, and when the chunk was finished.
        inference_s: Duration of the policy's call.
        number: Of the message, counted from 1; 0 where it did not come out of the mailbox.
    """

    def __init__(self, record: np.void, number: int = 0):
        self.record, self.number = record, number
        self.epoch = int(record["epoch"])
        self.obs_id = int(record["obs_id"])
        self.t_obs_ns = int(record["t_obs_ns"])
        self.t_made_ns = int(record["t_made_ns"])
        self.inference_s = int(record["inference_ns"]) / 1e9

    def refusal(self, *, epoch: int, embodiment: str, action_width: int, dt_s: float) -> str | None:
        """Why this message must not become motion, in a word; None when its header and numbers hold."""
        record = self.record
        if self.epoch != epoch:
            return "epoch"
        if bytes(record["embodiment"]).rstrip(b"\0").decode("ascii", "replace") != embodiment:
            return "embodiment"
        if int(record["dof"]) != action_width or not 1 <= int(record["n"]) <= len(record["values"]):
            return "shape"
        if abs(int(record["dt_ns"]) / 1e9 - dt_s) > 0.01 * dt_s:
            return "dt"
        if not np.isfinite(record["values"][: int(record["n"])]).all():
            return "non_finite"
        return None

    def chunk(self) -> ActionChunk:
        """The chunk; call only after :meth:`refusal` said None."""
        record, n = self.record, int(self.record["n"])
        return ActionChunk(
            values=np.array(record["values"][:n]),
            t0_ns=self.t_obs_ns,
            dt_s=int(record["dt_ns"]) / 1e9,
            embodiment=bytes(record["embodiment"]).rstrip(b"\0").decode("ascii"),
            valid=record["valid"][:n].astype(bool),
            horizon=int(record["horizon"]) or None,
        )


class ChunkMailbox:
    """Policy worker -> real-time loop.

    Args:
        segment: Memory of :meth:`nbytes`.
        max_steps: Longest chunk.
        action_width: ``A``.
        create: Write the head.
    """

    def __init__(self, segment: Segment, max_steps: int, action_width: int, *, create: bool = False):
        self.max_steps, self.action_width = max_steps, action_width
        self.ring = RecordRing(segment, chunk_dtype(max_steps, action_width), SLOTS, create=create)
        self._seen = 0

    @staticmethod
    def nbytes(max_steps: int, action_width: int) -> int:
        """Bytes that the mailbox needs."""
        return RecordRing.nbytes(chunk_dtype(max_steps, action_width), SLOTS)

    @property
    def torn(self) -> int:
        """Messages dropped because they were torn or damaged."""
        return self.ring.torn

    def put(self, chunk: ActionChunk, *, epoch: int, obs_id: int, t_made_ns: int, inference_ns: int = 0) -> int:
        """Publish a chunk. -> its sequence number.

        Raises:
            DeployError: it does not fit the mailbox.
        """
        n, width = chunk.values.shape
        if n > self.max_steps or width != self.action_width:
            raise DeployError(
                explain(
                    "the chunk does not fit the mailbox",
                    given=chunk.values.shape,
                    allowed=f"[1..{self.max_steps}, {self.action_width}]",
                    mend="raise max_chunk_steps in the deploy configuration, or use a policy of this embodiment",
                )
            )
        record = chunk_record(self.ring.dtype, chunk)
        record["epoch"], record["obs_id"] = epoch, obs_id
        record["t_made_ns"], record["inference_ns"] = t_made_ns, inference_ns
        return self.ring.write(record)

    def take(self) -> ReceivedChunk | None:
        """The newest message not taken before, or None. Torn ones are counted and passed over."""
        newest = self.ring.newest
        if newest == self._seen:
            return None
        for number in range(newest, max(self._seen, newest - TRIES), -1):
            record = self.ring.read(number)
            if record is not None:
                self._seen = newest
                return ReceivedChunk(record, number)
            self.ring.torn += 1
        self._seen = newest
        return None
