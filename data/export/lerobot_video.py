"""Videos of a LeRobot v3.0 data set: the frames of one camera, episode after episode, encoded as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.video import require_av
from robopolicy.data.export.lerobot_tables import next_place
from robopolicy.errors import DataError, explain

__all__ = ["ENCODERS", "VideoFiles"]

ENCODERS = {"av1": "libsvtav1", "h264": "libx264", "hevc": "libx265"}
"""Codec -> encoder of FFmpeg."""
_AV1_LEAST = 64


class VideoFiles:
    """One camera. Frame n of a file is shown at ``n / fps``."""

    def __init__(
        self,
        root: Path,
        template: str,
        fps: float,
        codec: str,
        crf: int,
        key_frame_every: int,
        pixel_format: str,
        file_mb: float,
        chunk_files: int,
    ):
        """Nothing is written yet.

        Args:
            root: Of the data set.
            template: Path below it with ``chunk_index`` and ``file_index``.
            fps: Frames per second.
            codec: Of :data:`ENCODERS`.
            crf: Quality, lower is better.
            key_frame_every: Frames between two key frames.
            pixel_format: Of the encoded frames.
            file_mb: A new file is begun at the first episode beyond this size.
            chunk_files: Files per chunk folder.
        """
        self.root, self.template, self.rate = root, template, Fraction(fps).limit_denominator(10_000)
        self.codec, self.options = codec, {"crf": str(crf), "g": str(key_frame_every)}
        if codec == "av1":
            # one thread; a preset that trades little size for much speed
            self.options |= {"preset": "8", "svtav1-params": "lp=1"}
        self.pixel_format, self.limit, self.chunk_files = pixel_format, file_mb * 2**20, chunk_files
        self._place, self._frames = (0, 0), 0
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] = (0, 0)
        self._bytes = 0

    def add(self, frames: Iterable[NDArray[np.uint8]]) -> dict[str, Any]:
        """Append one episode of frames uint8 [H, W, 3].

        Returns:
            ``chunk_index``, ``file_index``, ``from_timestamp`` and ``to_timestamp``.

        Raises:
            DataError: a size that the codec cannot hold.
        """
        av = require_av()
        if self._container is not None and self._bytes > self.limit:
            self.close()
            self._place = next_place(*self._place, self.chunk_files)
        begin = self._frames
        for image in frames:
            if self._container is None:
                begin = 0
                self._begin(image.shape[0], image.shape[1])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = self._frames, 1 / self.rate
            self._mux(frame)
            self._frames += 1
        return {
            "chunk_index": self._place[0],
            "file_index": self._place[1],
            "from_timestamp": float(begin / self.rate),
            "to_timestamp": float(self._frames / self.rate),
        }

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._container is not None:
            container, self._container = self._container, None
            try:
                for packet in self._stream.encode(None):
                    container.mux(packet)
            finally:
                container.close()
            self._frames = self._bytes = 0

    def described(self) -> dict[str, Any]:
        """What info.json says of the videos."""
        height, width = self._size
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.codec,
            "video.pix_fmt": self.pixel_format,
            "video.is_depth_map": False,
            "video.fps": int(self.rate) if self.rate.denominator == 1 else float(self.rate),
            "video.channels": 3,
            "has_audio": False,
        }

    def _path(self) -> Path:
        return self.root / self.template.format(chunk_index=self._place[0], file_index=self._place[1])

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._bytes += packet.size
            self._container.mux(packet)

    def _begin(self, height: int, width: int) -> None:
        av = require_av()
        # the library prints its settings otherwise
        os.environ.setdefault("SVT_LOG", "1")
        mend = "options.frames=image, or store frames of another size"
        if self.pixel_format.startswith("yuv420") and (height % 2 or width % 2):
            raise DataError(explain("video needs an even size", given=(height, width), mend=mend))
        if self.codec == "av1" and min(height, width) < _AV1_LEAST:
            allowed = f"at least {_AV1_LEAST} pixels"
            raise DataError(explain("frames too small for AV1", given=(height, width), allowed=allowed, mend=mend))
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size = (height, width)
        try:
            self._container = av.open(str(path), "w")
            self._stream = self._container.add_stream(ENCODERS[self.codec], rate=self.rate, options=self.options)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, self.pixel_format
            self._stream.codec_context.thread_count = 1
            self._stream.time_base = 1 / self.rate
        except (av.FFmpegError, ValueError) as error:
            raise DataError(
                explain(f"the encoder for {self.codec} cannot be used: {error}", allowed=list(ENCODERS), mend=mend)
            ) from error
