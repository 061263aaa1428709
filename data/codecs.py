"""JPEG as a zarr v3 codec, and the plain functions behind it.

The codec ``robopolicy.jpeg`` turns one frame uint8 [1, H, W, 3] RGB into a JPEG file and back: quality 95, chroma 4:4:4
by default, because at 96x96 half-resolution chroma costs 4 dB. zarr-python finds it through the entry point
``zarr.codecs``; importing this module does not import zarr.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robopolicy.errors import DataError, explain

__all__ = ["JPEG_CODEC", "JPEG_QUALITY", "decode_jpeg", "encode_jpeg", "jpeg_codec_metadata"]

JPEG_CODEC = "robopolicy.jpeg"
JPEG_QUALITY = 95
SUBSAMPLINGS = {"444": 0, "422": 1, "420": 2}


def jpeg_codec_metadata(quality: int = JPEG_QUALITY, subsampling: str = "444") -> dict[str, Any]:
    """The codec's entry in a zarr.json."""
    return {"name": JPEG_CODEC, "configuration": {"quality": quality, "subsampling": subsampling}}


def encode_jpeg(frame: NDArray[np.uint8], quality: int = JPEG_QUALITY, subsampling: str = "444") -> bytes:
    """uint8 [H, W, 3] RGB -> a complete JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(frame, "RGB").save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])
    return buffer.getvalue()


def decode_jpeg(blob: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG file into ``out``, uint8 [H, W, 3] RGB.

    Raises:
        DataError: not a JPEG, cut short, or of another size.
    """
    try:
        with Image.open(io.BytesIO(blob), formats=("JPEG",)) as image:
            if image.size != (out.shape[1], out.shape[0]) or image.mode != "RGB":
                raise DataError(
                    explain("JPEG of another size", given=(image.size, image.mode), allowed=f"RGB {out.shape}")
                )
            out[...] = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(explain(f"a frame is not a readable JPEG: {error}")) from error
