"""Frames of RoboMIND: files in variable-length rows, some unencoded, some broken, red and blue as OpenCV gave them.

The project says which layouts are "BGR". That is said of what OpenCV's ``imdecode`` returns, which is BGR for an
ordinary file. So the files of the *BGR* layouts are ordinary JPEG files and pass through unchanged, and those of the
*RGB* layouts were written with red and blue exchanged. A raw row has its bytes in the named order.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robopolicy.data.codecs import encode_jpeg
from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.hdf5_episode import Hdf5File
from robopolicy.data.episode import EncodedFrames
from robopolicy.errors import DataError, explain

__all__ = ["RAW_SIZES", "CameraRows", "black_frames", "camera_rows", "decode_depth", "decode_rgb", "image_size"]

Kind = Literal["jpeg", "png", "raw", "broken", "other_size"]
RAW_SIZES = {2_764_800: (720, 1280), 921_600: (480, 640)}
"""Bytes of an unencoded colour frame -> (height, width), as the project's reader has it."""
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class CameraRows:
    """The rows of one camera and what each of them is.

    Attributes:
        blobs: Bytes of every row.
        kinds: What they are.
        size: (height, width) that is expected.
        bgr: See :class:`robopolicy.data.convert.robomind_layouts.Layout`.
    """

    blobs: list[bytes]
    kinds: list[Kind]
    size: tuple[int, int]
    bgr: bool

    def rows(self, kind: Kind) -> list[int]:
        """Numbers of the rows of that kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]

    def take(self, rows: NDArray[np.intp]) -> CameraRows:
        """Other rows, in that order."""
        picked = [int(i) for i in rows]
        return CameraRows([self.blobs[i] for i in picked], [self.kinds[i] for i in picked], self.size, self.bgr)

    def hold_broken(self) -> None:
        """Replace every broken row by the last good one before it, or the first good one.

        Raises:
            DataError: no row is good.
        """
        good = [i for i, kind in enumerate(self.kinds) if kind not in ("broken", "other_size")]
        if not good:
            raise DataError(explain("no frame of this camera can be decoded", given=f"{len(self.kinds)} rows"))
        for i, kind in enumerate(self.kinds):
            if kind == "broken":
                source = max((g for g in good if g < i), default=good[0])
                self.blobs[i], self.kinds[i] = self.blobs[source], self.kinds[source]

    def frames(self) -> EncodedFrames | FrameSequence:
        """RGB frames: the files themselves where they are ordinary JPEG, otherwise decoded when asked for."""
        height, width = self.size
        shape = (height, width, 3)
        if self.bgr and set(self.kinds) <= {"jpeg", "raw"}:
            return EncodedFrames(shape, tuple(self._as_file(b, k) for b, k in zip(self.blobs, self.kinds, strict=True)))
        return FrameSequence(len(self.blobs), shape, self._decoded)

    def _as_file(self, blob: bytes, kind: Kind) -> bytes:
        # Some rows are longer than their file: what follows the end-of-image marker is no part of it.
        return _trimmed(blob) if kind == "jpeg" else encode_jpeg(self._frame(blob, kind))

    def _decoded(self) -> Iterator[NDArray[np.uint8]]:
        for row, (blob, kind) in enumerate(zip(self.blobs, self.kinds, strict=True)):
            try:
                yield self._frame(blob, kind)
            except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
                raise DataError(
                    explain(f"frame {row} cannot be decoded: {error}", mend="leave the episode out: skip_bad=true")
                ) from error

    def _frame(self, blob: bytes, kind: Kind) -> NDArray[np.uint8]:
        if kind == "raw":
            stored = np.frombuffer(blob, np.uint8).reshape(*self.size, 3)
            return np.ascontiguousarray(stored[..., ::-1] if self.bgr else stored)
        ordinary = decode_rgb(blob)
        return ordinary if self.bgr else np.ascontiguousarray(ordinary[..., ::-1])


def camera_rows(file: Hdf5File, key: str, size: tuple[int, int] | None, bgr: bool) -> CameraRows:
    """Read all rows of a camera as they are stored and say what each is; nothing is decoded.

    Args:
        file: The trajectory.
        key: Of the camera's rows.
        size: (height, width) expected; None takes that of the first row that says one.
        bgr: See :class:`CameraRows`.

    Raises:
        DataError: missing, damaged, or no row says a size.
    """
    stored = file.read(key)
    blobs = [np.asarray(item, np.uint8).tobytes() if not isinstance(item, bytes) else item for item in stored]
    if size is None:
        size = next((s for s in map(image_size, blobs) if s is not None), None)
    if size is None:
        raise DataError(
            explain(
                f"{file.path}: no frame of '{key}' says its size",
                given=f"{len(blobs)} rows",
                allowed=f"JPEG, PNG, or raw frames of {list(RAW_SIZES)} bytes",
            )
        )
    return CameraRows(blobs, [_kind(blob, size) for blob in blobs], size, bgr)


def image_size(blob: bytes) -> tuple[int, int] | None:
    """(height, width) from the header of a JPEG or PNG file, or from the length of a raw frame; None for neither."""
    if blob[:2] == b"\xff\xd8":
        return _jpeg_size(blob)
    if blob[:8] == _PNG and len(blob) >= 24:
        width, height = struct.unpack_from(">II", blob, 16)
        return int(height), int(width)
    return RAW_SIZES.get(len(blob))


def decode_rgb(blob: bytes) -> NDArray[np.uint8]:
    """An image file -> uint8 [H, W, 3] in the file's own colours."""
    with Image.open(io.BytesIO(blob)) as image:
        return np.asarray(image.convert("RGB"))


def decode_depth(blob: bytes) -> NDArray[Any] | None:
    """A depth image -> [H, W] as stored (8 or 16 bit, or float); None when it is no image file."""
    try:
        with Image.open(io.BytesIO(blob)) as image:
            if image.mode not in ("L", "I", "I;16", "I;16B", "F"):
                return None
            return np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None


def black_frames(size: tuple[int, int], count: int) -> EncodedFrames:
    """``count`` black frames, for a camera that is absent."""
    frame = (*size, 3)
    return EncodedFrames(frame, (encode_jpeg(np.zeros(frame, np.uint8)),) * count)


def _kind(blob: bytes, size: tuple[int, int]) -> Kind:
    height, width = size
    found = image_size(blob)
    # Rows of a fixed length are filled up with zeros, which no image file ends with.
    end = blob.rstrip(b"\x00")[-1024:]
    if blob[:2] == b"\xff\xd8":
        if found is None or b"\xff\xd9" not in end:
            return "broken"
        return "jpeg" if found == size else "other_size"
    if blob[:8] == _PNG:
        if found is None or b"IEND" not in end:
            return "broken"
        return "png" if found == size else "other_size"
    if len(blob) == height * width * 3:
        return "raw"
    return "other_size" if found is not None else "broken"


def _trimmed(blob: bytes) -> bytes:
    return blob[: blob.rindex(b"\xff\xd9") + 2]


def _jpeg_size(blob: bytes) -> tuple[int, int] | None:
    """From the start-of-frame segment (ITU-T T.81, B.2.2)."""
    position = 2
    while position + 10 <= len(blob) and blob[position] == 0xFF:
        marker = blob[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", blob, position + 5)
            return int(height), int(width)
        position += 2 + int.from_bytes(blob[position + 2 : position + 4], "big")
    return None
