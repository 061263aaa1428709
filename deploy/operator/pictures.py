"""Camera frames as pictures for a browser: JPEG, or PNG where that library is missing."""

from __future__ import annotations

import importlib.util
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.bus import Bus

__all__ = ["HEADER", "Pictures", "encode", "encode_png"]

HEADER = struct.Struct("<BB6xd")
"""Before each picture: number of the camera, kind (0 JPEG, 1 PNG), monotonic time of the frame in ms."""
QUALITY = 80
HAS_JPEG = importlib.util.find_spec("simplejpeg") is not None


class Pictures:
    """The newest frame of every streamed camera; frames that nobody was quick enough to see are left out.

    Args:
        bus: Shared memory, read only.
    """

    def __init__(self, bus: Bus):
        self._ring = bus.ring("frames")
        self._names = [name for name, _, _ in bus.layout.cameras]
        self._shown = 0

    def take(self) -> list[bytes]:
        """A message [header, picture] per camera, or nothing when there is no newer frame."""
        if not self._names or self._ring.newest == self._shown:
            return []
        found = self._ring.latest()
        if found is None:
            return []
        self._shown, frame = found
        made = []
        for number, name in enumerate(self._names):
            kind, data = encode(frame[f"image/{name}"])
            made.append(HEADER.pack(number, kind, int(frame["time_ns"]) / 1e6) + data)
        return made


def encode(image: NDArray[np.uint8]) -> tuple[int, bytes]:
    """(kind, picture) of ``image`` u8 [H, W, 3]."""
    if HAS_JPEG:
        import simplejpeg

        return 0, simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=QUALITY, colorspace="RGB")
    return 1, encode_png(image)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG (RFC 2083, colour type 2, no filter) of ``image`` u8 [H, W, 3]."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = image.reshape(height, 3 * width)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: Any) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
