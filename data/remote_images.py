"""Frames of a store behind a URL: the index of each shard once, then only the bytes that are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import JpegDecoder, decode_jpeg
from robopolicy.data.layout import ImageLayout
from robopolicy.data.remote import RemoteFiles
from robopolicy.data.shard import check_rows, decode_frame, frame_payload, index_bytes, parse_index

__all__ = ["RemoteImages"]

_MAX_INDICES = 8192
_GAP_BYTES = 64 << 10
"""Neighbouring frames with less than this between them are fetched together: a request costs more than that."""
_RANGE_BYTES = 8 << 20
_BATCH_BYTES = 64 << 20


class RemoteImages:
    """Same interface as :class:`robopolicy.data.shard.ImageReader`. Safe to use from several threads."""

    def __init__(
        self, files: RemoteFiles, layout: ImageLayout, *, verify: bool = True, decode: JpegDecoder = decode_jpeg
    ):
        """Nothing is fetched yet.

        Args:
            files: Below the array's folder.
            layout: Its metadata; ``rows`` bounds what may be read.
            verify: Check the checksums of indices and frames.
            decode: JPEG decoder.
        """
        self.files, self.layout, self.verify, self.decode = files, layout, verify, decode
        self._indices: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
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
            StorageError: the server does not answer.
        """
        wanted, places = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        order = np.argsort(places, kind="stable")
        edges = np.searchsorted(places[order], np.arange(len(wanted) + 1))
        for i, (row, payload, where) in enumerate(self._payloads(wanted)):
            first, *others = order[edges[i] : edges[i + 1]].tolist()
            decode_frame(payload, out[first], self.layout, self.decode, f"{where}, frame {row}")
            for other in others:
                out[other] = out[first]

    def blobs(self, start: int, stop: int) -> list[bytes]:
        """Stored bytes of frames ``start .. stop`` without their checksums."""
        return [bytes(payload) for _, payload, _ in self._payloads(np.arange(start, stop))]

    def _payloads(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, memoryview, str]]:
        """(frame within its shard, bytes without checksum, name of the shard) for rising ``rows``."""
        check_rows(rows, self.layout)
        shards, frames = np.divmod(rows, self.layout.shard_frames)
        indices = self._indices_of(np.unique(shards).tolist())
        spans = [indices[s][f].tolist() for s, f in zip(shards.tolist(), frames.tolist(), strict=True)]
        places = [(int(s), int(f), start, stop) for s, f, (start, stop) in zip(shards, frames, spans, strict=True)]
        at = 0
        while at < len(places):
            groups, end, total = [], at, 0
            while end < len(places) and total < _BATCH_BYTES:
                group = _neighbours(places, end)
                end, total = end + len(group), total + group[-1][3] - group[0][2]
                groups.append(group)
            yield from self._fetched(groups)
            at = end

    def _fetched(self, groups: list[list[tuple[int, int, int, int]]]) -> Iterator[tuple[int, memoryview, str]]:
        stored = [group for group in groups if group[0][2] >= 0]
        requests = [(self.layout.key(group[0][0]), group[0][2], group[-1][3]) for group in stored]
        answers = iter(self.files.ranges(requests))
        for group in groups:
            where = self.files.where(self.layout.key(group[0][0]))
            memory, base = (memoryview(next(answers)), group[0][2]) if group[0][2] >= 0 else (memoryview(b""), 0)
            for _, frame, start, stop in group:
                part = memory[start - base : stop - base] if start >= 0 else memory
                yield frame, frame_payload(part, self.layout, self.verify, f"{where}, frame {frame}"), where

    def _indices_of(self, shards: list[int]) -> dict[int, NDArray[np.int64]]:
        with self._lock:
            known = {shard: self._indices[shard] for shard in shards if shard in self._indices}
            for shard in known:
                self._indices.move_to_end(shard)
        missing = [shard for shard in shards if shard not in known]
        if missing:
            keys = [self.layout.key(shard) for shard in missing]
            sizes, table = self.files.sizes(keys), index_bytes(self.layout)
            tails = self.files.ranges([(k, max(0, n - table), n) for k, n in zip(keys, sizes, strict=True)])
            for shard, key, size, raw in zip(missing, keys, sizes, tails, strict=True):
                known[shard] = parse_index(raw, size, self.layout, self.files.where(key), self.verify)
            with self._lock:
                self._indices.update({shard: known[shard] for shard in missing})
                while len(self._indices) > _MAX_INDICES:
                    self._indices.popitem(last=False)
        return known


def _neighbours(places: list[tuple[int, int, int, int]], first: int) -> list[tuple[int, int, int, int]]:
    """From ``first`` on, the frames that one request fetches: of one shard, near each other and not too many bytes."""
    shard, _, start, stop = places[first]
    group = [places[first]]
    for place in places[first + 1 :]:
        near = start >= 0 and place[0] == shard and 0 <= place[2] - stop <= _GAP_BYTES
        if not near or place[3] - start > _RANGE_BYTES:
            break
        stop = place[3]
        group.append(place)
    return group
