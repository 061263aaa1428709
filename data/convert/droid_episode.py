"""One DROID trajectory, or a range of its steps: joints, tool poses, frames of the videos, times."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.forward_kinematics import card_vectors, tcp_poses
from robopolicy.data.convert.hdf5_episode import Hdf5File, nominal_time_ns
from robopolicy.data.convert.robomind_frames import black_frames
from robopolicy.data.convert.source import Finding, Reading
from robopolicy.data.convert.unify import gripper_opening, rotation_matrix
from robopolicy.data.convert.video import frame_sequence, probe_video
from robopolicy.data.episode import RATE_TOLERANCE, Episode
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain

__all__ = ["DroidPlan", "DroidReader", "Segment"]

Array = NDArray[np.float64]
FLANGE_M = 0.107
"""From the frame of the last joint to panda_link8, along z."""
_FAR_M = 0.02
_STATE = "observation/robot_state"
_TIME = "observation/timestamp/control/step_start"


@dataclass(frozen=True)
class Segment:
    """An episode, or a range of its steps.

    Attributes:
        id: Path below the source; ``#2`` for the third range.
        file: trajectory.h5.
        success: By the folder's name.
        key: ``lab/outcome/date/time``, by which filters name episodes.
        instruction: May be empty.
        metadata: The episode's own JSON.
        span: (start, stop) of the steps, None for all.
    """

    id: str
    file: Path
    success: bool
    key: str
    instruction: str
    metadata: dict[str, Any]
    span: tuple[int, int] | None = None

    @classmethod
    def of(cls, source: Path, file: Path, texts: dict[str, str]) -> Segment:
        """The whole episode.

        Raises:
            DataError: its metadata is no JSON.
        """
        folder = file.parent
        below = folder.relative_to(source).as_posix() if source.is_dir() and folder != source else folder.name
        found = sorted(folder.glob("metadata_*.json"))
        try:
            metadata = json.loads(found[0].read_text(encoding="utf-8")) if found else {}
        except ValueError as error:
            raise DataError(explain(f"{found[0]} is no JSON: {error}", mend="fetch it again")) from error
        outcomes = [part for part in folder.parts if part in ("success", "failure")]
        uuid = str(metadata.get("uuid", ""))
        text = texts.get(uuid) or str(metadata.get("current_task") or "")
        return cls(below, file, bool(outcomes) and outcomes[-1] == "success", cls.key_of(file), text, metadata)

    @staticmethod
    def key_of(file: Path | str) -> str:
        """``lab/outcome/date/time`` of ``.../lab/outcome/date/time/trajectory.h5``, wherever that was."""
        return "/".join(str(file).split("/")[-5:-1])

    def parts(self, spans: list[tuple[int, int]]) -> list[Segment]:
        """One segment per range, in order."""
        return [replace(self, id=f"{self.id}#{i}", span=span) for i, span in enumerate(spans) if span[1] - span[0] >= 2]

    def video(self, slot: str) -> Path | None:
        """The MP4 of a camera, or None."""
        path = self._recording(slot, "MP4", "mp4")
        return path if path is not None and path.is_file() else None

    def svo(self, slot: str) -> Path | None:
        """The SVO of a camera, or None."""
        for ending in ("svo", "svo2"):
            path = self._recording(slot, "SVO", ending)
            if path is not None and path.is_file():
                return path
        return None

    def _recording(self, slot: str, folder: str, ending: str) -> Path | None:
        role = {"wrist": "wrist", "exterior_1": "ext1", "exterior_2": "ext2"}[slot]
        serial = self.metadata.get(f"{role}_cam_serial")
        return self.file.parent / "recordings" / folder / f"{serial}.{ending}" if serial else None


@dataclass(frozen=True)
class DroidPlan:
    """How every episode is read.

    Attributes:
        card: Panda with a gripper.
        pose: ``kinematics`` or ``recorded``.
        cameras: Slot -> (height, width).
        fps: Nominal rate.
        repair: Chosen repairs.
    """

    card: Embodiment
    pose: str
    cameras: dict[str, tuple[int, int]]
    fps: float
    repair: frozenset[str]


class DroidReader:
    """Reads segments after a plan."""

    def __init__(self, plan: DroidPlan):
        """See :class:`DroidPlan`."""
        self.plan = plan
        names = [*(link.joint for link in plan.card.chain), plan.card.gripper]
        self._order = [names.index(name) for name in plan.card.joints.names]

    def read(self, segment: Segment) -> Reading:
        """One segment; findings of severity ``error`` that were not repaired leave it out.

        Raises:
            DataError: the file or a video is damaged, or an array is missing.
        """
        findings: list[Finding] = []
        claimed = segment.metadata.get("success")
        if isinstance(claimed, bool) and claimed != segment.success:
            findings.append(
                Finding(
                    "success",
                    f"folder says {segment.success}, metadata {claimed}; the folder counts",
                    "warning",
                    segment.id,
                )
            )
        with Hdf5File(segment.file) as file:
            steps = len(file.vectors(f"{_STATE}/joint_positions", 7))
            rows = self._rows(segment, steps, findings)
            frames, steps_seen = self._frames(segment, rows, steps, findings)
            rows = rows[: max(steps_seen - rows.start, 0)] if steps_seen < rows.stop else rows
            if len(rows) < 2:
                findings.append(Finding("length", f"{len(rows)} steps are left of {steps}", "error", segment.id))
                return Reading(None, findings)
            streams = self._streams(file, slice(rows.start, rows.stop), segment, findings)
        streams |= {name: video if len(video) == len(rows) else video.head(len(rows)) for name, video in frames.items()}
        absent = [slot for slot in self.plan.cameras if f"image/{slot}" not in frames]
        streams |= {f"image/{slot}": black_frames(self.plan.cameras[slot], len(rows)) for slot in absent}
        if any(f.severity == "error" and not f.repaired for f in findings):
            return Reading(None, findings)
        keys = ("uuid", "lab", "user", "scene_id", "building", "date", "robot_serial")
        source = {"id": segment.id, **{k: segment.metadata[k] for k in keys if k in segment.metadata}}
        metadata: dict[str, Any] = {"source": source}
        if segment.span is not None:
            source["steps"] = [rows.start, rows.stop]
        if absent:
            metadata["absent_cameras"] = sorted(absent)
        return Reading(Episode(streams, segment.instruction, segment.success, metadata), findings)

    def _rows(self, segment: Segment, steps: int, findings: list[Finding]) -> range:
        if segment.span is None:
            return range(steps)
        start, stop = segment.span
        if stop > steps or start < 0:
            findings.append(Finding("keep_ranges", f"steps {start} to {stop} of {steps}; cut", "warning", segment.id))
        return range(max(start, 0), min(stop, steps))

    def _frames(self, segment: Segment, rows: range, steps: int, findings: list[Finding]) -> tuple[dict[str, Any], int]:
        """Frame sequences of the present cameras, and how many steps all of them have a frame for."""
        found: dict[str, Any] = {}
        videos = {slot: segment.video(slot) for slot in self.plan.cameras}
        lengths = {}
        probed = {slot: probe_video(path) for slot, path in videos.items() if path is not None}
        for slot, path in videos.items():
            if path is None:
                svo = " (only an SVO file, which needs the camera maker's SDK)" if segment.svo(slot) else ""
                findings.append(
                    Finding(
                        "missing_camera",
                        f"camera '{slot}' has no MP4{svo}; the repair stores zeros and names it in the metadata",
                        "error", segment.id, f"image/{slot}",
                        repair="missing_camera", repaired="missing_camera" in self.plan.repair,
                    )
                )  # fmt: skip
            elif (size := (probed[slot].height, probed[slot].width)) != self.plan.cameras[slot]:
                message = f"'{slot}' is {size}, the others are {self.plan.cameras[slot]}"
                findings.append(Finding("frame_size", message, "error", segment.id, f"image/{slot}"))
            else:
                lengths[slot] = len(probed[slot])
        seen = min([steps, *lengths.values()])
        if any(length != steps for length in lengths.values()):
            findings.append(
                Finding(
                    "length",
                    f"{steps} steps, frames {lengths}; frame i belongs to step i, the repair keeps {seen}",
                    "error", segment.id, repair="length", repaired="length" in self.plan.repair,
                )
            )  # fmt: skip
        for slot in lengths:
            numbers = np.arange(rows.start, min(rows.stop, seen), dtype=np.int64)
            found[f"image/{slot}"] = frame_sequence(probed[slot], numbers)
        return found, seen

    def _streams(self, file: Hdf5File, rows: slice, segment: Segment, findings: list[Finding]) -> dict[str, Any]:
        plan = self.plan
        measured = self._joints(file, f"{_STATE}/joint_positions", f"{_STATE}/gripper_position", rows)
        commanded = self._joints(file, "action/joint_position", "action/gripper_position", rows)
        flange = file.vectors(f"{_STATE}/cartesian_position", 6, rows)
        wanted = file.vectors("action/cartesian_position", 6, rows)
        kinematic = tcp_poses(plan.card, plan.card.arm().name, measured)
        far = float(np.linalg.norm(self._tool(flange)[0] - kinematic[0], axis=1).mean())
        if far > _FAR_M:
            message = f"the recorded flange is {far:.3f} m from the card's kinematics; another tool frame was set"
            findings.append(Finding("convention", message, "note", segment.id, "source/cartesian_position"))
        own = {"kinematics": (None, None), "recorded": (self._tool(flange), self._tool(wanted))}[plan.pose]
        arm = plan.card.arm().name
        return {
            "time_ns": self._time(file, rows, len(measured), segment, findings),
            "state": card_vectors(plan.card, measured, "state", {arm: own[0]} if own[0] else None),
            "action": card_vectors(plan.card, commanded, "action", {arm: own[1]} if own[1] else None),
            "joint_position": measured,
            "joint_command": commanded,
            "joint_velocity": file.vectors(f"{_STATE}/joint_velocities", 7, rows),
            "source/cartesian_position": flange,
            "source/action_cartesian_position": wanted,
            "source/action_joint_velocity": file.vectors("action/joint_velocity", 7, rows),
        }

    def _joints(self, file: Hdf5File, joints: str, gripper: str, rows: slice) -> Array:
        """Command channels in the card's order; the gripper is turned to 0 closed, 1 open."""
        opening = gripper_opening(file.vectors(gripper, 1, rows), closed=1.0, opened=0.0)
        return np.concatenate([file.vectors(joints, 7, rows), opening], axis=1)[:, self._order]

    def _tool(self, flange: Array) -> tuple[Array, Array]:
        """Recorded flange poses [T, 6] -> poses of the card's tool point."""
        offset, quaternion = self.plan.card.tcp
        rotation = rotation_matrix(flange[:, 3:], "euler_xyz")
        reach = np.array(offset) - [0.0, 0.0, FLANGE_M]
        return flange[:, :3] + rotation @ reach, rotation @ rotation_matrix(np.array(quaternion), "quaternion_wxyz")

    def _time(
        self, file: Hdf5File, rows: slice, count: int, segment: Segment, findings: list[Finding]
    ) -> NDArray[np.int64]:
        nominal = nominal_time_ns(count, self.plan.fps)
        if _TIME not in file:
            findings.append(Finding("rate_drift", f"no {_TIME}; nominal {self.plan.fps:g} Hz", "note", segment.id))
            return nominal
        milliseconds = file.vectors(_TIME, 1, rows)[:, 0]
        time_ns = np.round((milliseconds - milliseconds[0]) * 1e6).astype(np.int64)
        rate = (count - 1) / max(float(time_ns[-1]) * 1e-9, 1e-12)
        if (np.diff(time_ns) > 0).all() and abs(rate / self.plan.fps - 1) <= RATE_TOLERANCE:
            return time_ns
        findings.append(
            Finding(
                "rate_drift",
                f"recorded times give {rate:.4g} Hz, least step {np.diff(time_ns).min() / 1e6:.4g} ms",
                "error", segment.id, "time_ns", repair="nominal_time", repaired="nominal_time" in self.plan.repair,
            )
        )  # fmt: skip
        return nominal
