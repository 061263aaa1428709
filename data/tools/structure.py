"""Is a store what its commit record says: array documents, files, ends, records, content hash. Reads no frame."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.contents import StoreContents
from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import TEMPORARY_SUFFIX
from robopolicy.data.layout import ENDS, RECORDS, parse_column, parse_image
from robopolicy.data.snapshot import ROOT_FILE, Snapshot, json_bytes
from robopolicy.data.tools.copying import planned_episodes
from robopolicy.data.tools.reading import RowReader
from robopolicy.errors import DataError

__all__ = ["Skeleton", "check_skeleton", "check_structure", "content_hash"]

_RECORD_TYPES = {"length": int, "success": bool, "language": str, "metadata": dict, "sha256": str}


class Skeleton:
    """Ends and records of a store as they stand on disk, read apart so that damage of one leaves the other.

    Attributes:
        ends: int64 [E], stored, or None when unreadable or contradictory.
        lines: Bytes of each record, or None when unreadable.
        records: Of the stored episodes, or None.
    """

    def __init__(self, snapshot: Snapshot, rows: RowReader):
        """Read both; what cannot be read is None, and :func:`check_skeleton` says why."""
        self.problems: list[Finding] = []
        count, steps = snapshot.num_episodes, snapshot.num_steps
        self.lines = self._lines(snapshot, rows)
        self.records = self._records(count)
        self.ends = self._ends(count, steps, rows)

    @property
    def spans(self) -> NDArray[np.int64] | None:
        """int64 [E, 2]: stored rows of every stored episode, from the ends or else from the records' lengths."""
        ends = self.ends
        if ends is None:
            if self.records is None:
                return None
            ends = np.cumsum([r["length"] for r in self.records]).astype(np.int64)
        return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)

    def _lines(self, snapshot: Snapshot, rows: RowReader) -> list[bytes] | None:
        try:
            length = int(snapshot.arrays[RECORDS]["shape"][0])
            return rows.read(RECORDS, 0, length).tobytes().splitlines(keepends=True)
        except DataError as error:
            self.problems.append(Finding("records", f"the episode records cannot be read: {error}", "error"))
            return None

    def _records(self, count: int) -> list[dict[str, Any]] | None:
        if self.lines is None:
            return None
        if len(self.lines) != count:
            message = f"{len(self.lines)} episode records for {count} committed episodes"
            self.problems.append(Finding("records", message, "error"))
            return None
        records = []
        for number, line in enumerate(self.lines):
            try:
                record = json.loads(line)
                faulty = [k for k, kind in _RECORD_TYPES.items() if not isinstance(record.get(k), kind)]
            except (ValueError, AttributeError, RecursionError) as error:
                record, faulty = {}, [str(error)]
            if faulty:
                message = f"the record is damaged: {faulty}"
                self.problems.append(Finding("records", message, "error", episode=str(number)))
                return None
            records.append(record)
        return records

    def _ends(self, count: int, steps: int, rows: RowReader) -> NDArray[np.int64] | None:
        repair = "episode_ends" if self.records is not None else ""
        try:
            ends = rows.read(ENDS, 0, count).astype(np.int64)
        except DataError as error:
            message = f"the episode ends cannot be read: {error}"
            self.problems.append(Finding("episode_ends", message, "error", repair=repair))
            return None
        lengths = np.diff(ends, prepend=0)
        wrong = np.flatnonzero(lengths <= 0)
        if len(wrong):
            message = f"the episode ends do not rise at episode {int(wrong[0])}"
            self.problems.append(Finding("episode_ends", message, "error", repair=repair))
            return None
        if (int(ends[-1]) if count else 0) != steps:
            message = f"the last episode ends at row {int(ends[-1])} of {steps}"
            self.problems.append(Finding("episode_ends", message, "error", repair=repair))
            return None
        if self.records is not None:
            stated = np.array([r["length"] for r in self.records], np.int64)
            differ = np.flatnonzero(stated != lengths)
            if len(differ):
                i = int(differ[0])
                message = (
                    f"{len(differ)} records state another length, episode {i}: {stated[i]}, its rows: {lengths[i]}"
                )
                self.problems.append(Finding("episode_ends", message, "error", repair=repair))
                return None
        return ends


def check_skeleton(skeleton: Skeleton, snapshot: Snapshot) -> Iterator[Finding]:
    """What is wrong with ends and records, and whether the content hash is theirs."""
    yield from skeleton.problems
    if skeleton.lines is None:
        return
    stated = snapshot.attributes["committed"]["content_hash"]
    if content_hash(snapshot.attributes, skeleton.lines) != stated:
        message = "the content hash is not that of description and records: a record was altered"
        yield Finding("content_hash", message, "error")


def content_hash(attributes: Mapping[str, Any], lines: list[bytes]) -> str:
    """The chain of hashes that a writer makes: description of the empty store, then every record.

    Args:
        attributes: Of the root group; the description stands before ``provenance``.
        lines: Bytes of every stored record, with their line ends.
    """
    description = dict(takewhile(lambda item: item[0] != "provenance", attributes.items()))
    chain = hashlib.sha256(json_bytes(description)).hexdigest()
    for line in lines:
        chain = hashlib.sha256(chain.encode() + line).hexdigest()
    return chain


def check_structure(store: StoreContents, snapshot: Snapshot) -> Iterator[Finding]:
    """The record against array documents and files, and what a user should know of the store as a whole."""
    folder = Path(str(store.path))
    if folder.is_dir():
        for name, document in snapshot.arrays.items():
            yield from _check_array(folder / name, name, document)
        left = sum(1 for _ in folder.rglob("*" + TEMPORARY_SUFFIX))
        if left:
            message = f"{left} half-written files of a writer that was killed; the next writer removes them"
            yield Finding("leftover", message, "note")
    if snapshot.tombstones:
        message = (
            f"{len(snapshot.tombstones)} deleted episodes are still on disk; robopolicy data compact leaves them out"
        )
        yield Finding("tombstones", message, "note")
    planned = planned_episodes(store)
    if planned is not None:
        message = f"an unfinished copy: {store.num_episodes} of {planned} episodes; repeat the command that began it"
        yield Finding("unfinished", message, "error")
    if store.fps != store.embodiment.control_hz:
        message = f"{store.fps:g} rows per second, the card's control rate is {store.embodiment.control_hz:g} Hz"
        yield Finding("rate", message, "note")
    cards = {camera.name: (camera.height, camera.width) for camera in store.embodiment.cameras}
    for name, entry in store.attributes["cameras"].items():
        size = (entry["height"], entry["width"])
        if name in cards and cards[name] != size:
            message = f"camera '{name}' is recorded at {size}, the card says {cards[name]} (height, width)"
            yield Finding("camera_size", message, "note", stream=f"image/{name}")


def _check_array(folder: Path, name: str, document: Mapping[str, Any]) -> Iterator[Finding]:
    stream = name.removeprefix("data/")
    column, image = parse_column(document), parse_image(document)
    layout = column or image
    if layout is None:
        yield Finding(
            "layout", f"'{name}' is laid out by other software; it is read through zarr", "note", stream=stream
        )
        return
    size = column.chunk_rows if column is not None else image.shard_frames if image is not None else 1
    missing = [key for i in range(-(-layout.rows // size)) if not (folder / (key := layout.key(i))).is_file()]
    if missing:
        message = f"{len(missing)} files of '{name}' are missing, the first is {missing[0]}"
        yield Finding("missing_file", message, "error", stream=stream, repair="drop_damaged")
    try:
        own = json.loads((folder / ROOT_FILE).read_bytes())
        rows, inline = own["shape"][0], document["shape"][0]
        same = {**_said(own), "shape": own["shape"][1:]} == {**_said(document), "shape": document["shape"][1:]}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        message = (
            f"the document of '{name}' is damaged ({type(error).__name__}: {error}); readers use the commit record"
        )
        yield Finding("array_document", message, "warning", stream=stream)
        return
    if not same or rows > inline:
        message = f"the document of '{name}' contradicts the commit record, which is what readers use"
        yield Finding("array_document", message, "warning", stream=stream)


def _said(document: Mapping[str, Any]) -> dict[str, Any]:
    keep = ("zarr_format", "node_type", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs")
    return {k: document[k] for k in keep}
