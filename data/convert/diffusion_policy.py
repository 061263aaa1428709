"""Data sets of diffusion_policy: zarr v2 replay buffers whose keys vary by task.

Conventions, from https://github.com/real-stanford/diffusion_policy:

``pusht``   ``state`` [5] = agent x, y, block x, y (pixels of a 512 window), block angle (rad); ``action`` [2] = target
            of the agent in pixels; ``img`` float 0..255; 10 Hz (``env/pusht/pusht_env.py``).
``abs10``   robosuite with absolute actions (``dataset/robomimic_replay_image_dataset.py``): position, 6-D rotation as
            the first two **rows** (pytorch3d's), gripper -1 open to +1 closed; ``abs20`` the same twice. 20 Hz.
            Measured: ``robot{i}_eef_pos`` (grip site), ``robot{i}_eef_quat`` (xyzw, of the *hand*, from which the tool
            that the action moves is turned by -90 degrees about z), ``robot{i}_gripper_qpos`` (two mirrored fingers).
``raw``     anything else: channels named as in the source, on a card that cannot be driven.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.pose_cards import pose_card
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
from robopolicy.data.convert.unify import generic_card, gripper_opening, pose_channels, rotation_matrix
from robopolicy.data.convert.zarr_v2 import ArrayHeader, ZarrV2
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain
from robopolicy.rotations import axis_angle_to_matrix
from robopolicy.schema import setting

__all__ = ["FORMAT", "DiffusionPolicyOptions", "DiffusionPolicySource"]

KNOWN_HZ = {"pusht": 10.0, "abs10": 20.0, "abs20": 20.0}
MOST_NAMES = 256
STATE_KEYS = ("state", "obs")


@dataclass(frozen=True)
class DiffusionPolicyOptions(ReplayOptions):
    """Options of format ``diffusion_policy``."""

    convention: Literal["auto", "pusht", "abs10", "abs20", "raw"] = setting(
        "what state and action mean; auto recognises the published data sets by key and width", default="auto"
    )
    fps: float | None = setting(
        "rows per second; null where the convention or data/timestamp says it", default=None, gt=0
    )
    state: tuple[str, ...] = setting("raw: keys that make up the state; none for 'state', 'obs' or all", default=())
    float_images: Literal["auto", "0..255", "0..1"] = setting("scale of images stored as floats", default="auto")
    bgr: tuple[str, ...] = setting("keys of images that hold blue first", default=())
    gripper_width_m: float = setting("abs10, abs20: opening of the gripper that becomes 1", default=0.08, gt=0)
    hand_to_tool_deg: float = setting(
        "abs10, abs20: turn about z from the hand (eef_quat) to the tool that actions move", default=-90.0
    )


class DiffusionPolicySource:
    """An opened replay buffer with its convention."""

    def __init__(self, path: Path, options: DiffusionPolicyOptions):
        """Open it, decide the convention and the streams.

        Raises:
            DataError: no action array, keys that the convention lacks, or an unknown rate.
        """
        self.options = options
        self.buffer = ReplayBuffer.open(path, options)
        try:
            arrays = self.buffer.arrays
            if "action" not in arrays or len(arrays["action"].shape) != 2:
                raise DataError(explain(f"{path} has no data/action [N, A]", given=sorted(arrays)))
            recognised = _recognise(arrays)
            self.convention = recognised if options.convention == "auto" else options.convention
            if self.convention == "pusht" and options.float_images == "auto":
                scale = "0..255"
            else:
                scale = options.float_images
            self.images = image_arrays(self.buffer, {}, float_images=scale, bgr=options.bgr)
            self.fps = options.fps or KNOWN_HZ.get(self.convention) or self._measured_hz()
            self._lay_out()
        except BaseException:
            self.buffer.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.buffer.close()

    def _measured_hz(self) -> float:
        header = self.buffer.arrays.get("timestamp")
        for start, stop in zip([0, *self.buffer.ends[:-1]], self.buffer.ends, strict=True):
            if header is None or stop - start < 2:
                continue
            stamps = usable_stamps(self.buffer.group.read("data/timestamp", start, stop), 1000.0)
            if stamps is not None:
                return float(np.round(1e9 / np.median(np.diff(stamps)), 3))
        raise DataError(
            explain(
                f"{self.buffer.group.path} does not say how many rows make a second",
                mend="give options.fps=<rows per second> of the recording",
            )
        )

    def _lay_out(self) -> None:
        arrays = self.buffer.arrays
        self.state_keys: tuple[str, ...] = ()
        self.environment: tuple[str, ...] = ()
        used = {"action", *self.images}
        if self.convention == "pusht":
            _require(arrays, {"state": (5,), "action": (2,)}, self.convention)
            used |= {"state"}
            self.environment = ("block.x", "block.y", "block.angle")
            agent = [("agent.x", "px"), ("agent.y", "px")]
            self.card = generic_card("pusht", state=agent, action=agent, control_hz=self.fps)
        elif self.convention in ("abs10", "abs20"):
            robots = range(1 if self.convention == "abs10" else 2)
            wanted: dict[str, tuple[int, ...]] = {"action": (10 * len(robots),)}
            for i in robots:
                wanted |= {f"robot{i}_eef_pos": (3,), f"robot{i}_eef_quat": (4,), f"robot{i}_gripper_qpos": (2,)}
            _require(arrays, wanted, self.convention)
            self.card = pose_card(
                "robosuite" if len(robots) == 1 else "robosuite_bimanual",
                arms=("",) if len(robots) == 1 else ("robot0", "robot1"),
                control_hz=self.fps,
                gripper_width_m=self.options.gripper_width_m,
                description="arms of a robosuite task with absolute tool poses",
            )
        else:
            self.state_keys = self._raw_state()
            used |= set(self.state_keys)
            self.card = self._raw_card()
        self.rest = tuple(key for key in arrays if key not in used and key != "timestamp")
        self.extra = {f"source/{key}": _spec(key, arrays[key]) for key in self.rest}
        if self.convention not in ("raw", "pusht"):
            self.extra["source/action"] = _spec("action", arrays["action"])

    def _raw_state(self) -> tuple[str, ...]:
        arrays = self.buffer.arrays
        low = [
            k
            for k, h in arrays.items()
            if h.dtype.kind == "f" and len(h.shape) == 2 and k not in ("action", "timestamp")
        ]
        chosen = self.options.state or tuple(k for k in STATE_KEYS if k in low)[:1] or tuple(low)
        unknown = [k for k in chosen if k not in low]
        if unknown or not chosen:
            raise DataError(
                explain(
                    "no such low-dimensional array for the state",
                    given=unknown or None,
                    allowed=low,
                    mend="options.state=[key, ...]",
                )
            )
        return tuple(chosen)

    def _raw_card(self) -> Embodiment:
        def named(key: str) -> list[tuple[str, str]]:
            header = self.buffer.arrays[key]
            names = header.attributes.get("channels")
            units = header.attributes.get("units")
            plain = channel_list(key, header.width)
            names = names if isinstance(names, list) and len(names) == len(plain) else plain
            units = units if isinstance(units, list) and len(units) == len(plain) else ["unknown"] * len(plain)
            return [(str(n), str(u)) for n, u in zip(names, units, strict=True)]

        state = [entry for key in self.state_keys for entry in named(key)]
        return generic_card("diffusion_policy", state=state, action=named("action"), control_hz=self.fps)

    @property
    def info(self) -> SourceInfo:
        """What the data set holds."""
        return SourceInfo(
            embodiment=self.card,
            fps=self.fps,
            episodes=self.buffer.episodes,
            task=self.buffer.group.path.stem.removesuffix(".zarr"),
            cameras={image.slot: (image.height, image.width) for image in self.images.values()},
            environment_state=self.environment,
            extra=self.extra,
            expected_episodes=self.buffer.declared,
            findings=(*self.buffer.findings, *self._notes()),
            provenance={
                "format": "diffusion_policy",
                "convention": self.convention,
                "state_keys": list(self.state_keys),
                "hand_to_tool_deg": self.options.hand_to_tool_deg if self.convention.startswith("abs") else None,
                "keys": {key: [str(h.dtype), *h.shape] for key, h in self.buffer.arrays.items()},
            },
        )

    def _notes(self) -> list[Finding]:
        if self.convention == "raw":
            message = (
                f"the meaning of action {self.buffer.arrays['action'].width} is not known: state is {self.state_keys}, "
                "channels are named as in the source; options.convention states another"
            )
            return [Finding("convention", message)]
        if self.convention == "pusht":
            return [
                Finding("convention", "pixels of a 512 x 512 window; nothing that a robot could be driven by", "note")
            ]
        turn = self.options.hand_to_tool_deg
        return [
            Finding("convention", f"measured rotations were turned by {turn:g} degrees about z, hand to tool", "note")
        ]

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: damaged there.
        """
        findings = self.buffer.faults(episode, list(self.buffer.arrays))
        if any(f.kind == "length" for f in findings):
            return Reading(None, findings)

        def get(key: str) -> NDArray[Any]:
            return self.buffer.read(key, episode)

        streams: dict[str, NDArray[Any]] = {}
        if self.convention == "pusht":
            state = get("state")
            streams |= {"state": state[:, :2], "environment_state": state[:, 2:], "action": get("action")}
        elif self.convention == "raw":
            streams |= {"state": np.concatenate([get(k) for k in self.state_keys], axis=1), "action": get("action")}
        else:
            streams |= self._absolute(get)
        for key in self.rest:
            streams[f"source/{key}"] = _stored(get(key), self.extra[f"source/{key}"])
        for key, image in self.images.items():
            streams[f"image/{image.slot}"] = image.frames(get(key), episode, findings)
        for name in ("state", "action", "environment_state"):
            if name in streams:
                streams[name] = streams[name].astype(np.float32)
        streams["time_ns"] = self._time(get, episode, len(streams["action"]), findings)
        start, stop = self.buffer.bounds(episode)
        metadata = {"source": {"id": episode, "rows": [start, stop]}}
        return Reading(Episode(dict(streams), self.options.language, self.options.success, metadata), findings)

    def _absolute(self, get: Any) -> dict[str, NDArray[Any]]:
        """State and action of robosuite's arms in the store's terms."""
        turn = axis_angle_to_matrix(np.array([0.0, 0.0, np.deg2rad(self.options.hand_to_tool_deg)]))
        raw = get("action")
        states, actions = [], []
        for i in range(raw.shape[1] // 10):
            rotation = rotation_matrix(get(f"robot{i}_eef_quat"), "quaternion_xyzw") @ turn
            fingers = get(f"robot{i}_gripper_qpos").astype(np.float64)
            opening = gripper_opening(fingers[:, :1] - fingers[:, 1:], closed=0.0, opened=self.options.gripper_width_m)
            states += [pose_channels(get(f"robot{i}_eef_pos"), rotation), opening]
            part = raw[:, 10 * i : 10 * i + 10]
            target = pose_channels(part[:, :3], rotation_matrix(part[:, 3:9], "rotation_6d_rows"))
            actions += [target, gripper_opening(part[:, 9:], closed=1.0, opened=-1.0)]
        return {
            "state": np.concatenate(states, axis=1),
            "action": np.concatenate(actions, axis=1),
            "source/action": raw.astype(np.float32),
        }

    def _time(self, get: Any, episode: str, rows: int, findings: list[Finding]) -> NDArray[np.int64]:
        if "timestamp" not in self.buffer.arrays:
            return regular_time_ns(rows, self.fps)
        stamps = usable_stamps(get("timestamp"), self.fps)
        if stamps is not None:
            return stamps
        message = "data/timestamp does not increase from row to row, or too coarsely; nominal time was used"
        findings.append(Finding("rate_drift", message, "warning", episode, "timestamp"))
        return regular_time_ns(rows, self.fps)


def _recognise(arrays: Mapping[str, ArrayHeader]) -> str:
    widths = {key: header.width for key, header in arrays.items()}
    if widths["action"] == (2,) and widths.get("state") == (5,) and ("img" in widths or "keypoint" in widths):
        return "pusht"
    for name, robots in (("abs10", 1), ("abs20", 2)):
        keys = [f"robot{i}_{k}" for i in range(robots) for k in ("eef_pos", "eef_quat", "gripper_qpos")]
        if widths["action"] == (10 * robots,) and all(key in widths for key in keys):
            return name
    return "raw"


def _require(arrays: Mapping[str, ArrayHeader], wanted: Mapping[str, tuple[int, ...]], convention: str) -> None:
    wrong = {
        k: arrays[k].width if k in arrays else "missing"
        for k, w in wanted.items()
        if k not in arrays or arrays[k].width != w
    }
    if wrong:
        raise DataError(
            explain(
                f"convention '{convention}' does not fit this data set",
                given=wrong,
                allowed=dict(wanted),
                mend="options.convention=raw keeps the source's own channels",
            )
        )


def _spec(key: str, header: ArrayHeader) -> StreamSpec:
    """How an array that has no place among the store's own streams is kept."""
    if header.dtype.kind in "biu":
        size = int(np.prod(header.width, dtype=int))
        return StreamSpec("int64", () if header.width == () else (size,))
    names = channel_list(key, header.width)
    return StreamSpec("float32", (len(names),), names if len(names) <= MOST_NAMES else ())


def _stored(values: NDArray[Any], spec: StreamSpec) -> NDArray[Any]:
    return values.reshape(len(values), *spec.shape).astype(spec.dtype)


def _detect(path: Path) -> str | None:
    found = find_buffer(path)
    if found is None:
        return None
    group = ZarrV2(*found)
    try:
        keys = group.arrays("data")
    except DataError:
        keys = {}
    finally:
        group.close()
    others = {"robot0_eef_rot_axis_angle": "umi", "left_robot_tcp_pose": "rdp"}
    return None if others.keys() & keys.keys() else "meta/episode_ends in a zarr v2 group"


FORMAT = Format("diffusion_policy", DiffusionPolicyOptions, _detect, DiffusionPolicySource)
