"""Our own reader and writer of image shards (zarr v3 ``sharding_indexed``), bit-compatible with zarr-python.

A shard file is the frames' bytes one after the other, then one (offset, length) pair of little-endian uint64 per frame,
then the CRC-32C of those pairs; offset = length = 2^64 - 1 means "never written", that is zeros
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). Slicing through zarr-python costs about a
millisecond per frame in task scheduling; here a frame costs a table look-up and a copy or a JPEG decode.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg, encode_jpeg
from robopolicy.data.episode import EncodedFrames
from robopolicy.data.layout import ImageLayout
from robopolicy.errors import DataError, ShapeError, explain

__all__ = ["ImageReader", "ImageTail", "decode_frames", "encode_frames", "shard_bytes"]

_MISSING = np.uint64(2**64 - 1)
_MAX_OPEN_SHARDS = 4096
_DAMAGE = "the file is damaged; restore it from a copy of the store, or collect the data again"


class _Shard:
    """One mapped shard file with its index; a plain array view when the frames are raw and stand in order."""

    def __init__(self, path: Path, layout: ImageLayout, verify: bool):
        index_bytes = 16 * layout.shard_frames
        try:
            with open(path, "rb") as stream:
                self.data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise DataError(explain(f"{path} is missing", mend=_DAMAGE)) from error
        except (ValueError, OSError) as error:
            raise DataError(explain(f"{path} cannot be mapped: {error}", mend=_DAMAGE)) from error
        end = len(self.data) - index_bytes - 4
        if end < 0:
            raise DataError(explain(f"{path} is too short for its index", given=f"{len(self.data)} B", mend=_DAMAGE))
        raw = self.data[end : end + index_bytes]
        if verify and google_crc32c.value(raw) != int.from_bytes(self.data[-4:], "little"):
            raise DataError(explain(f"the index of {path} does not match its checksum", mend=_DAMAGE))
        index = np.frombuffer(raw, "<u8").reshape(-1, 2)
        present = index[:, 0] != _MISSING
        used = index[present]
        if len(used) and (used.max() > end or (used[:, 0] + used[:, 1]).max() > end):
            raise DataError(explain(f"{path} is cut short: frames lie beyond its end", mend=_DAMAGE))
        self.path = path
        self.spans = [
            (o, o + n) if there else None for (o, n), there in zip(index.tolist(), present.tolist(), strict=True)
        ]
        self.memory = memoryview(self.data)
        self.view: NDArray[np.uint8] | None = None
        size = layout.frame_bytes
        if layout.codec == "raw":
            if len(used) and (used[:, 1] != size).any():
                raise DataError(explain(f"{path} holds raw frames of a wrong length", mend=_DAMAGE))
            count = int(present.sum())
            if present[:count].all() and (index[:count, 0] == np.arange(count) * size).all():
                flat = np.frombuffer(self.data, np.uint8, count * size)
                self.view = flat.reshape(count, *layout.frame)

    def blob(self, frame: int) -> memoryview:
        """Stored bytes of one frame, empty when it was never written."""
        span = self.spans[frame]
        return self.memory[:0] if span is None else self.memory[span[0] : span[1]]

    def read(self, frame: int, out: NDArray[np.uint8], codec: str, decode: JpegDecoder) -> None:
        """Decode one frame into ``out`` [H, W, C]."""
        if self.view is not None and frame < len(self.view):
            out[...] = self.view[frame]
            return
        blob = self.blob(frame)
        if not blob:
            out[...] = 0
        elif codec == "raw":
            out[...] = np.frombuffer(blob, np.uint8).reshape(out.shape)
        else:
            try:
                decode(blob, out)
            except DataError as error:
                raise DataError(f"{self.path}, frame {frame}: {error}") from error


class ImageReader:
    """Random access to the committed frames of one camera. Safe to use from several threads.

    Files are mapped when first needed and stay mapped (the newest 4,096). A mapping keeps showing the file
    it was made from even when a writer has replaced it, which is what a snapshot wants.
    """

    def __init__(self, folder: Path, layout: ImageLayout, *, verify: bool = True, decode: JpegDecoder = decode_jpeg):
        """Nothing is opened yet.

        Args:
            folder: Of the array.
            layout: Its metadata; ``rows`` bounds what may be read.
            verify: Check the index checksum of every shard when it is mapped.
            decode: JPEG decoder.
        """
        self.folder, self.layout, self.verify, self.decode = folder, layout, verify, decode
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames ``start .. stop`` -> uint8 [stop - start, H, W, C]."""
        out = np.empty((stop - start, *self.layout.frame), np.uint8)
        self.gather(np.arange(start, stop), out)
        return out

    def gather(self, rows: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Frames ``rows`` [n], in that order, into ``out`` uint8 [n, H, W, C].

        Raises:
            DataError: a file is missing, cut short or altered.
            ShapeError: a row that is not committed.
        """
        if len(rows) and (rows.min() < 0 or rows.max() >= self.layout.rows):
            raise ShapeError(explain("no such frame", given=int(rows.max()), allowed=f"0 to {self.layout.rows - 1}"))
        shards, frames = np.divmod(rows, self.layout.shard_frames)
        codec, decode = self.layout.codec, self.decode
        for i, (shard, frame) in enumerate(zip(shards.tolist(), frames.tolist(), strict=True)):
            self._shard(shard).read(frame, out[i], codec, decode)

    def blobs(self, start: int, stop: int) -> list[bytes]:
        """Stored bytes of frames ``start .. stop``."""
        size = self.layout.shard_frames
        return [bytes(self._shard(i // size).blob(i % size)) for i in range(start, stop)]

    def _shard(self, number: int) -> _Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = _Shard(self.folder / self.layout.key(number), self.layout, self.verify)
            with self._lock:
                self._shards[number] = shard
                if len(self._shards) > _MAX_OPEN_SHARDS:
                    self._shards.popitem(last=False)
        return shard


def encode_frames(frames: NDArray[np.uint8], codec: str) -> list[bytes]:
    """uint8 [n, H, W, C] -> the bytes of each frame as they are stored."""
    if codec == "raw":
        return [frame.tobytes() for frame in np.ascontiguousarray(frames)]
    return [encode_jpeg(frame) for frame in np.ascontiguousarray(frames)]


def decode_frames(frames: EncodedFrames) -> NDArray[np.uint8]:
    """JPEG files -> uint8 [n, H, W, 3].

    Raises:
        DataError: a frame is not a readable JPEG of that size.
    """
    out = np.empty(frames.shape, np.uint8)
    for blob, place in zip(frames.blobs, out, strict=True):
        decode_jpeg(blob, place)
    return out


def shard_bytes(blobs: Sequence[bytes], shard_frames: int) -> list[bytes]:
    """A whole shard file: the given frames first in it, the remaining places marked as never written."""
    index = np.full((shard_frames, 2), _MISSING, "<u8")
    lengths = np.array([len(blob) for blob in blobs], np.uint64)
    index[: len(blobs), 1] = lengths
    index[: len(blobs), 0] = np.cumsum(lengths) - lengths
    table = index.tobytes()
    return [*blobs, table, int(google_crc32c.value(table)).to_bytes(4, "little")]


@dataclass(frozen=True)
class ImageTail:
    """The frames of the last, unfinished shard of a camera that is being appended to.

    Attributes:
        folder: Of the array.
        layout: With ``rows`` = what is committed.
        blobs: Stored bytes of the frames in the unfinished shard.
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
            self.folder / self.layout.key(first + i): shard_bytes(pending[i * size : (i + 1) * size], size)
            for i in range(-(-len(pending) // size))
        }
        layout = replace(self.layout, rows=self.layout.rows + len(blobs))
        return ImageTail(self.folder, layout, tuple(pending[len(pending) - len(pending) % size :])), files
