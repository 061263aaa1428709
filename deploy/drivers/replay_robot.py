"""A recorded run played as a robot: the whole daemon can be tried on it without hardware and without a simulator.

Its states are the recording's, whatever is sent to it; what is sent is kept, and compared with what was recorded.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DeployError, explain
from robopolicy.types import RobotState, Setpoint

__all__ = ["ReplayRobotDriver"]

Vector = NDArray[np.float64]
MOST_KEPT = 100_000


class ReplayRobotDriver:
    """A :class:`~robopolicy.protocols.RobotDriver` whose states come from a file.

    Args:
        card: Of the robot that was recorded.
        tick_s: Time between two setpoints; the recording may have another.
        timeout_s: Taken and ignored: a file does not fall silent, unless ``ends`` says so.
        path: ``setpoints/*.npy`` of a simulated run, or an npz; either has ``time_ns`` [N] and ``position`` [N, J].
        speed: Of playing; 0.5 is half speed.
        ends: After the last state the robot ``holds`` it, begins again (``again``), or falls ``silent``.
        per_read: Every :meth:`read` is one state further, whatever the clock says: for tests that must repeat.

    Attributes:
        sent: Setpoints received, the first 100 000.

    Raises:
        DeployError: an option out of range.
    """

    buffered = False

    def __init__(
        self,
        card: Embodiment,
        *,
        tick_s: float,
        timeout_s: float,
        path: str,
        speed: float = 1.0,
        ends: str = "holds",
        per_read: bool = False,
    ):
        if not speed > 0 or ends not in ("holds", "again", "silent"):
            raise DeployError(
                explain(
                    "no way to play", given=f"speed={speed}, ends={ends}", allowed="speed > 0; holds, again, silent"
                )
            )
        self._card, self._path, self._speed, self._ends, self._per_read = card, Path(path), speed, ends, per_read
        self._times: NDArray[np.int64] | None = None
        self._positions: Vector = np.zeros((0, len(card.joints)))
        self._start_ns = self._reads = self._newest_ns = 0
        self.sent: list[Setpoint] = []
        self.flags = 0

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot that was recorded."""
        return self._card

    @property
    def largest_difference(self) -> float:
        """Between what was sent and the recording, the n-th setpoint with the n-th, in channel units."""
        count = min(len(self.sent), len(self._positions))
        sent = np.array([s.position for s in self.sent[:count]], float)
        return float(np.abs(sent - self._positions[:count]).max()) if count else 0.0

    def connect(self) -> None:
        """Read the file and begin to play.

        Raises:
            DeployError: no file, or not a recording of this robot.
        """
        if self._times is None:
            self._times, self._positions = _load(self._path, len(self._card.joints))
            self._start_ns, self._reads = monotonic_ns(), 0

    def enable(self) -> None:
        """Nothing to do."""

    def read(self) -> RobotState:
        """The state of now.

        Raises:
            DeployError: not connected, or the recording has ended and ``ends`` is ``silent``.
        """
        times = self._times
        if times is None:
            raise DeployError(explain("the recording is not open", mend="call connect() first"))
        now_ns, last = monotonic_ns(), len(times) - 1
        if self._per_read:
            k, self._reads = self._reads, self._reads + 1
            at = float(k % (last + 1) if self._ends == "again" else min(k, last))
            over = k > last
        else:
            span_ns = int(times[-1] - times[0])
            played_ns = (now_ns - self._start_ns) * self._speed
            over = played_ns > span_ns
            if over and self._ends == "again" and span_ns:
                played_ns %= span_ns
            at = float(np.interp(played_ns, times - times[0], np.arange(last + 1)))
        if over and self._ends == "silent":
            raise DeployError(explain("the recording has ended", given=str(self._path)))
        self._newest_ns = max(now_ns, self._newest_ns + 1)
        moving = self._ends == "again" or not over
        return RobotState(self._newest_ns, *self._sample(times, at, moving))

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Keep it; the recording goes on.

        Raises:
            DeployError: not connected, not finite, or of another width.
        """
        if self._times is None:
            raise DeployError(explain("the recording is not open", mend="call connect() first"))
        wanted = np.asarray(setpoint.position, float)
        if wanted.shape != (len(self._card.joints),) or not np.isfinite(wanted).all():
            allowed = f"{len(self._card.joints)} finite numbers"
            raise DeployError(explain("not a setpoint", given=wanted, allowed=allowed))
        if len(self.sent) < MOST_KEPT:
            self.sent.append(Setpoint(setpoint.time_ns, wanted.copy()))

    def hold(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Forget the file; what was sent is kept."""
        self._times = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sample(self, times: NDArray[np.int64], at: float, moving: bool) -> tuple[Vector, Vector]:
        """Position and velocity at a fractional index; a line between two states."""
        k = min(int(at), len(times) - 2) if len(times) > 1 else 0
        if len(times) == 1:
            return self._positions[0].copy(), np.zeros(len(self._card.joints))
        step = self._positions[k + 1] - self._positions[k]
        dt_s = max(int(times[k + 1] - times[k]), 1) / 1e9
        velocity = step / dt_s * self._speed if moving else np.zeros_like(step)
        return self._positions[k] + (at - k) * step, velocity


def _load(path: Path, width: int) -> tuple[NDArray[np.int64], Vector]:
    try:
        found = np.load(path, allow_pickle=False)
        times, positions = np.array(found["time_ns"], np.int64), np.array(found["position"], float)
    except (OSError, ValueError, KeyError, IndexError) as error:
        mend = "give setpoints/*.npy of a run folder, or an npz with time_ns [N] and position [N, J]"
        raise DeployError(explain("no recording", given=f"{path}: {error}", mend=mend)) from error
    usable = np.isfinite(positions).all() and (np.diff(times) > 0).all()
    if positions.shape != (len(times), width) or not len(times) or not usable:
        given = f"time_ns {times.shape}, position {positions.shape}"
        allowed = f"[N] advancing, [N, {width}] finite, N >= 1"
        raise DeployError(
            explain("not a recording of this robot", given=given, allowed=allowed, mend="embodiment: NAME")
        )
    return times, positions
