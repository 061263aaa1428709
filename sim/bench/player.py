"""Which action of which chunk is carried out in a control step, by absolute time.

The executor's rules without its curve: a benchmark takes one action per step, and nothing lies between two steps. A
chunk that arrives late is entered where its time is by then, one that finds nothing scheduled is followed from its
beginning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.between import delay_steps
from robopolicy.embodiment import Embodiment
from robopolicy.types import ActionChunk

__all__ = ["ChunkPlayer"]


class ChunkPlayer:
    """Plays chunks of actions at the control rate.

    Args:
        card: Names the action channels and their ranges.
        rest: [A] action that leaves a channel as it is when nothing is scheduled; NaN repeats the last one sent.
        start: [A] action that keeps the robot where it is at the beginning.
    """

    def __init__(self, card: Embodiment, rest: NDArray[np.float64], start: NDArray[np.float64]):
        self._card, self._rest = card, rest
        self._lower, self._upper = card.action.lower, card.action.upper
        self._step_ns = round(1e9 / card.control_hz)
        self._chunk: ActionChunk | None = None
        self._t0_ns = 0
        self.last = np.clip(start, self._lower, self._upper)
        self.clipped = False

    def submit(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Take a chunk that arrives now, at the beginning of a step; False if it is refused and nothing changes."""
        values = np.asarray(chunk.values)
        fits = chunk.embodiment == self._card.hash and values.shape[1] == len(self._rest)
        if not (fits and np.isfinite(values[np.asarray(chunk.valid)]).all()):
            return False
        t0_ns = max(now_ns, chunk.t0_ns) if self.standing(now_ns) else chunk.t0_ns
        if round((now_ns - t0_ns) / self._step_ns) >= len(values):
            return False
        self._chunk, self._t0_ns = chunk, t0_ns
        return True

    def standing(self, now_ns: int) -> bool:
        """Whether a chunk that comes now would be followed from its beginning: none has been played for a step."""
        # one that ends just now is still in motion
        return self._chunk is None or self._row(now_ns) > len(self._chunk.values)

    def scheduled(self, t0_ns: int, delay_ns: int = 0) -> ActionChunk | None:
        """The actions of the steps from ``t0_ns``, the beginning of a step, on; the first may still be played.

        Returns:
            What is left of the chunk; ``horizon`` = ceil(delay / dt) of it will have been carried out by the end of
            the delay. None when it will have run out by then.
        """
        row, fixed = self._row(t0_ns), delay_steps(delay_ns, self._step_ns * 1e-9)
        chunk = self._chunk
        if chunk is None or row + max(fixed, 1) > len(chunk.values) or not np.asarray(chunk.valid)[row:].all():
            return None
        return ActionChunk(chunk.values[row:], t0_ns, self._card.control_dt_s, self._card.hash, horizon=fixed)

    def action(self, now_ns: int) -> tuple[NDArray[np.float64], bool]:
        """[A] action of the step that begins now, and whether a chunk gave it; ``clipped``: it was out of range."""
        row = self._row(now_ns)
        chunk = self._chunk
        played = chunk is not None and 0 <= row < len(chunk.values) and bool(np.asarray(chunk.valid)[row])
        if chunk is not None and played:
            wanted = np.array(chunk.values[row], float)
        else:
            wanted = np.where(np.isnan(self._rest), self.last, self._rest)
        self.last = np.clip(wanted, self._lower, self._upper)
        self.clipped = bool((np.abs(self.last - wanted) > 1e-6 * (self._upper - self._lower)).any())
        return self.last, played

    def _row(self, now_ns: int) -> int:
        return round((now_ns - self._t0_ns) / self._step_ns)
