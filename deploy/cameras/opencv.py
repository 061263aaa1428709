"""Cameras through OpenCV: UVC and V4L2 devices, files, RTSP and GStreamer sources. Extra ``cameras``."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from robopolicy.deploy.sensors import Image
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.errors import DeployError, explain

__all__ = ["OpenCVCamera"]


class OpenCVCamera:
    """Newest picture of a source, grabbed by a thread of its own, cut to the wanted aspect and resized here.

    Resizing beside the camera keeps two 720p views from filling memory and network.

    Args:
        height, width: Of the pictures handed out.
        device: Index, ``/dev/video0``, a stable ``/dev/v4l/by-id/...`` path, file or URL.
        capture_width, capture_height, capture_hz: Asked of the device; 0 leaves its default.
        fourcc: Pixel format asked for, ``MJPG`` for most USB cameras beyond 640x480.
        latency_s: Time from exposure to arrival, taken off the time stamp (``deploy calibrate-latency``).
        flip: Rotated by half a turn.

    Raises:
        DeployError: OpenCV is not installed, or the device cannot be opened.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        device: int | str,
        capture_width: int = 0,
        capture_height: int = 0,
        capture_hz: float = 0.0,
        fourcc: str = "",
        latency_s: float = 0.0,
        flip: bool = False,
    ):
        try:
            import cv2
        except ImportError as error:
            raise DeployError(
                explain("cameras need OpenCV", given=str(error), mend='pip install "robopolicy[cameras]"')
            ) from error
        self._cv2, self._size, self._flip = cv2, (width, height), flip
        self._latency_ns = round(latency_s * 1e9)
        self._capture: Any = cv2.VideoCapture(device)
        if not self._capture.isOpened():
            self._capture.release()
            raise DeployError(
                explain("the camera cannot be opened", given=device, mend="look at /dev/v4l/by-id; is it used already?")
            )
        wanted = ((cv2.CAP_PROP_FRAME_WIDTH, capture_width), (cv2.CAP_PROP_FRAME_HEIGHT, capture_height))
        if fourcc:
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc))
        for key, value in (*wanted, (cv2.CAP_PROP_FPS, capture_hz)):
            if value:
                self._capture.set(key, value)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._newest: tuple[Image, int] | None = None
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._grab, name=f"camera {device}", daemon=True)
        self._thread.start()

    def read(self) -> tuple[Image, int] | None:
        """Newest picture and the time of its capture."""
        return self._newest

    def close(self) -> None:
        """Stop the thread and give the device back."""
        self._leave.set()
        self._thread.join(2.0)
        self._capture.release()

    def _grab(self) -> None:
        while not self._leave.is_set():
            got, picture = self._capture.read()
            now_ns = monotonic_ns() - self._latency_ns
            if not got:
                # unplugged, or the end of a file: the last picture grows old, and the sensors say so
                self._leave.wait(0.1)
                continue
            self._newest = self._shaped(picture), now_ns

    def _shaped(self, picture: Any) -> Image:
        cv2, (width, height) = self._cv2, self._size
        rows, columns = picture.shape[:2]
        share = min(rows / height, columns / width)
        kept_rows, kept_columns = round(height * share), round(width * share)
        top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
        cut = picture[top : top + kept_rows, left : left + kept_columns]
        small = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
        rgb = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        return np.ascontiguousarray(rgb[::-1, ::-1] if self._flip else rgb)
