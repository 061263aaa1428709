"""Reads the black box of the daemon: MCAP files whose binary channels describe their own records.

A binary channel carries a schema of encoding ``x-numpy-dtype``: JSON rows ``[name, format, shape]`` of the fixed-size
record that every message is. Nothing here needs the daemon. A file that was cut, because the logger or the machine
died, is read up to where it ends; what is lost is at most the chunk that was being written.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, MissingDependencyError, explain

__all__ = [
    "PROFILE",
    "RUN",
    "BlackBoxLog",
    "Logged",
    "describe_dtype",
    "dtype_of",
    "find_logs",
    "is_blackbox",
    "sessions",
]

PROFILE = "robopolicy.blackbox"
RUN = "robopolicy.run"
"""Name of the metadata record: configuration, card, hashes and versions of the run."""
STRUCT_ENCODING, DTYPE_ENCODING = "x-robopolicy-record", "x-numpy-dtype"
MAGIC = b"\x89MCAP0\r\n"
DUMP = "fault-"
"""Files that begin so repeat the last minute before a fault; they are not part of the sequence."""
_FORMAT = re.compile(r"\|[bu]1|<[iuf][248]|\|S\d{1,4}|\|u1|\|b1")
_MOST_FIELDS, _MOST_BYTES = 256, 1 << 26


def describe_dtype(dtype: np.dtype[Any]) -> str:
    """JSON of a structured dtype without padding."""
    assert dtype.names is not None
    assert dtype.fields is not None
    rows = []
    for name in dtype.names:
        base, shape = dtype.fields[name][0].base, dtype.fields[name][0].shape
        rows.append([name, base.str, list(shape)])
    return json.dumps({"dtype": rows})


def dtype_of(text: str | bytes) -> np.dtype[Any]:
    """Inverse of :func:`describe_dtype`; accepts booleans, integers, floats and byte strings only.

    Raises:
        DataError: anything else.
    """
    try:
        rows = json.loads(text)["dtype"]
        fields = [(str(name), str(form), tuple(int(n) for n in shape)) for name, form, shape in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(explain(f"the description of a binary channel cannot be read: {error}")) from error
    wrong = [f for f in fields if not _FORMAT.fullmatch(f[1]) or any(n < 0 for n in f[2])]
    if wrong or len(fields) > _MOST_FIELDS or len({f[0] for f in fields}) != len(fields):
        raise DataError(explain("a binary channel with fields that are not plain numbers", given=wrong or len(fields)))
    size = sum(np.dtype(form).itemsize * int(np.prod(shape, dtype=object)) for _, form, shape in fields)
    if not 0 < size <= _MOST_BYTES:
        raise DataError(explain("a binary channel with records of an absurd size", given=size, allowed=_MOST_BYTES))
    return np.dtype(fields)


def is_blackbox(path: Path) -> bool:
    """Whether a file begins as a black box does."""
    with path.open("rb") as stream:
        head = stream.read(64)
    return head.startswith(MAGIC) and PROFILE.encode() in head


def find_logs(path: Path) -> tuple[Path, ...]:
    """The black box files of a path: itself, or those in the folder or its ``blackbox`` folder, dumps left out."""
    if path.is_file():
        return (path,) if is_blackbox(path) else ()
    if not path.is_dir():
        return ()
    folder = path / "blackbox" if (path / "blackbox").is_dir() else path
    return tuple(p for p in sorted(folder.glob("*.mcap")) if not p.name.startswith(DUMP) and is_blackbox(p))


@dataclass
class Logged:
    """The messages of one topic in order.

    Attributes:
        dtype: Of binary records; None for JSON.
        numbers: Sequence number of each message.
        log_ns: Wall time of each message.
        data: Bytes of each message.
    """

    dtype: np.dtype[Any] | None
    numbers: list[int] = field(default_factory=list)
    log_ns: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)

    def records(self) -> NDArray[Any]:
        """Binary messages as a structured array, by rising number, each number once.

        Raises:
            DataError: not a binary channel, or records of another size.
        """
        if self.dtype is None:
            raise DataError(explain("this channel is JSON"))
        if any(len(d) != self.dtype.itemsize for d in self.data):
            raise DataError(explain("a record of another size than its description", allowed=self.dtype.itemsize))
        found = np.frombuffer(b"".join(self.data), self.dtype)
        _, first = np.unique(np.array(self.numbers, np.int64), return_index=True)
        return found[first]

    def unique_numbers(self) -> NDArray[np.int64]:
        """Numbers of :meth:`records`."""
        return np.unique(np.array(self.numbers, np.int64))

    def objects(self) -> list[Any]:
        """JSON messages."""
        return [json.loads(d) for d in self.data]


class BlackBoxLog:
    """One session of the daemon: one or several files, read as one.

    Args:
        paths: Files of the same session, in order; see :func:`sessions`.
        topics: What to keep; None keeps everything.

    Attributes:
        run: Metadata of the run, see ``docs/blackbox.md``.
        topics: Topic -> messages.
        endings: File name -> "complete", or why it ends where it does.

    Raises:
        DataError: not a black box, or of another format version.
    """

    def __init__(self, paths: Sequence[Path], topics: Sequence[str] | None = None):
        self.paths = tuple(paths)
        self.run: dict[str, Any] = {}
        self.topics: dict[str, Logged] = {}
        self.endings: dict[str, str] = {}
        for path in self.paths:
            self._read(path, None if topics is None else set(topics))
        if not self.run:
            raise DataError(
                explain(
                    f"no black box in {[p.name for p in self.paths]}",
                    given=self.endings,
                    mend="name a .mcap file written by robopolicy deploy, or the run folder of a daemon",
                )
            )

    @property
    def card(self) -> Embodiment:
        """The robot's card as it was then."""
        return Embodiment.from_dict(self.run["card"])

    def records(self, topic: str) -> NDArray[Any]:
        """Records of a binary topic; an empty array where there are none."""
        found = self.topics.get(topic)
        return np.empty(0, []) if found is None else found.records()

    def _read(self, path: Path, wanted: set[str] | None) -> None:
        channels: dict[int, Logged | None] = {}
        schemas: dict[int, Any] = {}
        self.endings[path.name] = "complete"
        for record in _prefix(path, self.endings):
            kind = type(record).__name__
            if kind == "Message":
                logged = channels.get(record.channel_id)
                if logged is not None:
                    logged.numbers.append(record.sequence)
                    logged.log_ns.append(record.log_time)
                    logged.data.append(bytes(record.data))
            elif kind == "Schema":
                schemas[record.id] = record
            elif kind == "Channel" and record.id not in channels:
                channels[record.id] = self._channel(record, schemas, wanted)
            elif kind == "Metadata" and record.name == RUN and not self.run:
                self.run = {key: _value(text) for key, text in record.metadata.items()}

    def _channel(self, record: Any, schemas: dict[int, Any], wanted: set[str] | None) -> Logged | None:
        if wanted is not None and record.topic not in wanted:
            return None
        schema = schemas.get(record.schema_id)
        binary = schema is not None and schema.encoding == DTYPE_ENCODING
        dtype = dtype_of(schema.data) if binary else None  # type: ignore[union-attr]
        logged = self.topics.setdefault(record.topic, Logged(dtype))
        if logged.dtype != dtype:
            raise DataError(
                explain(f"the files of one session describe {record.topic} differently", mend="read them one by one")
            )
        return logged


def sessions(path: Path) -> list[tuple[Path, ...]]:
    """The files of a path by session of the daemon, in order of time; numbering begins anew with each.

    Raises:
        DataError: no black box there.
    """
    files = find_logs(path)
    if not files:
        raise DataError(
            explain(
                f"no black box at {path}",
                mend="name a .mcap file written by robopolicy deploy, or the run folder of a daemon",
            )
        )
    found: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        head = _head(file)
        if head:
            found.setdefault(str(head["session"]), []).append((int(head["opened_ns"]), file))
    ordered = sorted(found.values(), key=lambda group: min(p.name for _, p in group))
    return [tuple(p for _, p in sorted(group)) for group in ordered]


def _head(path: Path) -> dict[str, Any]:
    for record in _prefix(path, {}):
        if type(record).__name__ == "Metadata" and record.name == RUN:
            return {key: _value(text) for key, text in record.metadata.items()}
        if type(record).__name__ == "Message":
            break
    return {}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _prefix(path: Path, endings: dict[str, str]) -> Iterator[Any]:
    """Records of a file until it ends or is damaged."""
    try:
        from mcap.exceptions import McapError
        from mcap.stream_reader import StreamReader
    except ImportError as error:
        raise MissingDependencyError(
            explain("black boxes need the package mcap", mend="pip install 'robopolicy[deploy]'")
        ) from error
    damage: list[type[Exception]] = [McapError, ValueError, EOFError, OSError, struct.error, zlib.error, RuntimeError]
    damage += [KeyError, IndexError, OverflowError, MemoryError]
    try:
        import zstandard

        damage.append(zstandard.ZstdError)
    except ImportError:
        pass
    with path.open("rb") as stream:
        reader = StreamReader(stream, validate_crcs=True)
        records = iter(reader.records)
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except tuple(damage) as error:
                endings[path.name] = f"cut: {type(error).__name__}"
                return
            yield record
