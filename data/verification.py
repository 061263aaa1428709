"""Reading everything back: every checksum, every episode's SHA-256, and the chain that ties them to the commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.columns import read_column
from robopolicy.data.convert.source import Finding
from robopolicy.data.layout import ENDS, RECORDS, parse_column, parse_image
from robopolicy.data.snapshot import json_bytes
from robopolicy.data.zarr_fallback import read_through_zarr
from robopolicy.errors import DataError, explain

if TYPE_CHECKING:
    from robopolicy.data.contents import StoreContents

__all__ = ["DESCRIPTION", "verify_store"]

DESCRIPTION = (
    "format",
    "schema_version",
    "task",
    "fps",
    "embodiment",
    "embodiment_hash",
    "streams",
    "environment_state",
    "cameras",
)
"""Attributes that the chain of hashes begins with; they never change after the store was created."""
_FRAMES_AT_ONCE = 64


def verify_store(store: StoreContents, episodes: Iterable[int] | None = None) -> Iterator[Finding]:
    """Everything that is wrong with the stored bytes; nothing at all for a sound store.

    Args:
        store: To read.
        episodes: Stored indices (deleted episodes count); all when None, and then the chain of hashes too.

    Yields:
        Findings of kind ``checksum``, severity ``error``: the episode's number, and the stream where one cannot be
        read.

    Raises:
        StorageError: a server does not answer.
    """
    try:
        ends, records = _column(store, ENDS), _column(store, RECORDS).tobytes().splitlines(keepends=True)
    except DataError as error:
        yield Finding("checksum", str(error), "error")
        return
    total = len(ends)
    if len(records) != total or (total and ends[-1] != store.snapshot.num_steps) or (np.diff(ends) <= 0).any():
        given = {"ends": total, "records": len(records), "rows": store.snapshot.num_steps}
        yield Finding("checksum", explain("episode ends, records and rows contradict each other", given=given), "error")
        return
    if episodes is None:
        yield from _chain(store, records)
    columns: dict[str, NDArray[Any] | None] = {}
    for index in range(total) if episodes is None else episodes:
        if not 0 <= index < total:
            raise DataError(explain("no such episode", given=index, allowed=f"0 to {total - 1}"))
        start = int(ends[index - 1]) if index else 0
        yield from _episode(store, index, start, int(ends[index]), records[index], columns)


def _chain(store: StoreContents, records: list[bytes]) -> Iterator[Finding]:
    attributes = store.snapshot.attributes
    chain = hashlib.sha256(json_bytes({k: attributes[k] for k in DESCRIPTION if k in attributes})).hexdigest()
    for record in records:
        chain = hashlib.sha256(chain.encode() + record).hexdigest()
    stated = attributes["committed"]["content_hash"]
    if chain != stated:
        message = explain("description or records are not those that were committed", given=chain, allowed=stated)
        yield Finding("checksum", message, "error")


def _episode(
    store: StoreContents,
    index: int,
    start: int,
    stop: int,
    record: bytes,
    columns: dict[str, NDArray[Any] | None],
) -> Iterator[Finding]:
    try:
        entry = json.loads(record.decode())
        length, stated = entry["length"], entry["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        yield Finding("checksum", f"its record is damaged: {error}", "error", str(index), RECORDS)
        return
    if length != stop - start:
        message = explain("its record states another length", given=length, allowed=stop - start)
        yield Finding("checksum", message, "error", str(index), RECORDS)
    digest, readable = hashlib.sha256(), True
    for stream in store.streams:
        try:
            for part in _stored(store, stream, start, stop, columns):
                digest.update(part)
        except DataError as error:
            readable = False
            yield Finding("checksum", str(error), "error", str(index), stream)
    if readable and digest.hexdigest() != stated:
        message = explain("its bytes are not those that were committed", given=digest.hexdigest(), allowed=stated)
        yield Finding("checksum", message, "error", str(index))


def _stored(
    store: StoreContents, stream: str, start: int, stop: int, columns: dict[str, NDArray[Any] | None]
) -> Iterator[bytes]:
    """What the writer took the SHA-256 of, see :func:`robopolicy.data.writer.stored_form`.

    ``columns`` keeps low-dimensional streams that could be read as a whole; of one that could not, each episode's rows
    are read by themselves, so that only those of a damaged chunk are reported.
    """
    if not store.streams[stream].image:
        name = f"data/{stream}"
        if stream not in columns:
            try:
                columns[stream] = _column(store, name)
            except DataError:
                columns[stream] = None
        whole = columns[stream]
        rows = _column(store, name, start, stop) if whole is None else whole[start:stop]
        yield np.ascontiguousarray(rows).tobytes()
        return
    reader: Any = store.stored_frames(stream)
    layout = parse_image(store.snapshot.arrays[f"data/{stream}"])
    for first in range(start, stop, _FRAMES_AT_ONCE):
        last = min(first + _FRAMES_AT_ONCE, stop)
        if layout is not None and layout.codec == "jpeg":
            yield from reader.blobs(first, last)
        else:
            yield np.ascontiguousarray(reader.read(first, last)).tobytes()


def _column(store: StoreContents, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    document = store.snapshot.arrays[name]
    layout = parse_column(document)
    if layout is None:
        return read_through_zarr(store.files, name, document["shape"][0])[start:stop]
    return read_column(store.files.within(name), layout, start, layout.rows if stop is None else stop)
