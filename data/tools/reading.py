"""Whole episodes as they are stored: numbers as arrays, frames as their stored bytes, never decoded and encoded again.

Memory is one chunk of each low-dimensional array (65,536 rows) and one episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.columns import read_column
from robopolicy.data.contents import StoreContents
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.data.layout import ColumnLayout, parse_column, parse_image
from robopolicy.data.zarr_fallback import open_array
from robopolicy.errors import DataError, explain

__all__ = ["EpisodeReader", "RowReader", "Streams", "episode_digest", "store_name"]

Streams = dict[str, NDArray[Any] | EncodedFrames]


class RowReader:
    """Stored rows of low-dimensional arrays, cheap when they are asked for in order. One thread."""

    def __init__(self, store: StoreContents):
        """Nothing is read yet."""
        self.files, self.arrays = store.files, store.snapshot.arrays
        self._chunks: dict[str, tuple[int, NDArray[Any]]] = {}

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start .. stop`` of ``data/<stream>`` or another column -> [stop - start, ...].

        Raises:
            DataError: a chunk is missing, cut short or altered; names the file.
        """
        layout = parse_column(self.arrays[name])
        if layout is None:
            return np.asarray(open_array(self.files, name)[start:stop])
        size = layout.chunk_rows
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            rows = self._chunk(name, layout, chunk)
            parts.append(rows[max(start - chunk * size, 0) : stop - chunk * size])
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *layout.width), layout.dtype), *parts])

    def _chunk(self, name: str, layout: ColumnLayout, chunk: int) -> NDArray[Any]:
        held = self._chunks.get(name)
        if held is None or held[0] != chunk:
            last = min((chunk + 1) * layout.chunk_rows, layout.rows)
            held = chunk, read_column(self.files.within(name), layout, chunk * layout.chunk_rows, last)
            self._chunks[name] = held
        return held[1]


class EpisodeReader:
    """Episodes of one store by live index, best in rising order. One thread; make one for each."""

    def __init__(
        self,
        store: StoreContents,
        spans: NDArray[np.int64] | None = None,
        records: Sequence[Mapping[str, Any]] | None = None,
    ):
        """Nothing is read yet.

        Args:
            store: Open for reading.
            spans: int64 [E, 2], stored (first, last + 1) rows of each episode, where they are not those of the store.
            records: Of each episode, where they are not those of the store.
        """
        self.store = store
        self._records = records
        self.rows = RowReader(store)
        self.streams = store.streams
        self._spans = spans
        self._codecs: dict[str, str] = {}

    def record(self, index: int) -> dict[str, Any]:
        """``length``, ``success``, ``language``, ``metadata`` and ``sha256`` of an episode.

        Raises:
            DataError: no such episode, or damaged records.
        """
        return self.store.info(index) if self._records is None else dict(self._records[index])

    def span(self, index: int) -> tuple[int, int]:
        """Stored (first, last + 1) row of an episode."""
        if self._spans is not None:
            return int(self._spans[index, 0]), int(self._spans[index, 1])
        info, live = self.store.info(index), self.store.live_rows
        start = info["start"] if live is None else int(live.starts[index])
        return start, start + info["length"]

    def read(self, index: int) -> Episode:
        """One episode with its labels; frames of a ``jpeg`` store are :class:`EncodedFrames`.

        Raises:
            DataError: no such episode, or a file of it is damaged; names the file.
        """
        info = self.record(index)
        streams: Streams = {name: self.stream(name, index) for name in self.streams}
        return Episode(streams, info["language"], bool(info["success"]), info["metadata"])

    def stream(self, name: str, index: int) -> NDArray[Any] | EncodedFrames:
        """One stream of one episode, as stored.

        Raises:
            DataError: as :meth:`read`.
        """
        start, stop = self.span(index)
        spec = self.streams[name]
        if spec.image:
            return self._frames(name, start, stop)
        return self.rows.read(f"data/{name}", start, stop)

    def _frames(self, name: str, start: int, stop: int) -> NDArray[Any] | EncodedFrames:
        reader = self._stored_reader(name)
        if self._codec(name) != "jpeg":
            return np.asarray(reader.read(start, stop))
        if not hasattr(reader, "blobs"):
            what = f"the frames of '{name}' in {self.store.path} were written by other software"
            raise DataError(explain(what, mend="they cannot be copied unchanged; convert the store's source again"))
        height, width, _ = self.streams[name].shape
        return EncodedFrames((height, width, 3), tuple(reader.blobs(start, stop)))

    def _codec(self, name: str) -> str:
        if name not in self._codecs:
            layout = parse_image(self.rows.arrays[f"data/{name}"])
            self._codecs[name] = "jpeg" if layout is None else layout.codec
        return self._codecs[name]

    def _stored_reader(self, name: str) -> Any:
        """The reader of frames below the live view, in stored rows."""
        frames: Any = self.store.frames(name)
        return getattr(frames, "reader", frames)


def episode_digest(streams: Mapping[str, NDArray[Any] | EncodedFrames]) -> str:
    """SHA-256 of an episode, stream after stream: what its record holds as ``sha256``.

    Over JPEG files as they are, and over numbers and the pixels of all other frames in little-endian order.
    """
    digest = hashlib.sha256()
    for values in streams.values():
        if isinstance(values, EncodedFrames):
            for blob in values.blobs:
                digest.update(blob)
        else:
            digest.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def store_name(store: StoreContents) -> str:
    """Last part of a store's path or address."""
    return store.path.resolve().name if isinstance(store.path, Path) else str(store.path).rstrip("/").rpartition("/")[2]
