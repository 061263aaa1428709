"""Images of an RLDS record: JPEG files that pass through, anything else decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.data.codecs import check_jpeg_size
from robopolicy.data.convert.frames import FrameSequence
from robopolicy.data.convert.source import Finding
from robopolicy.data.episode import EncodedFrames
from robopolicy.errors import DataError, explain

__all__ = ["colour_frames", "depth_frames", "size_of", "stuck_camera"]


def size_of(blob: bytes, where: str) -> tuple[int, int]:
    """(height, width) of an image file, from its header.

    Raises:
        DataError: no image.
    """
    try:
        width, height = Image.open(io.BytesIO(blob)).size
    except (OSError, SyntaxError) as error:
        raise DataError(explain(f"{where}: no image: {error}", given=f"{len(blob)} bytes")) from error
    return height, width


def colour_frames(blobs: Any, frame: tuple[int, int, int], where: str) -> NDArray[Any] | EncodedFrames | FrameSequence:
    """Files of one camera, or an array; JPEG stays as it is, anything else is decoded.

    Args:
        blobs: T files, or u8 [T, H, W, 3].
        frame: (H, W, 3).
        where: For messages.

    Raises:
        DataError: when the frames are decoded: an image that cannot be, or of another size; its row is named.
    """
    if isinstance(blobs, np.ndarray):
        return blobs
    if all(blob[:2] == b"\xff\xd8" for blob in blobs):
        try:
            for blob in blobs:
                check_jpeg_size(blob, frame)
            return EncodedFrames(frame, tuple(blobs))
        except DataError:
            pass  # a grey one, or one of another size: decoded below, where the row is named

    def decode() -> Iterator[NDArray[np.uint8]]:
        for row, blob in enumerate(blobs):
            yield _decoded(blob, "RGB", frame, f"{where}, row {row}")

    return FrameSequence(len(blobs), frame, decode)


def depth_frames(blobs: Any, frame: tuple[int, ...], where: str) -> NDArray[Any]:
    """16-bit images u16 [T, H, W, 1]; arguments and errors as :func:`colour_frames`."""
    if isinstance(blobs, np.ndarray):
        return blobs
    return np.stack([_decoded(b, "I;16", frame, f"{where}, row {row}") for row, b in enumerate(blobs)])


def _decoded(blob: bytes, mode: str, frame: tuple[int, ...], where: str) -> NDArray[Any]:
    try:
        image = Image.open(io.BytesIO(blob))
        pixels = np.asarray(image.convert(mode) if image.mode != mode and mode == "RGB" else image)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(explain(f"{where}: an image cannot be decoded: {error}", given=f"{len(blob)} bytes")) from error
    if mode != "RGB":
        pixels = pixels.astype(np.uint16)[..., None]
    if pixels.shape != frame:
        raise DataError(explain(f"{where}: an image of another size", given=pixels.shape, allowed=frame))
    return pixels


def stuck_camera(frames: object, slot: str, episode: str) -> list[Finding]:
    """A finding when every frame of an episode is the same file."""
    if not isinstance(frames, EncodedFrames) or len(frames) < 2 or len(set(frames.blobs)) > 1:
        return []
    text = f"all {len(frames)} frames of '{slot}' are the same file"
    return [Finding("stuck_camera", text, "note", episode, f"image/{slot}")]
