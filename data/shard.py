"""Our own reader and writer of image shards (zarr v3 ``sharding_indexed``), bit-compatible with zarr-python.

A shard file is the frames' bytes one after the other, then one (offset, length) pair of little-endian uint64 per frame,
then the CRC-32C of those pairs; offset = length = 2^64 - 1 means "never written", that is zeros
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). Each frame ends with a CRC-32C of its own
where the layout says so. Slicing through zarr-python costs about a millisecond per frame in task scheduling; here a
frame costs a table look-up and a copy or a JPEG decode.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg, encode_jpeg
from robopolicy.data.depth_codec import decode_blosc, encode_blosc
from robopolicy.data.episode import EncodedFrames
from robopolicy.data.files import DAMAGE, Files, LocalFiles
from robopolicy.data.layout import ImageLayout
from robopolicy.errors import DataError, ShapeError, explain

__all__ = [
    "CHECKSUM_BYTES",
    "ImageReader",
    "ImageTail",
    "check_rows",
    "decode_frame",
    "decode_frames",
    "encode_frames",
    "frame_payload",
    "index_bytes",
    "parse_index",
    "shard_bytes",
]

_MISSING = np.uint64(2**64 - 1)
_MAX_OPEN_SHARDS = 4096
CHECKSUM_BYTES = 4


def index_bytes(layout: ImageLayout) -> int:
    """Size of the table at the end of a shard, its checksum included."""
    return 16 * layout.shard_frames + CHECKSUM_BYTES


def parse_index(raw: bytes, size: int, layout: ImageLayout, where: str, verify: bool) -> NDArray[np.int64]:
    """The table of a shard -> int64 [S, 2], start and stop of each frame's bytes, -1 where it was never written.

    Args:
        raw: The last :func:`index_bytes` of the file.
        size: Of the whole file.
        layout: Of the array.
        where: What to call the file.
        verify: Check the table against its checksum.

    Raises:
        DataError: it is too short, altered, or points outside the file.
    """
    end = size - index_bytes(layout)
    if end < 0 or len(raw) != index_bytes(layout):
        raise DataError(explain(f"{where} is too short for its index", given=f"{size} B", mend=DAMAGE))
    table = raw[:-CHECKSUM_BYTES]
    if verify and google_crc32c.value(table) != int.from_bytes(raw[-CHECKSUM_BYTES:], "little"):
        raise DataError(explain(f"the index of {where} does not match its checksum", mend=DAMAGE))
    index = np.frombuffer(table, "<u8").reshape(-1, 2)
    present = index[:, 0] != _MISSING
    used = index[present]
    if len(used) and (used.max() > end or (used[:, 0] + used[:, 1]).max() > end):
        raise DataError(explain(f"{where} is cut short: frames lie beyond its end", mend=DAMAGE))
    exact = layout.frame_bytes + CHECKSUM_BYTES * layout.checksum
    least = exact if layout.codec == "raw" else 1 + CHECKSUM_BYTES * layout.checksum
    if len(used) and (used[:, 1].min() < least or (layout.codec == "raw" and used[:, 1].max() > exact)):
        raise DataError(explain(f"{where} holds frames of a wrong length", mend=DAMAGE))
    spans = np.full(index.shape, -1, np.int64)
    spans[present, 0] = used[:, 0]
    spans[present, 1] = used[:, 0] + used[:, 1]
    return spans


def frame_payload(stored: memoryview, layout: ImageLayout, verify: bool, where: str) -> memoryview:
    """The bytes of one frame without its checksum, which is checked first.

    Raises:
        DataError: they do not match.
    """
    if not layout.checksum or not stored:
        return stored
    payload = stored[:-CHECKSUM_BYTES]
    if verify and google_crc32c.value(bytes(payload)) != int.from_bytes(stored[-CHECKSUM_BYTES:], "little"):
        raise DataError(explain(f"{where} does not match its checksum", mend=DAMAGE))
    return payload


def decode_frame(payload: memoryview, out: NDArray[Any], layout: ImageLayout, decode: JpegDecoder, where: str) -> None:
    """Decode one frame into ``out`` [H, W, C]; no bytes at all are a frame of zeros.

    Raises:
        DataError: it cannot be decoded; the message begins with ``where``.
    """
    if not payload:
        out[...] = 0
    elif layout.codec == "raw":
        out[...] = np.frombuffer(payload, np.dtype(layout.dtype).newbyteorder("<")).reshape(out.shape)
    else:
        try:
            (decode if layout.codec == "jpeg" else decode_blosc)(payload, out)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def check_rows(rows: NDArray[np.integer], layout: ImageLayout) -> None:
    """Refuse rows that are not committed.

    Raises:
        ShapeError: the message names the worst.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= layout.rows):
        worst = int(rows.min() if rows.min() < 0 else rows.max())
        raise ShapeError(explain("no such frame", given=worst, allowed=f"0 to {layout.rows - 1}"))


class _Shard:
    """One mapped shard file with its index."""

    def __init__(self, files: Files, key: str, layout: ImageLayout, verify: bool):
        self.memory = files.view(key)
        self.where, self.layout, self.verify = files.where(key), layout, verify
        raw = bytes(self.memory[max(0, len(self.memory) - index_bytes(layout)) :])
        spans = parse_index(raw, len(self.memory), layout, self.where, verify)
        self.spans: list[list[int]] = spans.tolist()
        self.checked = bytearray(layout.shard_frames)  # each frame's checksum is checked once per mapping

    def payload(self, frame: int) -> memoryview:
        """Bytes of one frame without checksum, empty when it was never written."""
        start, stop = self.spans[frame]
        if start < 0:
            return self.memory[:0]
        verify = self.verify and not self.checked[frame]
        payload = frame_payload(self.memory[start:stop], self.layout, verify, f"{self.where}, frame {frame}")
        self.checked[frame] = 1
        return payload

    def read(self, frame: int, out: NDArray[Any], decode: JpegDecoder) -> None:
        """Decode one frame into ``out`` [H, W, C]."""
        decode_frame(self.payload(frame), out, self.layout, decode, f"{self.where}, frame {frame}")


class ImageReader:
    """Random access to the committed frames of one stream. Safe to use from several threads.

    Files are mapped when first needed and stay mapped (the newest 4,096). A mapping keeps showing the file
    it was made from even when a writer has replaced it, which is what a snapshot wants.
    """

    def __init__(
        self, folder: Path | Files, layout: ImageLayout, *, verify: bool = True, decode: JpegDecoder = decode_jpeg
    ):
        """Nothing is opened yet.

        Args:
            folder: Of the array.
            layout: Its metadata; ``rows`` bounds what may be read.
            verify: Check the index checksum of every shard when it is mapped, and that of a frame, where there is one,
                when it is first read.
            decode: JPEG decoder.
        """
        self.files: Files = LocalFiles(folder) if isinstance(folder, Path) else folder
        self.layout, self.verify, self.decode = layout, verify, decode
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start .. stop`` -> [stop - start, H, W, C]."""
        out = np.empty((stop - start, *self.layout.frame), self.layout.dtype)
        self.gather(np.arange(start, stop), out)
        return out

    def gather(self, rows: NDArray[np.integer], out: NDArray[Any]) -> None:
        """Frames ``rows`` [n], in that order, into ``out`` [n, H, W, C] of the stored dtype.

        Raises:
            DataError: a file is missing, cut short or altered.
            ShapeError: a row that is not committed.
        """
        check_rows(rows, self.layout)
        shards, frames = np.divmod(rows, self.layout.shard_frames)
        decode = self.decode
        for i, (shard, frame) in enumerate(zip(shards.tolist(), frames.tolist(), strict=True)):
            self._shard(shard).read(frame, out[i], decode)

    def blobs(self, start: int, stop: int) -> list[bytes]:
        """Stored bytes of frames ``start .. stop`` without their checksums: JPEG files in a JPEG store."""
        size = self.layout.shard_frames
        return [bytes(self._shard(i // size).payload(i % size)) for i in range(start, stop)]

    def _shard(self, number: int) -> _Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = _Shard(self.files, self.layout.key(number), self.layout, self.verify)
            with self._lock:
                self._shards[number] = shard
                if len(self._shards) > _MAX_OPEN_SHARDS:
                    self._shards.popitem(last=False)
        return shard


def encode_frames(frames: NDArray[Any], codec: str) -> list[bytes]:
    """[n, H, W, C] -> the bytes of each frame as they are stored, without checksum."""
    encode = {"raw": lambda f: f.astype(f.dtype.newbyteorder("<"), copy=False).tobytes(), "blosc": encode_blosc}
    chosen = encode.get(codec, encode_jpeg)
    return [chosen(frame) for frame in np.ascontiguousarray(frames)]


def decode_frames(frames: EncodedFrames) -> NDArray[np.uint8]:
    """JPEG files -> uint8 [n, H, W, 3].

    Raises:
        DataError: a frame is not a readable JPEG of that size.
    """
    out = np.empty(frames.shape, np.uint8)
    for blob, place in zip(frames.blobs, out, strict=True):
        decode_jpeg(blob, place)
    return out


def shard_bytes(blobs: Sequence[bytes], shard_frames: int, checksum: bool = False) -> list[bytes]:
    """A whole shard file: the given frames first in it, the remaining places marked as never written."""
    if checksum:
        blobs = [blob + int(google_crc32c.value(blob)).to_bytes(CHECKSUM_BYTES, "little") for blob in blobs]
    index = np.full((shard_frames, 2), _MISSING, "<u8")
    lengths = np.array([len(blob) for blob in blobs], np.uint64)
    index[: len(blobs), 1] = lengths
    index[: len(blobs), 0] = np.cumsum(lengths) - lengths
    table = index.tobytes()
    return [*blobs, table, int(google_crc32c.value(table)).to_bytes(CHECKSUM_BYTES, "little")]


@dataclass(frozen=True)
class ImageTail:
    """The frames of the last, unfinished shard of a stream that is being appended to.

    Attributes:
        folder: Of the array.
        layout: With ``rows`` = what is committed.
        blobs: Stored bytes of the frames in the unfinished shard, without checksums.
    """

    folder: Path
    layout: ImageLayout
    blobs: tuple[bytes, ...]

    @classmethod
    def open(cls, folder: Path, layout: ImageLayout) -> ImageTail:
        """Read the tail of what is committed."""
        first = layout.rows - layout.rows % layout.shard_frames
        return cls(folder, layout, tuple(ImageReader(folder, layout).blobs(first, layout.rows)))

    def extended(self, blobs: Sequence[bytes]) -> tuple[ImageTail, dict[Path, list[bytes]]]:
        """The tail after ``blobs``, and the shard files that have to be written for it. Writes nothing itself."""
        size = self.layout.shard_frames
        pending = [*self.blobs, *blobs]
        first = self.layout.rows // size
        files = {
            self.folder / self.layout.key(first + i): shard_bytes(
                pending[i * size : (i + 1) * size], size, self.layout.checksum
            )
            for i in range(-(-len(pending) // size))
        }
        layout = replace(self.layout, rows=self.layout.rows + len(blobs))
        return ImageTail(self.folder, layout, tuple(pending[len(pending) - len(pending) % size :])), files
