"""One read episode on its way from a worker process to the writer: a plain file of JSON and bytes, no pickle.

::

    8 bytes    length of the header, little endian
    header     JSON: labels, findings, checks, and per stream dtype and shape (or the sizes of its JPEG files)
    payload    the streams, one after the other, each at a multiple of 64
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import storage_errors
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.errors import DataError, explain

__all__ = ["Prepared", "receive", "send"]

_ALIGN = 64


@dataclass
class Prepared:
    """One episode, ready to be appended, or the reason why there is none.

    Attributes:
        id: Of the source.
        episode: None when it cannot be used.
        findings: Of the converter.
        checks: Of :mod:`robopolicy.data.audit_checks`, plain JSON.
        error: Why it could not be read, empty when it could.
    """

    id: str
    episode: Episode | None
    findings: list[Finding] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def send(prepared: Prepared, path: Path) -> None:
    """Write ``prepared`` to ``path``.

    Raises:
        StorageError: the disk refused.
    """
    header: dict[str, Any] = {
        "id": prepared.id,
        "findings": [dataclasses.asdict(f) for f in prepared.findings],
        "checks": prepared.checks,
        "error": prepared.error,
    }
    payload: list[bytes | memoryview] = []
    if prepared.episode is not None:
        episode = prepared.episode
        streams, offset = {}, 0
        for name, values in episode.streams.items():
            parts, entry = _parts(values)
            streams[name] = {**entry, "offset": offset}
            size = sum(len(part) for part in parts)
            padding = -size % _ALIGN
            payload += [*parts, bytes(padding)]
            offset += size + padding
        header["episode"] = {
            "streams": streams,
            "language": episode.language,
            "success": None if episode.success is None else bool(episode.success),
            "metadata": episode.metadata,
        }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    with storage_errors(path), path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for part in payload:
            stream.write(part)


def receive(path: Path) -> Prepared:
    """Read what :func:`send` wrote; arrays are views of the mapped file, which may be unlinked at once.

    Raises:
        DataError: the file is cut.
    """
    with path.open("rb") as stream:
        data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(bytes(data[8:start]))
        entry = header.get("episode")
        streams = {n: _values(data[start + e["offset"] :], e) for n, e in entry["streams"].items()} if entry else {}
    except (ValueError, KeyError) as error:
        raise DataError(explain(f"{path} was cut on its way: {error}", mend="run the conversion again")) from error
    episode = Episode(streams, entry["language"], entry["success"], entry["metadata"]) if entry else None
    findings = [Finding(**f) for f in header["findings"]]
    return Prepared(header["id"], episode, findings, header["checks"], header["error"])


def _parts(values: NDArray[Any] | EncodedFrames) -> tuple[list[bytes | memoryview], dict[str, Any]]:
    if isinstance(values, EncodedFrames):
        return list(values.blobs), {"jpeg": list(values.frame), "lengths": [len(b) for b in values.blobs]}
    array = np.ascontiguousarray(values)
    raw = memoryview(array.reshape(-1).view(np.uint8).data) if array.size else memoryview(b"")
    return [raw], {"dtype": array.dtype.str, "shape": list(array.shape)}


def _values(data: memoryview, entry: dict[str, Any]) -> NDArray[Any] | EncodedFrames:
    if "jpeg" in entry:
        ends = np.cumsum([0, *entry["lengths"]]).tolist()
        height, width, channels = entry["jpeg"]
        if ends[-1] > len(data):
            raise ValueError("frames are missing")
        blobs = tuple(bytes(data[a:b]) for a, b in itertools.pairwise(ends))
        return EncodedFrames((height, width, channels), blobs)
    count = int(np.prod(entry["shape"], dtype=np.int64))
    return np.frombuffer(data, np.dtype(entry["dtype"]), count).reshape(entry["shape"])
