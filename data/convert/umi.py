"""UMI data sets: a hand-held gripper, one or two arms, ``dataset.zarr.zip`` of JPEG XL frames.

Facts from https://github.com/real-stanford/universal_manipulation_interface (``scripts_slam_pipeline`` and
``diffusion_policy/config/task/umi.yaml``): poses are those of the tool centre point in the frame of the table's tag,
gripper widths in metres, one row per camera frame at 60000/1001 Hz, robot 0 is the right hand and robot 1 the left.
There is no action array. UMI trains on the future poses, so the action of a row is the pose of the next one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.pose_cards import at_rate
from robopolicy.data.convert.replay_buffer import ReplayBuffer, ReplayOptions, find_buffer, regular_time_ns
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import gripper_opening, pose_channels
from robopolicy.data.convert.zarr_v2 import ArrayHeader, ZarrV2
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DataError, explain
from robopolicy.rotations import axis_angle_to_matrix
from robopolicy.schema import setting

__all__ = ["FORMAT", "UmiOptions", "UmiSource"]

RATE_HZ = 60000 / 1001
ARMS = {1: {0: ""}, 2: {0: "right", 1: "left"}}
POSE = ("eef_pos", "eef_rot_axis_angle", "gripper_width")
LIMITS = ("demo_start_pose", "demo_end_pose")
POSE_CHANNELS = (*(f"position.{a}" for a in "xyz"), *(f"axis_angle.{a}" for a in "xyz"))
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad")


@dataclass(frozen=True)
class UmiOptions(ReplayOptions):
    """Options of format ``umi``."""

    fps: float = setting("rows per second in the file", default=RATE_HZ, gt=0)
    step: int = setting("keep every step-th row; UMI trains with 3", default=1, ge=1)
    gripper_width_m: float = setting("opening of the gripper that becomes 1", default=0.09, gt=0)
    camera_latency_s: float = setting("of the cameras, recorded and not applied", default=0.125, ge=0)
    robot_latency_s: float = setting("of the poses, recorded and not applied", default=0.0001, ge=0)
    gripper_latency_s: float = setting("of the gripper widths, recorded and not applied", default=0.02, ge=0)


class UmiSource:
    """An opened UMI data set."""

    def __init__(self, path: Path, options: UmiOptions):
        """Open it and check keys and widths.

        Raises:
            DataError: not UMI's keys, or damaged.
        """
        self.options = options
        self.buffer = ReplayBuffer.open(path, options)
        try:
            self.arms = _arms(path, self.buffer.arrays)
            self.cameras = _cameras(path, self.buffer.arrays)
        except BaseException:
            self.buffer.close()
            raise
        card = load_embodiment("umi" if len(self.arms) == 1 else "umi_bimanual")
        self.fps = options.fps / options.step
        self.card = at_rate(card, card.control_hz if self.fps == RATE_HZ else self.fps, options.gripper_width_m)

    def close(self) -> None:
        """Close the file."""
        self.buffer.close()

    @property
    def info(self) -> SourceInfo:
        """What the data set holds."""
        o = self.options
        conventions = {
            "action": "pose and gripper of the next kept row; the last row of an episode holds its own",
            "frame": "poses are in the frame of the table's tag, not in that of a robot's base",
            "rows": f"every {o.step} of {o.fps:g} Hz; time is nominal, the file has none",
            "gripper": f"width / {o.gripper_width_m:g} m, clipped to 0..1; the width itself is in source/",
            "latency_s": {"camera": o.camera_latency_s, "robot": o.robot_latency_s, "gripper": o.gripper_latency_s},
            "latency_applied": False,
            "arms": {f"robot{i}": name or "the only one" for i, name in self.arms.items()},
        }
        note = "poses are in the frame of the table's tag, and actions are the poses of the next row"
        return SourceInfo(
            embodiment=self.card,
            fps=self.fps,
            episodes=self.buffer.episodes,
            task=self.buffer.group.path.stem.removesuffix(".zarr"),
            cameras={slot: self.buffer.arrays[key].width[:2] for slot, key in self.cameras.items()},  # type: ignore[misc]
            extra=self._extra(),
            expected_episodes=self.buffer.declared,
            findings=(*self.buffer.findings, Finding("convention", note, "note")),
            provenance={"format": "umi", "conventions": conventions},
        )

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: damaged there.
        """
        findings = self.buffer.faults(episode, list(self.buffer.arrays))
        if any(f.kind == "length" for f in findings):
            return Reading(None, findings)
        step = self.options.step
        streams: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        states, actions = [], []
        for index in self.arms:
            state, width = self._arm(episode, index, findings)
            states.append(state[::step])
            actions.append(state[_next(len(state), step)])
            streams[f"source/robot{index}_gripper_width"] = width[::step]
            for key in LIMITS:
                name = f"robot{index}_{key}"
                if name in self.buffer.arrays:
                    pose = self.buffer.read(name, episode)
                    streams[f"source/{name}"] = pose[::step].astype(np.float32)
                    if (pose == pose[0]).all() and np.isfinite(pose[0]).all():
                        metadata[name] = [float(x) for x in pose[0]]
        rows = len(states[0])
        for slot, key in self.cameras.items():
            streams[f"image/{slot}"] = self.buffer.read(key, episode, step)
        streams |= {
            "state": np.concatenate(states, axis=1).astype(np.float32),
            "action": np.concatenate(actions, axis=1).astype(np.float32),
            "time_ns": regular_time_ns(rows, self.fps),
        }
        start, stop = self.buffer.bounds(episode)
        metadata["source"] = {"id": episode, "rows": [start, stop], "step": step}
        return Reading(Episode(streams, self.options.language, self.options.success, metadata), findings)

    def _arm(self, episode: str, index: int, findings: list[Finding]) -> tuple[NDArray[Any], NDArray[Any]]:
        """State of one arm at every row of the file [T, 10] and its gripper width as recorded [T, 1]."""
        position, rotation, width = (self.buffer.read(f"robot{index}_{key}", episode) for key in POSE)
        over = float((width > self.options.gripper_width_m * (1 + 1e-6)).mean())
        if over:
            findings.append(
                Finding(
                    "clipped",
                    f"{over:.1%} of the rows of robot{index} are wider open ({width.max():.4f} m) than "
                    f"gripper_width_m={self.options.gripper_width_m:g}; give options.gripper_width_m",
                    "warning",
                    episode,
                    f"robot{index}_gripper_width",
                )
            )
        pose = pose_channels(position, axis_angle_to_matrix(rotation.astype(np.float64)))
        opening = gripper_opening(width, closed=0.0, opened=self.options.gripper_width_m)
        return np.concatenate([pose, opening], axis=1), width

    def _extra(self) -> dict[str, StreamSpec]:
        extra = {}
        for index in self.arms:
            width = StreamSpec("float32", (1,), ("width",), ("m",), "gripper", source="measured")
            extra[f"source/robot{index}_gripper_width"] = width
            for key in LIMITS:
                if f"robot{index}_{key}" in self.buffer.arrays:
                    pose = StreamSpec("float32", (6,), POSE_CHANNELS, POSE_UNITS, "eef_pose", "world")
                    extra[f"source/robot{index}_{key}"] = pose
        return extra


def _next(rows: int, step: int) -> NDArray[np.int64]:
    """Row of the file whose pose is the action of each kept row."""
    return np.minimum(np.arange(0, rows, step) + step, rows - 1)


def _arms(path: Path, arrays: dict[str, ArrayHeader] | Any) -> dict[int, str]:
    found = sorted({int(m[1]) for key in arrays if (m := re.fullmatch(r"robot(\d+)_eef_pos", key))})
    if found not in ([0], [0, 1]):
        raise DataError(
            explain(
                f"{path} has not UMI's robots",
                given=[f"robot{i}" for i in found],
                allowed="robot0, or robot0 and robot1",
            )
        )
    widths = {"eef_pos": (3,), "eef_rot_axis_angle": (3,), "gripper_width": (1,), **dict.fromkeys(LIMITS, (6,))}
    for index in found:
        for key, width in widths.items():
            name = f"robot{index}_{key}"
            if name not in arrays and key in POSE:
                raise DataError(explain(f"{path} has no data/{name}", given=sorted(arrays)))
            if name in arrays and arrays[name].width != width:
                raise DataError(
                    explain(f"{path}: data/{name} has another width", given=arrays[name].width, allowed=width)
                )
    return ARMS[len(found)]


def _cameras(path: Path, arrays: Any) -> dict[str, str]:
    """Slot -> key of every ``camera{i}_rgb``."""
    found = {f"camera{m[1]}": key for key in sorted(arrays) if (m := re.fullmatch(r"camera(\d+)_rgb", key))}
    for key in found.values():
        header = arrays[key]
        if header.dtype != np.uint8 or len(header.shape) != 4 or header.shape[-1] != 3:
            raise DataError(
                explain(f"{path}: data/{key} is not uint8 [N, H, W, 3]", given=(str(header.dtype), header.shape))
            )
    return found


def _detect(path: Path) -> str | None:
    found = find_buffer(path)
    if found is None:
        return None
    group = ZarrV2(*found)
    try:
        keys = group.arrays("data")
    except DataError:
        return None
    finally:
        group.close()
    return "data/robot0_eef_rot_axis_angle in a replay buffer" if "robot0_eef_rot_axis_angle" in keys else None


FORMAT = Format("umi", UmiOptions, _detect, UmiSource)
