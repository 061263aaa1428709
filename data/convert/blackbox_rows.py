"""The ticks and frames of one recorded session, sampled at any times."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.blackbox_log import BlackBoxLog
from robopolicy.data.convert.forward_kinematics import card_vectors
from robopolicy.data.episode import EncodedFrames
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain

__all__ = ["Motion", "RunningSpan", "camera_frames", "camera_sizes", "running_spans"]

RUNNING, COMMAND = 5, 1
"""State of the arm and bit of the driver's calls, as they stand in the recording."""
CAMERA = "/camera/"


@dataclass(frozen=True)
class RunningSpan:
    """One stretch in which the arm followed the policy: ticks [start, stop), all of one epoch and one scene."""

    start: int
    stop: int


class Motion:
    """Ticks and frames of one session.

    Args:
        log: With tape, state and frame channels.
    """

    def __init__(self, log: BlackBoxLog):
        tape, states, frames = (log.records(f"/binary/{name}") for name in ("tape", "state", "frame"))
        if not len(tape) or not len(states):
            raise DataError(
                explain(f"{log.paths[0].name} holds no ticks", given=sorted(log.topics), mend="leave that file out")
            )
        _, mine, theirs = np.intersect1d(tape["tick"], states["tick"], assume_unique=True, return_indices=True)
        self.tape, self.state, self.frames = tape[mine], states[theirs], frames
        self._offset_ns = int(log.run["wall_minus_monotonic_ns"])
        sent = (self.tape["calls"] & COMMAND) > 0
        self._reach_ns, first = np.unique(self.tape["t_setpoint_ns"][sent], return_index=True)
        self._sent = self.tape["setpoint"][sent][first]
        read = self.tape["read"] == 1
        self._read_ns, first = np.unique(self.tape["t_robot_ns"][read], return_index=True)
        self._position = self.tape["position"][read][first]

    @property
    def has_frames(self) -> bool:
        """Whether sensor frames were recorded."""
        return len(self.frames) > 0

    @property
    def environment_width(self) -> int:
        """Width of the privileged state, which a simulated robot knows; 0 elsewhere."""
        return int(self.frames["environment_width"].max()) if self.has_frames else 0

    def rows(self, span: RunningSpan, card: Embodiment) -> NDArray[np.int64]:
        """Times of the rows: frames, or control steps where there are none, with a setpoint a step later."""
        start_ns, stop_ns = (int(self.tape["t_ns"][i]) for i in (span.start, span.stop - 1))
        step_ns = round(card.control_dt_s * 1e9)
        stop_ns = min(stop_ns, int(self._reach_ns[-1]) - step_ns)
        if self.has_frames:
            times = np.unique(self.frames["time_ns"])
            return times[(times >= start_ns) & (times <= stop_ns)].astype(np.int64)
        return np.arange(start_ns, stop_ns + 1, step_ns, dtype=np.int64)

    def measured(self, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Measured positions [T, J] at any times, on the line between two readings."""
        return _between(self._read_ns, self._position, times_ns)

    def setpoints(self, times_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the arm was told to be [T, J] at any times."""
        return _between(self._reach_ns, self._sent, times_ns)

    def states(
        self, times_ns: NDArray[np.int64], span: RunningSpan, joints: NDArray[np.float64], card: Embodiment
    ) -> NDArray[np.float64]:
        """State vectors [T, S]: those of the frames, or forward kinematics of the measured joints."""
        if not self.has_frames:
            return card_vectors(card, joints, "state")
        at = np.searchsorted(self._frame_times(), times_ns)
        return np.asarray(self.frames["state"][self._frame_order()][at], np.float64)

    def environment(self, times_ns: NDArray[np.int64], width: int) -> NDArray[np.float64]:
        """Privileged state [T, width] of the frames."""
        at = np.searchsorted(self._frame_times(), times_ns)
        return np.asarray(self.frames["environment_state"][self._frame_order()][at][:, :width], np.float64)

    def success(self, span: RunningSpan) -> bool | None:
        """Whether the robot saw its task done within the stretch; None where it cannot know."""
        if not self.environment_width:
            return None
        start_ns, stop_ns = (int(self.tape["t_ns"][i]) for i in (span.start, span.stop - 1))
        inside = (self.frames["time_ns"] >= start_ns) & (self.frames["time_ns"] <= stop_ns)
        return bool(self.frames["success"][inside].any())

    def wall_ns(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Log times of messages of these times."""
        return times_ns + self._offset_ns

    def about(self, span: RunningSpan) -> dict[str, Any]:
        """Where a stretch lies, and how it ended."""
        found: dict[str, Any] = {"ticks": [int(self.tape["tick"][i]) for i in (span.start, span.stop - 1)]}
        found["epoch"] = int(self.state["epoch"][span.start])
        if self.has_frames:
            near = int(np.abs(self.frames["time_ns"] - self.tape["t_ns"][span.start]).argmin())
            found |= {"split": bytes(self.frames["split"][near]).decode(), "index": int(self.frames["index"][near])}
        return found

    def _frame_times(self) -> NDArray[np.int64]:
        return np.unique(self.frames["time_ns"])

    def _frame_order(self) -> NDArray[np.intp]:
        return np.unique(self.frames["time_ns"], return_index=True)[1]


def running_spans(motion: Motion, min_s: float) -> list[RunningSpan]:
    """Stretches of RUNNING without a hole, of one epoch, at least ``min_s`` long and two control steps."""
    running = (motion.state["state"] == RUNNING).astype(np.int8)
    tick, epoch = motion.tape["tick"].astype(np.int64), motion.state["epoch"]
    joined = running[1:] & running[:-1] & (np.diff(tick) == 1) & (epoch[1:] == epoch[:-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], joined, [0]])))
    spans = [RunningSpan(int(a), int(b) + 1) for a, b in edges.reshape(-1, 2)]
    length_s = [(int(motion.tape["t_ns"][s.stop - 1]) - int(motion.tape["t_ns"][s.start])) / 1e9 for s in spans]
    return [s for s, seconds in zip(spans, length_s, strict=True) if seconds >= max(min_s, 0.1)]


def camera_sizes(log: BlackBoxLog) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) of the frames that were recorded."""
    config, card = log.run["config"], log.card
    if config["deploy"].get("blackbox_images", "none") == "none":
        return {}
    cameras = [card.camera(name) for name in config["cameras"]]
    return {c.name: (c.height, c.width) for c in cameras}


def camera_frames(
    paths: Sequence[Path], cameras: Mapping[str, tuple[int, int]], log_ns: NDArray[np.int64]
) -> dict[str, EncodedFrames]:
    """JPEG files of the rows, as they are in the recording.

    Raises:
        DataError: a row has no frame.
    """
    log = BlackBoxLog(paths, [CAMERA + name for name in cameras])
    found = {}
    for name, size in cameras.items():
        logged = log.topics.get(CAMERA + name)
        times = np.array(logged.log_ns if logged is not None else [], np.int64)
        order = np.argsort(times, kind="stable")
        at = np.searchsorted(times[order], log_ns, side="right") - 1
        if logged is None or (at < 0).any():
            raise DataError(explain(f"camera {name} has no frame for some rows", mend="leave the camera out"))
        blobs = tuple(base64.b64decode(json.loads(logged.data[int(order[i])])["data"], validate=True) for i in at)
        found[f"image/{name}"] = EncodedFrames((*size, 3), blobs)
    return found


def _between(
    times_ns: NDArray[np.int64], values: NDArray[np.float64], wanted_ns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[T, J] on the line between two samples, held at both ends."""
    if not len(times_ns):
        raise DataError(explain("the recording holds no setpoints or no measured states"))
    origin = int(times_ns[0])
    x, at = (times_ns - origin).astype(float), (wanted_ns - origin).astype(float)
    return np.stack([np.interp(at, x, column) for column in values.T], axis=1)
