"""Frames of a LeRobot episode: which frame of a video belongs to which row, and images that stand in the table."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.lerobot_features import Feature
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.video import VideoFile, frame_sequence, nearest_frames, probe_video
from robopolicy.data.episode import EncodedFrames
from robopolicy.errors import DataError, explain

__all__ = ["RATE_TOLERANCE", "VideoMatcher", "contradictions", "head", "images"]

RATE_TOLERANCE = 0.01
"""Relative deviation of a video's rate from that of the rows, beyond which times mean nothing."""
_MOST_FILES = 16


class VideoMatcher:
    """Finds the frames of episodes by time."""

    def __init__(self, fps: float, repair: frozenset[str]):
        """Nothing is opened yet.

        Args:
            fps: Of the rows.
            repair: Names of the repairs that may be made: ``trim_to_video``, ``nearest_frame``, ``frame_by_index``.
        """
        self.fps, self.repair = fps, repair
        self._files: dict[Path, VideoFile] = {}

    def close(self) -> None:
        """Forget the files."""
        self._files.clear()

    def probe(self, path: Path) -> VideoFile:
        """Header and times of a file; the last few are kept."""
        if path not in self._files:
            if len(self._files) >= _MOST_FILES:
                self._files.pop(next(iter(self._files)))
            self._files[path] = probe_video(path)
        return self._files[path]

    def add(
        self,
        files: Mapping[str, tuple[Path, float]],
        episode: str,
        clock_s: NDArray[np.float64],
        streams: dict[str, Any],
        findings: list[Finding],
    ) -> int:
        """Put the frames of every camera into ``streams``.

        Args:
            files: Slot -> (file, seconds at which the episode begins in it).
            episode: For findings.
            clock_s: f64 [T] time of every row, from the beginning of the episode.
            streams: Of the episode, gets ``image/<slot>``.
            findings: Gets what does not fit together.

        Returns:
            Rows from the beginning that all cameras cover, after the repairs that were chosen.
        """
        kept = len(clock_s)
        chosen: dict[str, tuple[VideoFile, NDArray[np.int64]]] = {}
        for slot, (path, begin_s) in files.items():
            video = self.probe(path)
            numbers, found = self._match(video, clock_s + begin_s, episode, slot, findings)
            kept = min(kept, self._covered(found, episode, slot, findings))
            chosen[slot] = (video, numbers)
        for slot, (video, numbers) in chosen.items():
            streams[f"image/{slot}"] = frame_sequence(video, numbers[:kept])
        return kept

    def _match(
        self, video: VideoFile, times_s: NDArray[np.float64], episode: str, slot: str, findings: list[Finding]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The frame of each row by time, or by number where the file runs at another rate and that was chosen."""
        numbers, found = nearest_frames(video, times_s, 0.5 / self.fps)
        period_s = float(np.median(np.diff(video.times_s))) if len(video) > 1 else 1.0 / self.fps
        if abs(period_s * self.fps - 1.0) <= RATE_TOLERANCE:
            return numbers, found
        chosen = "frame_by_index" in self.repair
        text = f"{episode}: {video.path.name} runs at {1 / period_s:.4g} Hz, the rows at {self.fps:g} Hz"
        findings.append(Finding("video_rate", text, "error", episode, f"image/{slot}", "frame_by_index", chosen))
        if chosen:
            numbers = numbers[0] + np.arange(len(times_s))
            found = numbers < len(video)
            numbers = np.minimum(numbers, max(len(video) - 1, 0))
        return numbers, found

    def _covered(self, found: NDArray[np.bool_], episode: str, slot: str, findings: list[Finding]) -> int:
        """Rows from the beginning up to the last one that has a frame."""
        if found.all():
            return len(found)
        last = int(np.flatnonzero(found)[-1]) + 1 if found.any() else 0
        inside = int((~found[:last]).sum())
        repair = "nearest_frame" if inside else "trim_to_video"
        done = repair in self.repair and last > 0
        text = (
            f"{episode}: {int((~found).sum())} of {len(found)} rows have no frame, {inside} of them before the last one"
        )
        findings.append(Finding("missing_frame", text, "error", episode, f"image/{slot}", repair, done))
        return last


def contradictions(key: str, feature: Feature, video: VideoFile, fps: float) -> list[Finding]:
    """Where ``info.json`` says otherwise than the container."""
    stated = feature.video
    found: list[tuple[str, Any, Any]] = []
    if stated.get("codec") and stated["codec"] != video.codec:
        found.append(("codec", stated["codec"], video.codec))
    if feature.size != (video.height, video.width):
        found.append(("size", feature.size, (video.height, video.width)))
    for name, rate in (("fps of the video", stated.get("fps")), ("fps", fps)):
        if rate and abs(video.fps / float(rate) - 1.0) > 0.001:
            found.append((name, rate, round(video.fps, 4)))
    return [
        Finding("metadata", f"{what}: info.json says {said}, {video.path.name} has {true}", stream=key)
        for what, said, true in found
    ]


def images(blobs: list[bytes], size: tuple[int, int]) -> EncodedFrames | FrameSequence:
    """Image files of a table: JPEG as they are, others decoded when they are asked for.

    Args:
        blobs: One file per row.
        size: (height, width) that they should have.
    """
    frame = (*size, 3)
    if blobs and all(blob[:2] == b"\xff\xd8" for blob in blobs):
        return EncodedFrames(frame, tuple(blobs))

    def decode() -> Iterator[NDArray[np.uint8]]:
        from PIL import Image, UnidentifiedImageError

        for i, blob in enumerate(blobs):
            try:
                with Image.open(io.BytesIO(blob)) as image:
                    yield np.asarray(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(explain(f"frame {i} is not a readable image: {error}")) from error

    return FrameSequence(len(blobs), frame, decode)


def head(values: Any, rows: int) -> Any:
    """The first rows of any kind of stream."""
    if isinstance(values, EncodedFrames):
        return EncodedFrames(values.frame, values.blobs[:rows])
    if isinstance(values, FrameSequence):
        return values if len(values) == rows else values.head(rows)
    return values[:rows]
