"""The cameras of one RoboMIND trajectory: found or absent, sound or not, repaired where that was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.hdf5_episode import Hdf5File
from robopolicy.data.convert.robomind_frames import CameraRows, black_frames, camera_rows, decode_depth
from robopolicy.data.convert.robomind_plan import Plan
from robopolicy.data.convert.source import Finding

__all__ = ["EpisodeImages"]

_MILLIMETRES = 100.0
"""RoboMIND's rule: a depth image with a value above this is in millimetres, any other in metres."""


@dataclass
class EpisodeImages:
    """Rows of every camera as stored.

    Attributes:
        plan: How episodes are read.
        colour: Slot -> rows.
        depth: Slot -> uint16 [n, H, W, 1] mm.
        absent: Slots that are not in the file.
    """

    plan: Plan
    colour: dict[str, CameraRows] = field(default_factory=dict)
    depth: dict[str, NDArray[np.uint16]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)

    @property
    def lengths(self) -> dict[str, int]:
        """Rows per stream."""
        rows = {slot: len(found.blobs) for slot, found in self.colour.items()}
        return rows | {f"depth/{slot}": len(found) for slot, found in self.depth.items()}

    @classmethod
    def read(cls, file: Hdf5File, plan: Plan, episode: str, findings: list[Finding]) -> EpisodeImages:
        """Read all cameras of the plan and tell what is wrong with them.

        Raises:
            DataError: damaged, or no frame of a camera is sound.
        """
        images = cls(plan)
        for slot, size in plan.cameras.items():
            key = f"observations/rgb_images/camera_{slot}"
            if key not in file or not len(file.node(key)):
                images._is_absent(slot, "image", episode, findings)
                continue
            rows = camera_rows(file, key, size, plan.bgr)
            _judge(rows, slot, plan, episode, findings)
            images.colour[slot] = rows
        for slot, size in plan.depths.items():
            key = f"observations/depth_images/camera_{slot}"
            if key not in file or not len(file.node(key)):
                images._is_absent(slot, "depth", episode, findings)
            else:
                images._read_depth(file, key, slot, size, episode, findings)
        return images

    def streams(self, rows: NDArray[np.intp]) -> dict[str, Any]:
        """Frames of the given rows, by name of their stream; absent cameras are black, absent depth is 0."""
        out: dict[str, Any] = {}
        for slot, size in self.plan.cameras.items():
            found = self.colour.get(slot)
            out[f"image/{slot}"] = black_frames(size, len(rows)) if found is None else found.take(rows).frames()
        for slot, size in self.plan.depths.items():
            depth = self.depth.get(slot)
            out[f"depth/{slot}"] = np.zeros((len(rows), *size, 1), np.uint16) if depth is None else depth[rows]
        return out

    def _is_absent(self, slot: str, kind: str, episode: str, findings: list[Finding]) -> None:
        self.absent.add(slot)
        others = [name for name in self.plan.cameras if name != slot]
        findings.append(
            Finding(
                "missing_camera",
                f"camera '{slot}' is not in the file; the repair stores zeros and names it in the metadata, "
                f"options.cameras={others} does without it",
                "error", episode, f"{kind}/{slot}",
                repair="missing_camera", repaired="missing_camera" in self.plan.repair,
            )
        )  # fmt: skip

    def _read_depth(
        self, file: Hdf5File, key: str, slot: str, size: tuple[int, int], episode: str, findings: list[Finding]
    ) -> None:
        stored = file.read(key)
        values: list[NDArray[Any]] = []
        raw: list[int] = []
        broken: list[int] = []
        for row, item in enumerate(stored):
            blob = item if isinstance(item, bytes) else np.asarray(item, np.uint8).tobytes()
            image = decode_depth(blob)
            if image is None and len(blob) in (size[0] * size[1], 2 * size[0] * size[1]):
                dtype = np.dtype(np.uint8) if len(blob) == size[0] * size[1] else np.dtype("<u2")
                image = np.frombuffer(blob, dtype).reshape(size)
                raw.append(row)
            if image is None or image.shape != size:
                broken.append(row)
                image = values[-1] if values else np.zeros(size, np.float32)
            values.append(np.asarray(image))
        stream = f"depth/{slot}"
        _tell_rows(findings, "raw_frame", raw, "not encoded", stream, self.plan, episode)
        _tell_rows(findings, "broken_frame", broken, "cannot be decoded", stream, self.plan, episode)
        largest = max(float(image.max()) for image in values)
        scale = 1.0
        if largest <= _MILLIMETRES:
            scale = 1000.0
            findings.append(
                Finding(
                    "units",
                    f"depth of '{slot}' is at most {largest:.4g}: metres by RoboMIND's rule; the repair converts to mm",
                    "error", episode, stream, repair="depth_unit", repaired="depth_unit" in self.plan.repair,
                )
            )  # fmt: skip
        out = np.empty((len(values), *size, 1), np.uint16)
        for image, place in zip(values, out, strict=True):
            place[..., 0] = np.clip(np.round(np.nan_to_num(image.astype(np.float64)) * scale), 0, 65_535)
        self.depth[slot] = out


def _judge(rows: CameraRows, slot: str, plan: Plan, episode: str, findings: list[Finding]) -> None:
    stream = f"image/{slot}"
    _tell_rows(findings, "raw_frame", rows.rows("raw"), "not encoded", stream, plan, episode)
    _tell_rows(findings, "broken_frame", rows.rows("broken"), "cannot be decoded", stream, plan, episode)
    other = rows.rows("other_size")
    if other:
        message = f"{len(other)} frames are not {rows.size[0]} x {rows.size[1]}, the first is row {other[0]}"
        findings.append(Finding("frame_size", message, "error", episode, stream))
    if "broken_frame" in plan.repair and rows.rows("broken"):
        rows.hold_broken()


def _tell_rows(
    findings: list[Finding], repair: str, rows: list[int], words: str, stream: str, plan: Plan, episode: str
) -> None:
    if not rows:
        return
    kind = {"raw_frame": "raw_frame", "broken_frame": "undecodable_frame"}[repair]
    how = {"raw_frame": "read by its length", "broken_frame": "the frame before it held"}[repair]
    findings.append(
        Finding(
            kind,
            f"{len(rows)} frames {words}, rows {rows[:8]}{' ...' if len(rows) > 8 else ''}; the repair: {how}",
            "error", episode, stream, repair=repair, repaired=repair in plan.repair,
        )
    )  # fmt: skip
