"""Frames straight from the disk, at the size that a policy wants, with flat memory.

Shards are read with ``pread``, not mapped: what has been read then belongs to the page cache and not to this process,
whose resident memory stays the same however large the store is. A few descriptors and indices are kept.

Rows are rows as stored: who leaves out deleted episodes translates first.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg, decoder_into
from robopolicy.data.files import DAMAGE, LocalFiles
from robopolicy.data.layout import ImageLayout
from robopolicy.data.resize import resize_frame
from robopolicy.data.shard import CHECKSUM_BYTES, ImageReader, decode_frame, frame_payload, index_bytes, parse_index
from robopolicy.data.tombstones import LiveImages
from robopolicy.errors import DataError, explain

__all__ = ["FrameStream", "ReaderFrames", "ShardFrames", "open_stream", "stream_of"]

OPEN_FILES = 64
KNOWN_SHARDS = 4096
"""Shards whose index is kept, some 4 KiB each."""


class FrameStream(Protocol):
    """Random access to the stored frames of one camera.

    Attributes:
        native: (H, W, C) as stored.
        dtype: Of a frame.
        rows: Stored.
    """

    native: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: int

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames ``rows`` [n] into ``out`` [n, h, w, C], resized if ``out`` has another size."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON from which another process opens the same."""
        ...


class _Shard:
    """The index of one shard, and which of its frames were compared with their checksums."""

    def __init__(self, spans: NDArray[np.int64]):
        self.table = np.ascontiguousarray(spans)
        self.flat = (
            memoryview(self.table.data).cast("B").cast("q")
        )  # a number out of it costs a fifth of one out of an array
        self.checked = bytearray(len(spans))

    def span(self, frame: int) -> tuple[int, int]:
        """First byte and the one after the last; -1 where the frame was never written."""
        return self.flat[2 * frame], self.flat[2 * frame + 1]


class ShardFrames:
    """Reads shards of a local store. Safe to use from several threads."""

    def __init__(self, folder: Path, layout: ImageLayout, decode: JpegDecoder = decode_jpeg, verify: bool = True):
        """Nothing is opened yet.

        Args:
            folder: Of the array.
            layout: Its metadata.
            decode: JPEG decoder.
            verify: Check the checksum of an index when it is read, and that of a frame when it is first read.
        """
        self.folder, self.layout, self.decode, self.verify = folder, layout, decode, verify
        self.native: tuple[int, ...] = layout.frame
        self.dtype: np.dtype[Any] = np.dtype(layout.dtype)
        self.rows = layout.rows
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._files: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._files)

    def describe(self) -> dict[str, Any]:
        """JSON for :func:`open_stream`."""
        entry = {"kind": "shards", "folder": str(self.folder.absolute()), "layout": asdict(self.layout)}
        return {**entry, "decode": _decoder_name(self.decode), "verify": self.verify}

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames ``rows`` [n] into ``out`` [n, h, w, C]. A row that occurs twice is decoded once.

        Raises:
            DataError: a file is missing, cut short or altered.
        """
        scratch = None if out.shape[1:] == self.native else np.empty(self.native, self.dtype)
        decode = self.decode if scratch is not None else decoder_into(out, self.decode)
        shards, frames = (part.tolist() for part in np.divmod(rows, self.layout.shard_frames))
        order = np.argsort(rows, kind="stable")  # along the file, as disks like it
        previous, at = -1, -1
        for i, row in zip(order.tolist(), rows[order].tolist(), strict=True):
            if row == previous:
                out[i] = out[at]
                continue
            if scratch is None:
                self._read(shards[i], frames[i], out[i], decode)
            else:
                self._read(shards[i], frames[i], scratch, decode)
                resize_frame(scratch, out[i])
            previous, at = row, i

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of each frame without its checksum, int64 [n]; reads only the indices of the shards."""
        shards, frames = np.divmod(rows, self.layout.shard_frames)
        out = np.empty(len(rows), np.int64)
        for number in np.unique(shards).tolist():
            inside = shards == number
            spans = self._shard(number).table[frames[inside]]
            out[inside] = np.maximum(spans[:, 1] - spans[:, 0] - CHECKSUM_BYTES * self.layout.checksum, 0)
        return out

    def payload(self, row: int) -> memoryview:
        """Stored bytes of one frame without its checksum, empty when it was never written."""
        return self._payload(*divmod(row, self.layout.shard_frames))

    def _read(self, number: int, frame: int, out: NDArray[Any], decode: JpegDecoder) -> None:
        if self.layout.codec == "raw":
            self._read_raw(number, frame, out)
        else:
            payload = self._payload(number, frame)
            if not payload or self.layout.codec != "jpeg":
                decode_frame(payload, out, self.layout, decode, self._where(number, frame))
                return
            try:
                decode(payload, out)
            except DataError as error:  # where it is takes longer to say than to find
                raise DataError(f"{self._where(number, frame)}: {error}") from error

    def _read_raw(self, number: int, frame: int, out: NDArray[Any]) -> None:
        """Straight into the batch."""
        shard = self._shard(number)
        start, stop = shard.span(frame)
        if start < 0:
            out[...] = 0
            return
        checksum = bytearray(CHECKSUM_BYTES * self.layout.checksum)
        with self._lock:  # another thread could close the descriptor in between
            read = os.preadv(self._file(number), [out.data, checksum], start)
        if read != stop - start or read != out.nbytes + len(checksum):
            raise DataError(explain(f"{self._where(number, frame)} is not whole", mend=DAMAGE))
        if checksum and self.verify and not shard.checked[frame]:
            if google_crc32c.value(out.tobytes()) != int.from_bytes(checksum, "little"):
                raise DataError(explain(f"{self._where(number, frame)} does not match its checksum", mend=DAMAGE))
            shard.checked[frame] = 1

    def _payload(self, number: int, frame: int) -> memoryview:
        shard = self._shard(number)
        start, stop = shard.span(frame)
        if start < 0:
            return memoryview(b"")
        with self._lock:
            stored = os.pread(self._file(number), stop - start, start)
        if len(stored) != stop - start:
            raise DataError(explain(f"{self._where(number, frame)} is not whole", mend=DAMAGE))
        verify = self.verify and not shard.checked[frame]
        payload = frame_payload(memoryview(stored), self.layout, verify, self._where(number, frame) if verify else "")
        shard.checked[frame] = 1
        return payload

    def _shard(self, number: int) -> _Shard:
        known = self._shards.get(number)
        if known is not None:
            return known
        with self._lock:
            file = self._file(number)
            size = os.fstat(file).st_size
            tail = index_bytes(self.layout)
            raw = os.pread(file, tail, max(size - tail, 0))
        spans = parse_index(raw, size, self.layout, str(self._path(number)), self.verify)
        if len(self._shards) >= KNOWN_SHARDS:
            self._shards.popitem(last=False)
        self._shards[number] = made = _Shard(spans)
        return made

    def _file(self, number: int) -> int:
        file = self._files.get(number)
        if file is None:
            path = self._path(number)
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
                raise DataError(explain(f"{path} {what}", mend=DAMAGE)) from error
            self._files[number] = file
            if len(self._files) > OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(number)
        return file

    def _path(self, number: int) -> Path:
        return self.folder / self.layout.key(number)

    def _where(self, number: int, frame: int) -> str:
        return f"{self.folder}/{self.layout.key(number)}, frame {frame}"


def _close_all(files: OrderedDict[int, int]) -> None:
    for file in files.values():
        os.close(file)


class ReaderFrames:
    """Any other reader of frames (an archive, a server, another layout), with resizing."""

    def __init__(self, reader: Any, store: Any, stream: str, rows: int):
        """Nothing is read yet.

        Args:
            reader: Has ``gather(rows, out)``.
            store: That it is of.
            stream: ``image/<camera>`` or ``depth/<camera>``.
            rows: That it has.
        """
        self.reader, self.store, self.stream, self.rows = reader, store, stream, rows
        spec = store.streams[stream]
        self.native: tuple[int, ...] = tuple(spec.shape)
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype)

    def describe(self) -> dict[str, Any]:
        """JSON for :func:`open_stream`."""
        return {"kind": "reader", "store": str(self.store.path), "stream": self.stream}

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Frames ``rows`` [n] into ``out`` [n, h, w, C].

        Raises:
            DataError: as the reader.
        """
        if out.shape[1:] == self.native:
            self.reader.gather(rows, out)
            return
        one = np.empty((1, *self.native), self.dtype)
        for i in range(len(rows)):
            self.reader.gather(rows[i : i + 1], one)
            resize_frame(one[0], out[i])


def stream_of(store: Any, stream: str, decode: JpegDecoder = decode_jpeg) -> FrameStream:
    """The fastest way to the frames of ``stream`` of an open store, by stored row.

    Args:
        store: An :class:`~robopolicy.data.store.EpisodeStore`.
        stream: ``image/<camera>`` or ``depth/<camera>``.
        decode: JPEG decoder.
    """
    reader = store.frames(stream, decode)
    if isinstance(reader, LiveImages):
        reader = reader.reader
    if type(reader) is ImageReader and isinstance(reader.files, LocalFiles):
        return ShardFrames(reader.files.folder, reader.layout, decode, reader.verify)
    return ReaderFrames(reader, store, stream, _last_stored_row(store) + 1)


def _last_stored_row(store: Any) -> int:
    live = store.live_rows
    return int(store.num_steps - 1 if live is None else live.stored(np.array([store.num_steps - 1]))[0])


def open_stream(description: Mapping[str, Any]) -> FrameStream:
    """Inverse of ``describe``, in another process."""
    if description["kind"] == "shards":
        entry = dict(description["layout"])
        layout = ImageLayout(**{**entry, "frame": tuple(entry["frame"])})
        decode = _named_decoder(description["decode"])
        return ShardFrames(Path(description["folder"]), layout, decode, description["verify"])
    from robopolicy.data.store import EpisodeStore

    return stream_of(EpisodeStore.open(description["store"]), description["stream"])


def _decoder_name(decode: JpegDecoder) -> str:
    """``module:function`` of a decoder, by which another process finds it."""
    return f"{getattr(decode, '__module__', '')}:{getattr(decode, '__qualname__', '')}"


def _named_decoder(name: str) -> JpegDecoder:
    """The decoder of that name.

    Raises:
        DataError: a function that cannot be imported, such as one made inside another.
    """
    module, _, attribute = name.partition(":")
    try:
        found: JpegDecoder = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            explain("a loader process cannot import the JPEG decoder", given=name, mend="define it in a module")
        ) from error
    return found
