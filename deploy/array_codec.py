"""openpi's wire format: msgpack with arrays. What a peer sends is checked before numpy sees any of it.

A message is a map with text keys. An array in it is a map with bytes keys, ``__ndarray__`` True, ``data`` (C order),
``dtype`` (as ``"<f4"``) and ``shape``; a numpy scalar is ``__npgeneric__`` True, ``data``, ``dtype``.

Reading is done here and not by the msgpack package: that one makes lists of the length that a peer *announces* and has
no limit on the number of values, so that 16 MiB of empty lists become a gigabyte. Here nothing is made that the frame
does not hold bytes for, and every count is bounded (:class:`FrameLimits`). dtype, shape and length are compared before
``numpy.frombuffer``; a dtype such as ``|O``, whose bytes numpy would take for pointers, is never given to numpy.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from robopolicy.deploy.array_errors import (
    ArrayCountError,
    ArrayDtypeError,
    ArrayFieldsError,
    ArrayLengthError,
    ArrayShapeError,
    FrameSizeError,
    FrameValueError,
    MapKeyError,
    MessageTypeError,
    NestingError,
    NodeCountError,
    NonFiniteFrameError,
    TextValueError,
    TrailingBytesError,
    TruncatedFrameError,
    shown,
)
from robopolicy.errors import MissingDependencyError, explain

__all__ = ["FrameLimits", "pack", "unpack"]

ITEM_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}
DTYPES = "b1, i1 to i8, u1 to u8, f2 to f8"
_DTYPE = re.compile(r"[<>|=]?([biuf])([1248])", re.ASCII)
_ARRAY_FIELDS = {b"__ndarray__", b"data", b"dtype", b"shape"}
_SCALAR_FIELDS = {b"__npgeneric__", b"data", b"dtype"}
LONGEST_KEY = 256


@dataclass(frozen=True)
class FrameLimits:
    """Bounds of one frame.

    Attributes:
        max_bytes: Of the whole frame.
        max_depth: Maps and lists within each other.
        max_nodes: Values of all kinds, keys among them; an array counts as the nine that it consists of.
        max_arrays: Arrays and numpy scalars.
        max_ndim: Dimensions of an array.
        max_text: Bytes of one text.
    """

    max_bytes: int = 16 * 2**20
    max_depth: int = 8
    max_nodes: int = 8192
    max_arrays: int = 128
    max_ndim: int = 5
    max_text: int = 65536


DEFAULT_LIMITS = FrameLimits()


def pack(message: Mapping[str, Any], limits: FrameLimits = DEFAULT_LIMITS) -> bytes:
    """A message as a frame.

    Args:
        message: Text keys; values None, bool, int, float, str, bytes, lists, such maps, numpy arrays and scalars of
            bool, integer or float.
        limits: ``max_bytes`` and ``max_depth`` are kept.

    Raises:
        FrameError: something that has no place on the wire, or too much of it.
        MissingDependencyError: msgpack is not installed.
    """
    try:
        import msgpack
    except ImportError as error:
        mend = "pip install robopolicy[deploy]"
        raise MissingDependencyError(explain("the policy server's wire format needs msgpack", mend=mend)) from error
    try:
        frame: bytes = msgpack.packb(_plain(message, limits.max_depth))
    except OverflowError as error:
        raise FrameValueError(explain("an integer does not fit the wire", allowed="-2^63 to 2^64 - 1")) from error
    if len(frame) > limits.max_bytes:
        mend = "send smaller images, or raise max_frame_mib on both sides"
        raise FrameSizeError(explain("the frame is too large", given=len(frame), allowed=limits.max_bytes, mend=mend))
    return frame


def unpack(frame: bytes, limits: FrameLimits = DEFAULT_LIMITS, *, finite: bool = False) -> Any:
    """A frame as a message; the inverse of :func:`pack` (tuples come back as lists).

    Arrays are copies in native byte order, writable, and of no other memory than their own.

    Args:
        frame: Bytes of a peer.
        limits: Bounds.
        finite: Refuse NaN and infinity, in arrays and elsewhere.

    Raises:
        FrameError: anything that is not such a message within the bounds; never another exception.
    """
    if not isinstance(frame, (bytes, bytearray, memoryview)):
        raise MessageTypeError(explain("a frame is bytes", given=type(frame).__name__, allowed="a binary frame"))
    if len(frame) > limits.max_bytes:
        raise FrameSizeError(explain("the frame is too large", given=len(frame), allowed=limits.max_bytes))
    reader = _Reader(memoryview(frame).cast("B"), limits, finite)
    value = _owned(reader.value(0))
    if reader.at != len(reader.view):
        raise TrailingBytesError(explain("bytes after the message", given=len(reader.view) - reader.at, allowed=0))
    return value


def _plain(value: Any, depth: int) -> Any:
    """``value`` in what msgpack itself knows; arrays as their maps."""
    if isinstance(value, (np.ndarray, np.generic)):
        return _array_map(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if depth <= 0:
        raise NestingError(explain("nested too deeply to be sent", given=type(value).__name__))
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise MapKeyError(explain("a key is not text", given=shown(key), allowed="str"))
        return {key: _plain(entry, depth - 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, depth - 1) for entry in value]
    allowed = "None, bool, int, float, str, bytes, list, dict, numpy array"
    raise MessageTypeError(explain("cannot be sent", given=type(value).__name__, allowed=allowed))


def _array_map(value: np.ndarray[Any, Any] | np.generic) -> dict[bytes, Any]:
    kind, size = value.dtype.kind, value.dtype.itemsize
    if size not in ITEM_SIZES.get(kind, ()):
        raise ArrayDtypeError(explain("an array of this dtype is not sent", given=value.dtype, allowed=DTYPES))
    little = value.astype(value.dtype.newbyteorder("<"))
    if isinstance(little, np.generic):
        return {b"__npgeneric__": True, b"data": little.item(), b"dtype": little.dtype.str}
    return {b"__ndarray__": True, b"data": little.tobytes(), b"dtype": little.dtype.str, b"shape": little.shape}


def _owned(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


class _Reader:
    """One pass over a frame. Bytes are returned as views until it is known whether they are an array's."""

    def __init__(self, view: memoryview, limits: FrameLimits, finite: bool):
        self.view, self.limits, self.finite = view, limits, finite
        self.at = self.nodes = self.arrays = 0

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.view):
            left = len(self.view) - self.at
            raise TruncatedFrameError(explain("the frame ends too early", given=f"{left} bytes", allowed=count))
        self.at, taken = end, self.view[self.at : end]
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, entries: int, each: int) -> int:
        """``entries`` as announced by the peer, if they can be there at all: each takes at least ``each`` bytes."""
        self.nodes += entries * each
        left = len(self.view) - self.at
        if entries * each > left or self.nodes > self.limits.max_nodes:
            allowed = f"{self.limits.max_nodes} values in all, and a byte for each"
            raise NodeCountError(explain("too many values", given=f"{entries} announced", allowed=allowed))
        return entries

    def value(self, depth: int) -> Any:
        head = self.take(1)[0]
        if head <= 0x7F:
            return head
        if head >= 0xE0:
            return head - 0x100
        if head <= 0x8F:
            return self.map(head & 0x0F, depth)
        if head <= 0x9F:
            return self.list(head & 0x0F, depth)
        if head <= 0xBF:
            return self.text(head & 0x1F)
        if head in _NUMBERS:
            return self.checked(self.number(_NUMBERS[head]))
        if head in _CONSTANTS:
            return _CONSTANTS[head]
        if head in _SIZED:
            form, read = _SIZED[head]
            return read(self, self.number(form), depth)
        raise MessageTypeError(
            explain("a msgpack type that is not used here", given=hex(head), allowed="nil, bool, numbers, text, bytes")
        )

    def checked(self, number: float) -> float:
        if self.finite and not isfinite(number):
            raise NonFiniteFrameError(explain("a number is not finite", given=number))
        return number

    def text(self, length: int, depth: int = 0) -> str:
        if length > self.limits.max_text:
            raise TextValueError(explain("a text is too long", given=length, allowed=self.limits.max_text))
        raw = bytes(self.take(length))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise TextValueError(explain("a text is not UTF-8", given=shown(raw))) from None

    def binary(self, length: int, depth: int = 0) -> memoryview:
        return self.take(length)

    def enter(self, depth: int) -> int:
        if depth >= self.limits.max_depth:
            raise NestingError(explain("nested too deeply", given=depth + 1, allowed=self.limits.max_depth))
        return depth + 1

    def list(self, entries: int, depth: int) -> Any:
        depth = self.enter(depth)
        return [_owned(self.value(depth)) for _ in range(self.count(entries, 1))]

    def map(self, entries: int, depth: int) -> Any:
        depth = self.enter(depth)
        found: dict[Any, Any] = {}
        for _ in range(self.count(entries, 2)):
            key = self.key(depth)
            if key in found:
                raise MapKeyError(explain("a key is given twice", given=shown(key)))
            found[key] = self.value(depth)
        if any(isinstance(key, bytes) for key in found):
            return self.array(found)
        return {key: _owned(value) for key, value in found.items()}

    def key(self, depth: int) -> str | bytes:
        key = _owned(self.value(depth)) if self.at < len(self.view) and _may_be_key(self.view[self.at]) else None
        if not isinstance(key, (str, bytes)) or len(key) > LONGEST_KEY:
            raise MapKeyError(
                explain("a key is not text", given=shown(key), allowed=f"text of at most {LONGEST_KEY} characters")
            )
        return key

    def array(self, fields: dict[Any, Any]) -> Any:
        self.arrays += 1
        if self.arrays > self.limits.max_arrays:
            raise ArrayCountError(explain("too many arrays", given=self.arrays, allowed=self.limits.max_arrays))
        scalar = b"__npgeneric__" in fields
        expected, mark = (_SCALAR_FIELDS, b"__npgeneric__") if scalar else (_ARRAY_FIELDS, b"__ndarray__")
        if set(fields) != expected or fields[mark] is not True:
            raise ArrayFieldsError(
                explain("not the map of an array", given=shown(sorted(map(str, fields))), allowed=sorted(expected))
            )
        dtype = _dtype(fields[b"dtype"])
        found = _scalar(dtype, fields[b"data"]) if scalar else self._filled(dtype, fields[b"shape"], fields[b"data"])
        if self.finite and dtype.kind == "f" and not np.isfinite(found).all():
            raise NonFiniteFrameError(explain("an array has values that are not finite", given=shown(fields[b"dtype"])))
        return found

    def _filled(self, dtype: np.dtype[Any], shape: Any, data: Any) -> np.ndarray[Any, Any]:
        if not isinstance(data, memoryview):
            raise ArrayFieldsError(explain("the data of an array is bytes", given=type(data).__name__))
        if not isinstance(shape, list) or len(shape) > self.limits.max_ndim:
            allowed = f"at most {self.limits.max_ndim} dimensions"
            raise ArrayShapeError(explain("bad shape", given=shown(shape), allowed=allowed))
        size = room = dtype.itemsize
        for extent in shape:
            if type(extent) is not int or not 0 <= extent <= self.limits.max_bytes:
                raise ArrayShapeError(explain("bad shape", given=shown(shape), allowed="small integers, not negative"))
            # `room` is the size without the empty dimensions, so that (0, huge, huge) is bounded, too
            size, room = size * extent, room * max(extent, 1)
        if room > self.limits.max_bytes:
            raise ArrayShapeError(explain("the shape is too large", given=shown(shape), allowed=self.limits.max_bytes))
        if size != len(data):
            given = f"{len(data)} bytes for {shown(shape)} of {dtype.str}"
            raise ArrayLengthError(explain("shape and data disagree", given=given, allowed=f"{size} bytes"))
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def _may_be_key(head: int) -> bool:
    return 0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB or 0xC4 <= head <= 0xC6


def _dtype(text: Any) -> np.dtype[Any]:
    found = _DTYPE.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[2]) not in ITEM_SIZES[found[1]]:
        raise ArrayDtypeError(explain("an array of this dtype is not taken", given=shown(text), allowed=DTYPES))
    return np.dtype(found[0])


def _scalar(dtype: np.dtype[Any], data: Any) -> np.generic:
    given, allowed = type(data).__name__, {"b": "bool", "i": "int", "u": "int", "f": "float"}[dtype.kind]
    if given != allowed:
        raise ArrayFieldsError(explain(f"the data of a {dtype.str} scalar", given=given, allowed=allowed))
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= data <= np.iinfo(dtype).max:
        raise FrameValueError(explain("the dtype cannot hold the number", given=shown(data), allowed=dtype.str))
    with np.errstate(over="ignore"):
        found: np.generic = dtype.newbyteorder("=").type(data)
    if dtype.kind == "f" and isfinite(data) and not np.isfinite(found):
        raise FrameValueError(explain("the dtype cannot hold the number", given=shown(data), allowed=dtype.str))
    return found


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d"},
    **{0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_SIZED: dict[int, tuple[str, Callable[[_Reader, int, int], Any]]] = {
    **{0xC4: (">B", _Reader.binary), 0xC5: (">H", _Reader.binary), 0xC6: (">I", _Reader.binary)},
    **{0xD9: (">B", _Reader.text), 0xDA: (">H", _Reader.text), 0xDB: (">I", _Reader.text)},
    **{0xDC: (">H", _Reader.list), 0xDD: (">I", _Reader.list)},
    **{0xDE: (">H", _Reader.map), 0xDF: (">I", _Reader.map)},
}
