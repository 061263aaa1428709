"""Reactive Diffusion Policy data sets: tool poses, wrenches, grippers, cameras and tactile markers at 24 Hz.

Facts from https://github.com/xiaoxiaoxh/reactive_diffusion_policy (post_process_data.py, common/space_utils.py):
``*_robot_tcp_pose`` = position and the first two **columns** of the rotation; the action is the state of the next row,
the last one repeated, in layouts told apart by their width; arrays of an arm that was not used are zero; images of the
RealSense cameras are stored blue first (captured as bgr8, decoded without a conversion), those of the tactile sensors
red first; ``timestamp`` is seconds since 1970 in float32, whose steps are 128 s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.data.convert.pose_cards import REACH_M, gripper_channel, pose_card
from robopolicy.data.convert.replay_buffer import (
    ReplayBuffer,
    ReplayOptions,
    channel_list,
    find_buffer,
    regular_time_ns,
    usable_stamps,
)
from robopolicy.data.convert.replay_images import image_arrays
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import gripper_opening, pose_channels, rotation_matrix
from robopolicy.data.convert.zarr_v2 import ArrayHeader, ZarrV2
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["FORMAT", "RdpOptions", "RdpSource"]

SIDES = ("left", "right")
WIDTHS = {"robot_tcp_pose": (9,), "robot_gripper_width": (1,)}
EMBEDDING = 15
REALSENSE = re.compile(r"(external|left_wrist|right_wrist)_img")
TWIST = tuple(f"{kind}.{axis}" for kind in ("linear", "angular") for axis in "xyz")
WRENCH = tuple(f"{kind}.{axis}" for kind in ("force", "torque") for axis in "xyz")


@dataclass(frozen=True)
class RdpOptions(ReplayOptions):
    """Options of format ``rdp``."""

    fps: float = setting("rows per second; the published sets are recorded at 24", default=24.0, gt=0)
    action: Literal["recorded", "next_pose"] = setting(
        "recorded: the channels of data/action; next_pose: the whole pose and gripper of the next row",
        default="recorded",
    )
    gripper_width_m: float = setting("opening of the gripper that becomes 1", default=0.1, gt=0)
    realsense_colour: Literal["bgr", "rgb"] = setting("order in external and wrist images", default="bgr")


@dataclass(frozen=True)
class _Layout:
    """What the numbers of an action are: arms with position, whether rotations follow, then grippers, then the rest."""

    arms: tuple[str, ...]
    rotation: bool
    embedding: int = 0


LAYOUTS = {
    4: _Layout(("left",), False),
    8: _Layout(SIDES, False),
    10: _Layout(("left",), True),
    20: _Layout(SIDES, True),
    4 + EMBEDDING: _Layout(("left",), False, EMBEDDING),
}


class RdpSource:
    """An opened RDP data set."""

    def __init__(self, path: Path, options: RdpOptions):
        """Open it and decide arms and action layout.

        Raises:
            DataError: keys or widths that RDP does not have.
        """
        self.options = options
        self.buffer = ReplayBuffer.open(path, options)
        try:
            arrays = self.buffer.arrays
            width: tuple[int, ...] = arrays["action"].width if "action" in arrays else ()
            if len(width) != 1 or width[0] not in LAYOUTS:
                raise DataError(
                    explain(f"{path}: data/action has a width that RDP has not", given=width, allowed=list(LAYOUTS))
                )
            self.layout = LAYOUTS[width[0]]
            self.arms = self.layout.arms
            for side in self.arms:
                for key, shape in WIDTHS.items():
                    name = f"{side}_{key}"
                    if name not in arrays or arrays[name].width != shape:
                        given = arrays[name].width if name in arrays else "missing"
                        raise DataError(
                            explain(f"{path}: data/{name} is not as RDP writes it", given=given, allowed=shape)
                        )
            bgr = tuple(k for k in arrays if REALSENSE.fullmatch(k)) if options.realsense_colour == "bgr" else ()
            self.images = image_arrays(
                self.buffer, {k: k.removesuffix("_img") for k in arrays}, float_images="auto", bgr=bgr
            )
            self._lay_out()
        except BaseException:
            self.buffer.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.buffer.close()

    def _lay_out(self) -> None:
        arms = ("",) if len(self.arms) == 1 else self.arms
        whole = self.layout.rotation and not self.layout.embedding
        custom = None if whole or self.options.action == "next_pose" else self._custom_action()
        self.card = pose_card(
            "rdp" if len(arms) == 1 else "rdp_bimanual",
            arms=arms,
            control_hz=self.options.fps,
            gripper_width_m=self.options.gripper_width_m,
            description="Flexiv or Franka arm of Reactive Diffusion Policy, by its tool pose",
            custom_action=custom,
        )
        states = {f"{side}_{key}" for side in self.arms for key in WIDTHS}
        self.rest = [
            key
            for key in self.buffer.arrays
            if key not in states | {"action", "timestamp", *self.images} and not self._of_unused_arm(key)
        ]
        self.extra = {key: _spec(key, self.buffer.arrays[key]) for key in self.rest}
        self.extra["source/action"] = _spec("action", self.buffer.arrays["action"])
        for side in self.arms:
            key = f"{side}_robot_gripper_width"
            self.extra[key] = _spec(key, self.buffer.arrays[key])

    def _of_unused_arm(self, key: str) -> bool:
        """Low-dimensional arrays of the right arm in a recording of the left one: nothing but zeros."""
        return len(self.arms) == 1 and key.startswith("right_robot_")

    def _custom_action(self) -> ChannelGroup:
        channels = []
        for side in self.arms:
            prefix = f"{side}." if len(self.arms) > 1 else ""
            channels += [Channel(f"{prefix}ee_position.{a}", "m", -REACH_M, REACH_M) for a in "xyz"]
            channels.append(gripper_channel(f"{prefix}gripper"))
        channels += [Channel(f"marker_embedding.{i}", "pca", -1e9, 1e9) for i in range(self.layout.embedding)]
        return ChannelGroup(tuple(channels))

    @property
    def info(self) -> SourceInfo:
        """What the data set holds."""
        o = self.options
        missing = [f"{side}_robot_{k}" for side in self.arms for k in ("tcp_vel", "tcp_wrench", "gripper_force")]
        notes = [
            Finding("colour_order", f"external and wrist images were taken to be {o.realsense_colour}", "note"),
            *(
                Finding("missing_stream", f"no data/{key}", "note", stream=key)
                for key in missing
                if key not in self.buffer.arrays
            ),
        ]
        if self.card.action_space == "custom":
            text = (
                f"actions have {self.buffer.arrays['action'].width[0]} numbers, no rotation: the card cannot be driven"
            )
            notes.append(Finding("convention", f"{text}; options.action=next_pose gives whole poses"))
        return SourceInfo(
            embodiment=self.card,
            fps=o.fps,
            episodes=self.buffer.episodes,
            task=self.buffer.group.path.parent.name
            if self.buffer.group.path.stem == "replay_buffer"
            else self.buffer.group.path.stem,
            cameras={image.slot: (image.height, image.width) for image in self.images.values()},
            extra=self.extra,
            expected_episodes=self.buffer.declared,
            findings=(*self.buffer.findings, *notes),
            provenance={
                "format": "rdp",
                "conventions": {
                    "action": o.action,
                    "action_width": self.buffer.arrays["action"].width[0],
                    "rotation": "first two columns",
                    "gripper": f"width / {o.gripper_width_m:g} m",
                    "realsense_colour": o.realsense_colour,
                },
            },
        )

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: damaged there.
        """
        keys = [*self.rest, *self.images, "action"]
        findings = self.buffer.faults(episode, keys)
        if any(f.kind == "length" for f in findings):
            return Reading(None, findings)
        streams: dict[str, NDArray[Any]] = {}
        states = []
        for side in self.arms:
            pose = self.buffer.read(f"{side}_robot_tcp_pose", episode)
            width = self.buffer.read(f"{side}_robot_gripper_width", episode)
            streams[f"{side}_robot_gripper_width"] = width.astype(np.float32)
            states += [_pose(pose), self._opening(width, episode, side, findings)]
        state = np.concatenate(states, axis=1)
        raw = self.buffer.read("action", episode)
        if self.options.action == "next_pose":
            action = np.concatenate([state[1:], state[-1:]])
        else:
            action = self._action(raw, episode, findings)
        for key in self.rest:
            spec = self.extra[key]
            streams[key] = self.buffer.read(key, episode).reshape(len(raw), *spec.shape).astype(spec.dtype)
        for key, image in self.images.items():
            streams[f"image/{image.slot}"] = image.frames(self.buffer.read(key, episode), episode, findings)
        streams |= {
            "state": state.astype(np.float32),
            "action": action.astype(np.float32),
            "source/action": raw.astype(np.float32),
            "time_ns": self._time(episode, len(raw), findings),
        }
        start, stop = self.buffer.bounds(episode)
        metadata = {"source": {"id": episode, "rows": [start, stop]}}
        return Reading(Episode(dict(streams), self.options.language, self.options.success, metadata), findings)

    def _action(self, raw: NDArray[Any], episode: str, findings: list[Finding]) -> NDArray[Any]:
        """The recorded action with each arm's gripper behind its pose: in the source all grippers stand at the end."""
        pose = 9 if self.layout.rotation else 3
        first_gripper = pose * len(self.arms)
        parts = []
        for i, side in enumerate(self.arms):
            target = raw[:, pose * i : pose * (i + 1)]
            parts.append(_pose(target) if self.layout.rotation else target)
            grip = raw[:, first_gripper + i : first_gripper + i + 1]
            parts.append(self._opening(grip, episode, f"{side} action", findings))
        parts.append(raw[:, first_gripper + len(self.arms) :])
        return np.concatenate(parts, axis=1)

    def _opening(self, width: NDArray[Any], episode: str, what: str, findings: list[Finding]) -> NDArray[Any]:
        limit = self.options.gripper_width_m
        over = float((width > limit * (1 + 1e-6)).mean())
        if over:
            message = (
                f"{over:.1%} of the {what} gripper widths exceed gripper_width_m={limit:g} (up to {width.max():.4f})"
            )
            findings.append(Finding("clipped", f"{message}; give options.gripper_width_m", "warning", episode, what))
        return gripper_opening(width, closed=0.0, opened=limit)

    def _time(self, episode: str, rows: int, findings: list[Finding]) -> NDArray[np.int64]:
        if "timestamp" in self.buffer.arrays:
            stamps = usable_stamps(self.buffer.read("timestamp", episode), self.options.fps)
            if stamps is not None:
                return stamps
            text = "data/timestamp cannot tell rows apart (float32 since 1970 steps by 128 s); nominal time was used"
            findings.append(Finding("rate_drift", text, "warning", episode, "timestamp"))
        return regular_time_ns(rows, self.options.fps)


def _pose(values: NDArray[Any]) -> NDArray[np.float64]:
    return pose_channels(values[:, :3], rotation_matrix(values[:, 3:9], "rotation_6d"))


def _spec(key: str, header: ArrayHeader) -> StreamSpec:
    """Names, units and kind of the streams that the card does not know."""
    names = channel_list(key, header.width)
    known: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str, str]] = {
        "robot_tcp_vel": (TWIST, ("m/s",) * 3 + ("rad/s",) * 3, "eef_velocity", "base"),
        "robot_tcp_wrench": (WRENCH, ("N",) * 3 + ("N.m",) * 3, "wrench", "base"),
        "robot_gripper_width": (("width",), ("m",), "gripper", ""),
        "robot_gripper_force": (("force",), ("N",), "gripper_force", ""),
    }
    for suffix, (channels, units, kind, frame) in known.items():
        if key.endswith(suffix) and len(names) == len(channels):
            return StreamSpec("float32", (len(channels),), channels, units, kind, frame, "measured")
    if "marker" in key:
        unit = "pca" if key.endswith("_emb") else "unknown"
        return StreamSpec("float32", (len(names),), names, (unit,) * len(names), "tactile", source="measured")
    if header.dtype.kind in "biu":
        return StreamSpec("int64", (len(names),))
    return StreamSpec("float32", (len(names),), names)


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
    return "data/left_robot_tcp_pose in a replay buffer" if "left_robot_tcp_pose" in keys else None


FORMAT = Format("rdp", RdpOptions, _detect, RdpSource)
