"""Frames between robopolicy and a benchmark's own process: a small JSON header and raw buffers, nothing that executes.

::

    "RPB1" | u32 header bytes | u64 payload bytes | header (UTF-8 JSON) | buffers, C order, one after another
    header = {"kind": "step", "id": 7, "body": {...}, "arrays": [["action", "<f4", [4]], ...]}

Numbers are little-endian. Both ends refuse what is too large, of another dtype, or longer or shorter than announced.
This file runs in the benchmark's environment too, so it needs the standard library and numpy only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "DTYPES",
    "HEADER_LIMIT",
    "MAGIC",
    "PAYLOAD_LIMIT",
    "PROTOCOL",
    "Channel",
    "ClosedError",
    "DeadlineError",
    "Message",
    "WireError",
]

PROTOCOL = 1
"""Number that both ends name in ``hello``; they refuse each other when it differs."""
MAGIC = b"RPB1"
HEADER_LIMIT = 1 << 20
"""Bytes of a header."""
PAYLOAD_LIMIT = 1 << 26
"""Bytes of all buffers of one frame: a few dozen pictures."""
ARRAY_LIMIT = 64
DTYPES = ("<f4", "<f8", "|u1", "<i4", "<i8", "|b1")
"""Dtypes that may travel, as numpy writes them."""

_PREFIX = struct.Struct("<4sIQ")


class WireError(ValueError):
    """What arrived, or was to be sent, is no frame of this protocol."""


class ClosedError(WireError):
    """The other end has gone."""


class DeadlineError(WireError):
    """The other end did not answer in time."""


@dataclass(frozen=True)
class Message:
    """One frame.

    Attributes:
        kind: Command, or ``ok`` or ``error``.
        id: Number that an answer repeats.
        body: JSON values; floats are finite.
        arrays: Name -> array of one of :data:`DTYPES`.
    """

    kind: str
    id: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The bytes of the frame.

        Raises:
            WireError: too large, a dtype that may not travel, or a body that is not strict JSON.
        """
        buffers, described = [], []
        for name, value in self.arrays.items():
            # not ascontiguousarray, which would make a scalar a vector
            array = np.asarray(value, order="C")
            if array.dtype.str not in DTYPES:
                raise WireError(f"array '{name}' has dtype {array.dtype}, which may not travel; allowed: {DTYPES}")
            described.append([name, array.dtype.str, list(array.shape)])
            buffers.append(array.tobytes())
        try:
            header = json.dumps(
                {"kind": self.kind, "id": self.id, "body": dict(self.body), "arrays": described}, allow_nan=False
            ).encode()
        except (TypeError, ValueError) as error:
            raise WireError(f"the body of '{self.kind}' is not strict JSON: {error}") from error
        payload = sum(map(len, buffers))
        _check_sizes(len(header), payload, len(buffers))
        return b"".join([_PREFIX.pack(MAGIC, len(header), payload), header, *buffers])

    @classmethod
    def decode(cls, header: bytes, payload: bytes) -> Message:
        """Inverse of :meth:`encode`, after the prefix.

        Raises:
            WireError: anything but a whole, consistent frame.
        """
        try:
            found = json.loads(header.decode(), parse_constant=_refuse_constant)
            kind, number, body, described = (found[key] for key in ("kind", "id", "body", "arrays"))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise WireError(f"a header that cannot be read: {type(error).__name__}: {error}") from error
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not (isinstance(kind, str) and whole and isinstance(body, dict) and isinstance(described, list)):
            raise WireError("a header with entries of the wrong type")
        _check_sizes(len(header), len(payload), len(described))
        return cls(kind, number, body, _arrays(described, payload))


def _arrays(described: list[Any], payload: bytes) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for entry in described:
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and entry[1] in DTYPES):
            raise WireError(f"an array that is not described as name, dtype, shape: {str(entry)[:80]}")
        name, dtype, shape = entry
        fits = isinstance(shape, list) and len(shape) <= 4
        if not (fits and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)):
            raise WireError(f"array '{name}' has no usable shape: {str(shape)[:80]}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name in arrays or at + size > len(payload):
            raise WireError(f"array '{name}' comes twice, or is longer than the frame")
        arrays[name] = np.frombuffer(payload, dtype, math.prod(shape), at).reshape(shape).copy()
        at += size
    if at != len(payload):
        raise WireError(f"the frame is {len(payload) - at} bytes longer than its arrays")
    return arrays


def _check_sizes(header: int, payload: int, arrays: int) -> None:
    if header > HEADER_LIMIT or payload > PAYLOAD_LIMIT or arrays > ARRAY_LIMIT:
        raise WireError(
            f"a frame of {header} + {payload} bytes, {arrays} arrays is too large; "
            f"allowed: {HEADER_LIMIT} + {PAYLOAD_LIMIT} bytes, {ARRAY_LIMIT} arrays"
        )


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not strict JSON")


class Channel:
    """Sends and receives frames over one or two file descriptors, with deadlines.

    Args:
        read_fd: Descriptor to read from.
        write_fd: Descriptor to write to; the same for a socket.
    """

    def __init__(self, read_fd: int, write_fd: int):
        self._read_fd, self._write_fd = read_fd, write_fd
        for fd in {read_fd, write_fd}:
            os.set_blocking(fd, False)

    def send(self, message: Message, deadline_s: float | None = None) -> None:
        """Write one frame whole.

        Raises:
            WireError: the frame may not travel.
            ClosedError: nobody reads.
            DeadlineError: not taken within ``deadline_s``.
        """
        left = memoryview(message.encode())
        until = None if deadline_s is None else time.monotonic() + deadline_s
        while left:
            self._wait(self._write_fd, select.POLLOUT, until)
            try:
                left = left[os.write(self._write_fd, left) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClosedError(f"the other end has gone ({error.strerror})") from error

    def receive(self, deadline_s: float | None = None) -> Message:
        """Read one frame whole.

        Raises:
            WireError: what arrived is no frame.
            ClosedError: the other end has gone.
            DeadlineError: not there, or not whole, within ``deadline_s``.
        """
        until = None if deadline_s is None else time.monotonic() + deadline_s
        magic, header, payload = _PREFIX.unpack(self._exactly(_PREFIX.size, until))
        if magic != MAGIC:
            raise WireError(f"a frame begins with {MAGIC!r}, this with {magic!r}")
        _check_sizes(header, payload, 0)
        return Message.decode(self._exactly(header, until), self._exactly(payload, until))

    def close(self) -> None:
        """Close both descriptors."""
        for fd in {self._read_fd, self._write_fd}:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _exactly(self, size: int, until: float | None) -> bytes:
        parts: list[bytes] = []
        while size:
            self._wait(self._read_fd, select.POLLIN, until)
            try:
                part = os.read(self._read_fd, min(size, 1 << 20))
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClosedError(f"the other end has gone ({error.strerror})") from error
            if not part:
                raise ClosedError("the other end has gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, fd: int, event: int, until: float | None) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if until is None:
            poll.poll()
            return
        left_s = until - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise DeadlineError("no answer in time")
