"""The one writer of a store: stages an episode, writes its files, and commits by replacing one small file.

Order of one append, each step durable before the next begins:

1. validate and encode everything in memory;
2. write the new and the changed chunk files (each beside its old self, then renamed over it). Rows that were committed
   keep their bytes, so readers of the old commit notice nothing;
3. replace the root ``zarr.json``. **This rename is the commit.**

Killed before 3, the store holds the old commit, and what lies beyond its last row is overwritten by the next append.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import check_jpeg_end
from robopolicy.data.columns import ColumnTail, read_column
from robopolicy.data.durable import TEMPORARY_SUFFIX, WriterLock, sync_folders, write_atomically
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.data.layout import (
    ENDS,
    RECORDS,
    ColumnLayout,
    ImageLayout,
    column_metadata,
    image_metadata,
    parse_column,
    parse_image,
)
from robopolicy.data.shard import ImageTail, decode_frames, encode_frames
from robopolicy.data.snapshot import ROOT_FILE, Snapshot, json_bytes, record_bytes, strict_json
from robopolicy.data.statistics import RowSample, RunningMoments, Statistics, row_keys, sampled_rows
from robopolicy.data.tombstones import check_tombstones, dead_rows
from robopolicy.errors import DataError, StorageError, explain

__all__ = ["CheckedEpisode", "StoreWriter", "stored_form"]

Tail = ColumnTail | ImageTail
CheckedEpisode = tuple[Episode, Mapping[str, NDArray[Any] | EncodedFrames]]
"""An episode and its streams as ``check_episode`` returned them."""


class StoreWriter:
    """Holds the lock, the unfinished last chunk of every array, and the running statistics."""

    def __init__(self, path: Path, snapshot: Snapshot, lock: WriterLock):
        """Continue after ``snapshot``; the lock must have been taken before the snapshot was read.

        Raises:
            DataError: the store was laid out by other software, or a file of it is damaged.
        """
        self.path, self.lock = path, lock
        for left in path.rglob("*" + TEMPORARY_SUFFIX):
            left.unlink()
        self.snapshot = snapshot
        self._tails = {name: _tail(path / name, name, document) for name, document in snapshot.arrays.items()}
        self._moments, self._sample = self._restore()
        self._unsure = False

    def close(self) -> None:
        """Bring every array's own ``zarr.json`` up to the commit (for tools that open one array); free the lock."""
        if self._unsure or not self.lock.held:
            self.lock.release()
            return
        try:
            for name, tail in self._tails.items():
                write_atomically(self.path / name / ROOT_FILE, [json_bytes(_document(tail))])
        finally:
            self.lock.release()

    def append(self, episodes: Sequence[CheckedEpisode]) -> None:
        """Commit checked episodes together; afterwards ``snapshot`` includes all of them.

        The store is the same, to the bit, as after appending them one by one.

        Raises:
            StorageError: the disk refused, and neither the store nor this writer has changed; or this handle may not
                write any more.
        """
        self._require_sure()
        start = stop = self.snapshot.num_steps
        chain = str(self.snapshot.attributes["committed"]["content_hash"])
        added: dict[str, list[Any]] = {name: [] for name in self._tails}
        moments = dict(self._moments)
        for episode, streams in episodes:
            digest = hashlib.sha256()
            for name, values in streams.items():
                stored, hashed = stored_form(self._tails[f"data/{name}"].layout, values)
                for part in hashed:
                    digest.update(part)
                added[f"data/{name}"].append(stored)
            length = len(streams["time_ns"])
            stop += length
            record = self._record(episode, length, digest.hexdigest())
            chain = hashlib.sha256(chain.encode() + record).hexdigest()
            added[ENDS].append(np.array([stop], np.int64))
            added[RECORDS].append(np.frombuffer(record, np.uint8))
            for name in moments:
                moments[name] = moments[name].merge(RunningMoments.of(np.asarray(streams[name])))
        tails, files = dict(self._tails), {}
        for name, tail in self._tails.items():
            tails[name], written = _extended(tail, added[name])
            files.update(written)
        sample = self._sample.extended(start, {name: np.concatenate(added[f"data/{name}"]) for name in moments})
        count = self.snapshot.num_episodes + len(episodes)
        committed = {"num_episodes": count, "num_steps": stop, "content_hash": chain}
        self._commit(files, tails, committed, moments, sample)

    def recompute_statistics(self) -> None:
        """Rebuild the statistics from the data, block by block, and commit them.

        Raises:
            StorageError, DataError: as when writing and reading.
        """
        self._require_sure()
        self._rewrite_record(self.snapshot.attributes)

    def set_tombstones(self, episodes: Sequence[int]) -> None:
        """Hide exactly these stored episodes from readers, and commit statistics of the others.

        Args:
            episodes: Stored indices in rising order; none shows every episode again.

        Raises:
            DataError: no such episodes.
            StorageError: the disk refused, and nothing has changed.
        """
        self._require_sure()
        check_tombstones(list(episodes), self.snapshot.num_episodes)
        others = {k: v for k, v in self.snapshot.attributes.items() if k != "tombstones"}
        self._rewrite_record({**others, "tombstones": list(episodes)} if episodes else others)

    def _rewrite_record(self, attributes: dict[str, Any]) -> None:
        """Commit ``attributes`` with statistics that are made from the data anew; no row is written."""
        dead = self._dead_rows(attributes.get("tombstones", []))
        moments = {}
        for name in self._moments:
            tail = self._tails[f"data/{name}"]
            assert isinstance(tail, ColumnTail)
            merged = RunningMoments.empty(tail.layout.width[0])
            for start in range(0, tail.layout.rows, tail.layout.chunk_rows):
                stop = min(start + tail.layout.chunk_rows, tail.layout.rows)
                rows = read_column(tail.folder, tail.layout, start, stop)
                rows = rows if dead is None else rows[~dead[start:stop]]
                merged = merged.merge(RunningMoments.of(rows)) if len(rows) else merged
            moments[name] = merged
        sample = self._sampled(list(moments), dead)
        self._commit({}, self._tails, attributes["committed"], moments, sample, attributes)

    def _dead_rows(self, tombstones: Sequence[int]) -> NDArray[np.bool_] | None:
        if not tombstones:
            return None
        tail = self._tails[ENDS]
        assert isinstance(tail, ColumnTail)
        return dead_rows(read_column(tail.folder, tail.layout, 0, tail.layout.rows), tombstones)

    def _sampled(self, streams: Sequence[str], dead: NDArray[np.bool_] | None) -> RowSample:
        """The quantile sample of what is committed, read from the data."""
        rows = sampled_rows(self.snapshot.num_steps, dead)
        tails = {name: self._tails[f"data/{name}"] for name in streams}
        kept = {name: _pick(tail, rows) for name, tail in tails.items() if isinstance(tail, ColumnTail)}
        return RowSample(row_keys(0, self.snapshot.num_steps)[rows] if len(rows) else row_keys(0, 0), kept)

    def _commit(
        self,
        files: Mapping[Path, list[bytes]],
        tails: dict[str, Tail],
        committed: Mapping[str, Any],
        moments: dict[str, RunningMoments],
        sample: RowSample,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        for file, parts in files.items():
            write_atomically(file, parts)
        sync_folders(file.parent for file in files)
        statistics = {}
        for name, moment in moments.items():
            if moment.count:
                statistics[name] = {**moment.statistics(sample.rows[name]).to_dict(), "m2": moment.m2.tolist()}
        base = self.snapshot.attributes if attributes is None else attributes
        attributes = {**base, "committed": dict(committed), "statistics": statistics}
        arrays = {name: _document(tail) for name, tail in tails.items()}
        self._unsure = True
        try:
            write_atomically(self.path / ROOT_FILE, [record_bytes(attributes, arrays)])
        except StorageError:
            self._unsure = False
            raise
        self.snapshot = replace(self.snapshot, attributes=attributes, arrays=arrays)
        self._tails, self._moments, self._sample = tails, moments, sample
        self._unsure = False
        sync_folders([self.path])

    def _require_sure(self) -> None:
        """Refuse after a Ctrl-C inside the commit, when memory and disk may differ by one episode, and after a fork."""
        if self._unsure or not self.lock.held:
            why = "was interrupted inside a commit" if self._unsure else "belongs to the parent process"
            raise StorageError(
                explain(f"this handle on {self.path} {why}", mend="close it and open the store again with mode='a'")
            )

    def _restore(self) -> tuple[dict[str, RunningMoments], RowSample]:
        """Running statistics as they stood at the commit: moments from the record, the sample from the data."""
        stored = self.snapshot.attributes.get("statistics", {})
        moments = {}
        for name, tail in self._tails.items():
            stream = name.removeprefix("data/")
            if not (name.startswith("data/") and isinstance(tail, ColumnTail) and tail.layout.dtype == "float32"):
                continue
            moments[stream] = RunningMoments.empty(tail.layout.width[0])
            if stream in stored and "m2" in stored[stream]:
                s = Statistics.from_dict(stored[stream])
                m2 = np.asarray(stored[stream]["m2"], np.float64)
                moments[stream] = RunningMoments(s.count, s.min, s.max, s.mean, m2)
        return moments, self._sampled(list(moments), self._dead_rows(self.snapshot.tombstones))

    @staticmethod
    def _record(episode: Episode, length: int, digest: str) -> bytes:
        entry = {
            "length": length,
            "success": None if episode.success is None else bool(episode.success),
            "language": episode.language,
            "metadata": episode.metadata,
            "sha256": digest,
        }
        return json_bytes(strict_json(entry)) + b"\n"


def _tail(folder: Path, name: str, document: Mapping[str, Any]) -> Tail:
    column, image = parse_column(document), parse_image(document)
    if column is not None:
        return ColumnTail.open(folder, column)
    if image is not None:
        return ImageTail.open(folder, image)
    raise DataError(
        explain(
            f"{folder} is laid out differently from what this version writes",
            given=json.dumps(document.get("codecs")),
            mend=f"read it with mode='r' and append its episodes to a new store ('{name}')",
        )
    )


def _document(tail: Tail) -> dict[str, Any]:
    return column_metadata(tail.layout) if isinstance(tail, ColumnTail) else image_metadata(tail.layout)


def stored_form(
    layout: ColumnLayout | ImageLayout, values: NDArray[Any] | EncodedFrames
) -> tuple[NDArray[Any] | list[bytes], list[bytes]]:
    """(rows or the bytes of each frame, what an episode's SHA-256 is taken of).

    That is the values as they are stored, and the pixels of losslessly compressed frames, because the compressed bytes
    depend on the compressor's version.
    """
    if isinstance(layout, ColumnLayout):
        assert not isinstance(values, EncodedFrames)
        return values, [np.ascontiguousarray(values).tobytes()]
    if isinstance(values, EncodedFrames):
        if layout.codec == "jpeg":
            for blob in values.blobs:
                check_jpeg_end(blob, values.frame)
            return list(values.blobs), list(values.blobs)
        values = decode_frames(values)
    blobs = encode_frames(values, layout.codec)
    return blobs, encode_frames(values, "raw") if layout.codec == "blosc" else blobs


def _extended(tail: Tail, added: list[Any]) -> tuple[Tail, dict[Path, list[bytes]]]:
    """(new tail, files to write) after the stored forms of several episodes."""
    if isinstance(tail, ColumnTail):
        return tail.extended(np.concatenate(added) if added else tail.tail[:0])
    return tail.extended([blob for blobs in added for blob in blobs])


def _pick(tail: ColumnTail, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given sorted rows of a committed array, chunk by chunk."""
    size = tail.layout.chunk_rows
    parts = [np.empty((0, *tail.layout.width), tail.layout.dtype)]
    for start in range(0, tail.layout.rows, size):
        stop = min(start + size, tail.layout.rows)
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)]
        parts.append(read_column(tail.folder, tail.layout, start, stop)[inside - start])
    return np.concatenate(parts)
