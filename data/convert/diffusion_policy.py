"""Data sets of diffusion_policy: zarr v2 replay buffers whose keys vary by task.

What state and action mean is decided by :mod:`robopolicy.data.convert.replay_conventions`; what has no place there is
kept beside, as ``source/<key>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert import replay_conventions as conventions
from robopolicy.data.convert.replay_buffer import (
    ReplayBuffer,
    ReplayOptions,
    find_buffer,
    regular_time_ns,
    usable_stamps,
)
from robopolicy.data.convert.replay_images import image_arrays
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.zarr_v2 import ZarrV2
from robopolicy.data.episode import Episode
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["FORMAT", "DiffusionPolicyOptions", "DiffusionPolicySource"]


@dataclass(frozen=True)
class DiffusionPolicyOptions(ReplayOptions):
    """Options of format ``diffusion_policy``."""

    convention: Literal["auto", "pusht", "abs10", "abs20", "raw"] = setting(
        "what state and action mean; auto recognises the published data sets by key and width", default="auto"
    )
    fps: float | None = setting("rows per second; null where the convention or a time says it", default=None, gt=0)
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
            self.attributes = self.buffer.group.attributes()
            name: str = options.convention
            name = conventions.recognise_convention(arrays, self.attributes) if name == "auto" else name
            scale = "0..255" if name == "pusht" and options.float_images == "auto" else options.float_images
            self.images = image_arrays(self.buffer, self._slots(name), float_images=scale, bgr=options.bgr)
            self.fps = options.fps or self._own_hz(name) or conventions.KNOWN_HZ.get(name) or self._measured_hz()
            self.convention = self._convention(path, name)
            kept = [k for k in arrays if k not in {*self.convention.used, *self.images, "timestamp", "time_ns"}]
            self.rest = {key: conventions.kept_spec(key, arrays[key]) for key in kept}
        except BaseException:
            self.buffer.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.buffer.close()

    def _convention(self, path: Path, name: str) -> conventions.Convention:
        o, arrays = self.options, self.buffer.arrays
        if name == "pusht":
            return conventions.pusht(arrays, self.fps)
        if name in ("abs10", "abs20"):
            robots = 1 if name == "abs10" else 2
            return conventions.absolute(arrays, self.fps, robots, o.gripper_width_m, o.hand_to_tool_deg)
        if name == "own":
            return conventions.own(path, arrays, self.attributes)
        return conventions.raw(arrays, self.fps, o.state)

    def _slots(self, name: str) -> dict[str, str]:
        """Key -> camera, where the attributes name it."""
        if name != "own":
            return {}
        streams = {key: str(header.attributes.get("stream", key)) for key, header in self.buffer.arrays.items()}
        return {key: stream.removeprefix("image/") for key, stream in streams.items()}

    def _own_hz(self, name: str) -> float | None:
        fps = self.attributes[conventions.OWN].get("fps") if name == "own" else None
        return float(fps) if isinstance(fps, (int, float)) and fps > 0 else None

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

    @property
    def info(self) -> SourceInfo:
        """What the data set holds."""
        c = self.convention
        task = self.attributes[conventions.OWN].get("task") if c.name == "own" else None
        return SourceInfo(
            embodiment=c.card,
            fps=self.fps,
            episodes=self.buffer.episodes,
            task=str(task or self.buffer.group.path.stem.removesuffix(".zarr")),
            cameras={image.slot: (image.height, image.width) for image in self.images.values()},
            joints=c.joints,
            environment_state=c.environment,
            extra={**c.extra, **{f"source/{key}": spec for key, spec in self.rest.items()}},
            expected_episodes=self.buffer.declared,
            findings=(*self.buffer.findings, *([c.finding] if c.finding else [])),
            provenance={
                "format": "diffusion_policy",
                "convention": c.name,
                "note": c.finding.message if c.finding else "",
                "keys": {key: [str(h.dtype), *h.shape] for key, h in self.buffer.arrays.items()},
            },
        )

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

        streams = {
            n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in self.convention.streams(get).items()
        }
        for key, spec in self.rest.items():
            values = get(key)
            streams[f"source/{key}"] = values.reshape(len(values), *spec.shape).astype(spec.dtype)
        for key, image in self.images.items():
            streams[f"image/{image.slot}"] = image.frames(get(key), episode, findings)
        if "time_ns" not in streams:
            streams["time_ns"] = self._time(episode, len(streams["action"]), findings)
        start, stop = self.buffer.bounds(episode)
        language, success, metadata = self._labels(episode)
        metadata = {**metadata, "source": {"id": episode, "rows": [start, stop]}}
        return Reading(Episode(dict(streams), language, success, metadata), findings)

    def _labels(self, episode: str) -> tuple[str, bool | None, dict[str, Any]]:
        """Instruction, success and metadata: the export's own, unless an option says otherwise."""
        language, success = self.options.language, self.options.success
        entries = self.attributes[conventions.OWN].get("episodes") if self.convention.name == "own" else None
        if not isinstance(entries, list) or len(entries) != self.buffer.declared:
            return language, success, {}
        entry = entries[int(episode)]
        if not isinstance(entry, Mapping) or not isinstance(entry.get("metadata"), dict):
            raise DataError(explain(f"{self.buffer.group.path}: the labels of episode {episode} are damaged"))
        metadata = dict(entry["metadata"])
        if "source" in metadata:
            metadata["exported_from"] = metadata.pop("source")
        stated = entry.get("success") if success is None else success
        return language or str(entry.get("language", "")), None if stated is None else bool(stated), metadata

    def _time(self, episode: str, rows: int, findings: list[Finding]) -> NDArray[np.int64]:
        if "timestamp" not in self.buffer.arrays:
            return regular_time_ns(rows, self.fps)
        stamps = usable_stamps(self.buffer.read("timestamp", episode), self.fps)
        if stamps is not None:
            return stamps
        message = "data/timestamp does not increase from row to row, or too coarsely; nominal time was used"
        findings.append(Finding("rate_drift", message, "warning", episode, "timestamp"))
        return regular_time_ns(rows, self.fps)


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
