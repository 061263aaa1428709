"""Exact frames of a video file by their presentation times, decoded in sequence.

A file is first read without decoding (its packets carry the presentation times), so that missing frames are known
before any work is done. Then one pass from the key frame before the first wanted frame gives exactly those wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.frames import FrameSequence
from robopolicy.errors import DataError, MissingDependencyError, explain

__all__ = ["VideoFile", "frame_sequence", "nearest_frames", "probe_video", "read_frames", "require_av"]


def require_av() -> ModuleType:
    """PyAV.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        mend = 'pip install "robopolicy[formats]"'
        raise MissingDependencyError(
            explain("video files need the package 'av'", given=str(error), mend=mend)
        ) from error
    return av


@dataclass(frozen=True, eq=False)
class VideoFile:
    """What the container says of its first video stream.

    Attributes:
        path: The file.
        codec: Such as ``av1``, ``h264``, ``mpeg4``.
        fps: Average rate.
        height, width: Pixels.
        pixel_format: Such as ``yuv420p``.
        pts: int64 [n] presentation times in units of ``time_base_s``, ascending.
        time_base_s: Seconds per unit.
    """

    path: Path
    codec: str
    fps: float
    height: int
    width: int
    pixel_format: str
    pts: NDArray[np.int64]
    time_base_s: float

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """f64 [n] presentation times."""
        return np.asarray(self.pts * self.time_base_s, np.float64)


def probe_video(path: Path) -> VideoFile:
    """Read the container and the times of all packets; nothing is decoded.

    Raises:
        DataError: missing, no video, or damaged.
    """
    av = require_av()
    if not path.is_file():
        raise DataError(explain(f"{path} is missing"))
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(explain(f"{path} has no video stream"))
            stream = container.streams.video[0]
            context = stream.codec_context
            pts = [p.pts for p in container.demux(stream) if p.pts is not None and p.size and not p.is_discard]
            return VideoFile(
                path,
                str(context.codec.canonical_name),
                float(stream.average_rate or 0),
                int(context.height),
                int(context.width),
                str(context.pix_fmt or ""),
                np.unique(np.array(pts, np.int64)),
                float(stream.time_base),
            )
    except av.FFmpegError as error:
        raise DataError(explain(f"{path} cannot be read as video: {error}", mend="copy the file again")) from error


def nearest_frames(
    video: VideoFile, times_s: NDArray[np.float64], tolerance_s: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The frame nearest to each time.

    Args:
        video: The file.
        times_s: f64 [T] in the time of the file, ascending.
        tolerance_s: How far a frame may be from its time.

    Returns:
        int64 [T] numbers of frames, and bool [T]: whether there is one within the tolerance.
    """
    if not len(video):
        return np.zeros(len(times_s), np.int64), np.zeros(len(times_s), bool)
    own = video.times_s
    right = np.clip(np.searchsorted(own, times_s), 1, max(len(own) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(own) - 1)
    chosen = np.where(np.abs(own[left] - times_s) <= np.abs(own[right] - times_s), left, right)
    return chosen.astype(np.int64), np.abs(own[chosen] - times_s) <= tolerance_s


def frame_sequence(video: VideoFile, numbers: NDArray[np.int64]) -> FrameSequence:
    """The frames of these numbers (ascending, may repeat), decoded when they are asked for."""
    return FrameSequence(len(numbers), (video.height, video.width, 3), lambda: read_frames(video, numbers))


def read_frames(video: VideoFile, numbers: Sequence[int] | NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Decode frames of ascending numbers in one pass -> uint8 [H, W, 3] RGB each.

    Raises:
        DataError: a frame cannot be decoded; the message names it.
    """
    wanted = video.pts[np.asarray(numbers, np.int64)].tolist()
    if not wanted:
        return
    if any(b < a for a, b in itertools.pairwise(wanted)):
        raise DataError(explain("frames have to be wanted in ascending order", given=list(numbers)[:8]))
    done = 0
    for seek in (True, False):
        try:
            for frame in _decoded(video, wanted[0], seek):
                if frame.pts is None or frame.pts < wanted[done]:
                    continue
                if frame.pts > wanted[done]:
                    break
                image = frame.to_ndarray(format="rgb24")
                while done < len(wanted) and wanted[done] == frame.pts:
                    done += 1
                    yield image
                if done == len(wanted):
                    return
        except require_av().FFmpegError as error:
            raise _undecodable(video, wanted[done], str(error)) from error
        if done:
            break
        # Some containers seek past the wanted key frame; from the beginning it is found if it is there.
    raise _undecodable(video, wanted[done], "the decoder does not give it")


def _decoded(video: VideoFile, first: int, seek: bool) -> Iterator:
    av = require_av()
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        # One thread: the engine uses processes, and the same frames come out.
        stream.codec_context.thread_count = 1
        if seek and first > int(video.pts[0]):
            container.seek(first, stream=stream, backward=True)
        yield from container.decode(stream)


def _undecodable(video: VideoFile, pts: int, why: str) -> DataError:
    at = int(np.searchsorted(video.pts, pts))
    return DataError(
        explain(
            f"{video.path}: frame {at} of {len(video)} (at {pts * video.time_base_s:.4f} s) cannot be decoded: {why}",
            mend="copy the file again, or leave the episode out: skip_bad=true",
        )
    )
