"""JPEG as a zarr v3 codec, and the plain functions behind it.

The codec ``robopolicy.jpeg`` turns one frame uint8 [1, H, W, 3] RGB into a JPEG file and back: quality 95, chroma 4:4:4
by default, because at 96x96 half-resolution chroma costs 4 dB. zarr-python finds it through the entry point
``zarr.codecs``; importing this module does not import zarr.
"""

from __future__ import annotations

import io
import math
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.errors import DataError, explain

try:
    import simplejpeg
except ImportError:  # no wheel for this platform: Pillow alone, the same pixels at half the speed
    simplejpeg = None

__all__ = [
    "FAST_DECODER",
    "FRAME_OFFSET",
    "JPEG_CODEC",
    "JPEG_QUALITY",
    "VECTOR_BYTES",
    "JpegDecoder",
    "check_jpeg_end",
    "check_jpeg_size",
    "decode_jpeg",
    "decode_jpeg_pillow",
    "decoder_into",
    "encode_jpeg",
    "jpeg_codec_metadata",
]

JpegDecoder = Callable[[bytes | memoryview, NDArray[np.uint8]], None]
"""(JPEG file, out uint8 [H, W, 3]) -> None."""

FAST_DECODER: str | None = simplejpeg and f"simplejpeg {simplejpeg.__version__}"
"""What decodes straight into the batch, None for Pillow alone."""
JPEG_CODEC = "robopolicy.jpeg"
JPEG_QUALITY = 95
VECTOR_BYTES = 32
"""Of the widest registers that libjpeg-turbo stores with."""
FRAME_OFFSET = VECTOR_BYTES // 2
"""Distance of a batch from a multiple of a vector register, see :func:`_scratch`."""
_SMALL = 1 << 17
_BUFFERS = threading.local()
_BEGINNINGS: dict[tuple[int, ...], bytes] = {}
"""(H, W, 3) -> beginning of the last file of that size, its start of frame included: one camera's files begin alike."""
SUBSAMPLINGS = {"444": 0, "422": 1, "420": 2}


def jpeg_codec_metadata(quality: int = JPEG_QUALITY, subsampling: str = "444") -> dict[str, Any]:
    """The codec's entry in a zarr.json."""
    return {"name": JPEG_CODEC, "configuration": {"quality": quality, "subsampling": subsampling}}


def encode_jpeg(frame: NDArray[np.uint8], quality: int = JPEG_QUALITY, subsampling: str = "444") -> bytes:
    """uint8 [H, W, 3] RGB -> a complete JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(frame, "RGB").save(buffer, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])
    return buffer.getvalue()


def decoder_into(out: NDArray[Any], decode: JpegDecoder) -> JpegDecoder:
    """The fastest equal of ``decode`` for the frames of ``out`` [n, H, W, C].

    Where every frame stands at such an address as :class:`~robopolicy.data.batch_memory.BatchMemory` gives,
    :func:`decode_jpeg` can do without a buffer of its own and the copy out of it.
    """
    stride = math.prod(out.shape[1:]) * out.itemsize
    fits = out.flags.c_contiguous and stride % VECTOR_BYTES == 0 and out.ctypes.data % VECTOR_BYTES
    return _decode_in_place if decode is decode_jpeg and fits else decode


def _decode_in_place(blob: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    check_jpeg_size(blob, out.shape)
    if simplejpeg is not None:
        try:
            if simplejpeg.decode_jpeg(blob, "RGB", buffer=out).shape == out.shape:
                return
        except ValueError:
            pass
    decode_jpeg_pillow(blob, out)


def decode_jpeg(blob: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    """Decode a JPEG file into ``out``, uint8 [H, W, 3] RGB.

    simplejpeg (libjpeg-turbo, the accurate DCT and smooth chroma) decodes straight into ``out``; the pixels are
    Pillow's, which uses the same library. What it refuses, or warns of, is left to Pillow to judge, so that neither the
    result nor the error depends on what is installed.

    Raises:
        DataError: not a JPEG, cut short, or of another size.
    """
    small = out.size <= _SMALL  # a copy costs less than to ask for the address
    if small or not out.flags.c_contiguous or out.ctypes.data % VECTOR_BYTES == 0:
        place = _scratch(out.shape)
        _decode_in_place(blob, place)
        out[...] = place
    else:
        _decode_in_place(blob, out)


def _scratch(shape: tuple[int, ...]) -> Any:
    """This thread's buffer for one frame, uint8 ``shape``, at an address that is not a multiple of a vector register.

    At such an address libjpeg-turbo stores around the caches, which makes a 96x96 frame take 83 instead of 58 us; the
    copy from here costs 1 us.
    """
    known = getattr(_BUFFERS, "frame", None)
    if known is None or known.shape != shape:
        size = math.prod(shape)
        buffer = np.empty(size + 2 * VECTOR_BYTES, np.uint8)
        first = -buffer.ctypes.data % VECTOR_BYTES + FRAME_OFFSET
        known = _BUFFERS.frame = buffer[first : first + size].reshape(shape)
    return known


def decode_jpeg_pillow(blob: bytes | memoryview, out: NDArray[np.uint8]) -> None:
    """:func:`decode_jpeg` with Pillow alone.

    Its decoder is called without its file reader, whose parsing in Python would add a quarter at 96x96.

    Raises:
        DataError: as :func:`decode_jpeg`.
    """
    height, width, _ = out.shape
    check_jpeg_size(blob, out.shape)
    try:
        image = Image.frombytes("RGB", (width, height), blob, "jpeg", "RGB", "")
    except (ValueError, OSError) as error:
        raise DataError(explain(f"a frame is not a readable JPEG: {error}")) from error
    out[...] = np.asarray(image)


def check_jpeg_size(blob: bytes | memoryview, shape: tuple[int, ...]) -> None:
    """Compare a JPEG's start-of-frame segment (ITU-T T.81, B.2.2) with ``shape`` (H, W, 3).

    Raises:
        DataError: no such segment before the data ends, or another size.
    """
    known = _BEGINNINGS.get(shape)
    if known is not None and blob[: len(known)] == known:
        return
    position = 2
    while blob[:2] == b"\xff\xd8" and position + 10 <= len(blob) and blob[position] == 0xFF:
        marker = blob[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from(">HHB", blob, position + 5)
            if (height, width, channels) != tuple(shape):
                raise DataError(explain("JPEG of another size", given=(height, width, channels), allowed=tuple(shape)))
            _BEGINNINGS[shape] = bytes(blob[: position + 10])
            return
        position += 2 + int.from_bytes(blob[position + 2 : position + 4], "big")
    raise DataError(explain("a frame is not a readable JPEG: it has no start of frame"))


def check_jpeg_end(blob: bytes, shape: tuple[int, ...]) -> None:
    """Refuse a JPEG that was cut short, before it is stored; only one without its end marker has to be decoded.

    Args:
        blob: The file; padding after the end marker (ITU-T T.81, B.2.1) is common and harmless.
        shape: (H, W, 3).

    Raises:
        DataError: it cannot be decoded.
    """
    if b"\xff\xd9" not in blob.rstrip(b"\0")[-64:]:
        decode_jpeg(blob, np.empty(shape, np.uint8))
