"""The codec ``robopolicy.jpeg`` as zarr-python sees it; loaded by zarr through the entry point ``zarr.codecs``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

from robopolicy.data.codecs import (
    JPEG_CODEC,
    JPEG_QUALITY,
    SUBSAMPLINGS,
    decode_jpeg,
    encode_jpeg,
    jpeg_codec_metadata,
)
from robopolicy.errors import DataError, explain

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["JpegCodec", "register_jpeg_codec"]


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Array-to-bytes codec for chunks uint8 [1, H, W, 3].

    Attributes:
        quality: 1 to 100.
        subsampling: ``444``, ``422`` or ``420``.
    """

    quality: int = JPEG_QUALITY
    subsampling: str = "444"
    is_fixed_size = False

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100 or self.subsampling not in SUBSAMPLINGS:
            raise DataError(
                explain(
                    f"{JPEG_CODEC} cannot use these parameters",
                    given=(self.quality, self.subsampling),
                    allowed=f"quality 1 to 100, subsampling {sorted(SUBSAMPLINGS)}",
                )
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """From the entry of a zarr.json."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """The entry of a zarr.json."""
        return jpeg_codec_metadata(self.quality, self.subsampling)

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that are not RGB frames.

        Raises:
            DataError: another shape or dtype.
        """
        if len(shape) != 4 or shape[-1] != 3 or np.dtype(dtype.to_native_dtype()) != np.uint8:
            raise DataError(explain(f"{JPEG_CODEC} holds uint8 [N, H, W, 3]", given=(shape, dtype)))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding.

        Raises:
            DataError: always; zarr asks only for codecs of a fixed size.
        """
        raise DataError(explain(f"the size of a {JPEG_CODEC} chunk is not known before encoding"))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frame = np.empty(chunk_spec.shape, np.uint8)
        decode_jpeg(chunk_data.to_bytes(), frame[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frame)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        frame = np.ascontiguousarray(chunk_data.as_numpy_array())[0]
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(frame, self.quality, self.subsampling))


def register_jpeg_codec() -> None:
    """Make zarr-python know the codec even where the package's entry points are not installed."""
    register_codec(JPEG_CODEC, JpegCodec)
