"""Lossless frames: depth (uint16, millimetres) and masks (uint8), as zarr v3's own codecs ``bytes`` and ``blosc``.

Bits are shuffled before zstd, because neighbouring depths share their high bits. Any zarr v3 software reads the result
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/blosc/index.html). A compressed frame begins with the 16 bytes of
c-blosc's header (README_CHUNK_FORMAT.rst): version, compressor version, flags, item size, then three little-endian
uint32: decoded size, block size, stored size. Both sizes are compared before anything is decoded.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["BLOSC_CODEC", "blosc_metadata", "decode_blosc", "encode_blosc"]

BLOSC_CODEC = "blosc"
_LEVEL = 3
_HEADER = struct.Struct("<4B3I")


def blosc_metadata(item_bytes: int) -> dict[str, Any]:
    """The codec's entry in a zarr.json.

    Args:
        item_bytes: Of one value: 1 or 2.
    """
    return {
        "name": BLOSC_CODEC,
        "configuration": {
            "typesize": item_bytes,
            "cname": "zstd",
            "clevel": _LEVEL,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        },
    }


def encode_blosc(frame: NDArray[Any]) -> bytes:
    """uint8 or uint16 [H, W, C] -> compressed bytes."""
    little = np.ascontiguousarray(frame, frame.dtype.newbyteorder("<"))
    return bytes(blosc.compress(little, b"zstd", _LEVEL, blosc.BITSHUFFLE))


def decode_blosc(blob: bytes | memoryview, out: NDArray[Any]) -> None:
    """Decompress into ``out``, uint8 or uint16 [H, W, C].

    Raises:
        DataError: not blosc, cut short, or of another size.
    """
    if len(blob) < _HEADER.size:
        raise DataError(explain("a frame is not a blosc buffer", given=f"{len(blob)} B"))
    decoded_bytes, _, stored_bytes = _HEADER.unpack_from(blob)[4:]
    if decoded_bytes != out.nbytes or stored_bytes != len(blob):
        raise DataError(
            explain(
                "a compressed frame of another size",
                given={"decoded": decoded_bytes, "stored": stored_bytes},
                allowed={"decoded": out.nbytes, "stored": len(blob)},
            )
        )
    try:
        if out.flags.c_contiguous and out.dtype.isnative:
            blosc.decompress(blob, out)
        else:
            out[...] = np.frombuffer(blosc.decompress(blob), out.dtype.newbyteorder("<")).reshape(out.shape)
    except (RuntimeError, ValueError) as error:
        raise DataError(explain(f"a frame cannot be decompressed: {error}")) from error
