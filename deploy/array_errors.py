"""Why a frame of the wire was refused: one class per reason, so that a log or a test can tell them apart."""

from __future__ import annotations

from robopolicy.errors import DeployError

__all__ = [
    "ArrayCountError",
    "ArrayDtypeError",
    "ArrayFieldsError",
    "ArrayLengthError",
    "ArrayShapeError",
    "FrameError",
    "FrameSizeError",
    "FrameValueError",
    "MapKeyError",
    "MessageTypeError",
    "NestingError",
    "NodeCountError",
    "NonFiniteFrameError",
    "TextValueError",
    "TrailingBytesError",
    "TruncatedFrameError",
    "shown",
]

LONGEST_SHOWN = 80


class FrameError(DeployError):
    """Root of all refusals of a frame, sent or received."""


class FrameSizeError(FrameError):
    """More bytes than a frame may have."""


class TruncatedFrameError(FrameError):
    """It ends before what it announces."""


class TrailingBytesError(FrameError):
    """Bytes after the end of the message."""


class MessageTypeError(FrameError):
    """A msgpack type that does not belong here (extension, timestamp, reserved byte), or not bytes at all."""


class NestingError(FrameError):
    """Maps and lists nested too deeply."""


class NodeCountError(FrameError):
    """Too many values, or a list or map that announces more than the frame has bytes for."""


class MapKeyError(FrameError):
    """A key that is not text, or is given twice."""


class TextValueError(FrameError):
    """Text that is too long or not UTF-8."""


class ArrayCountError(FrameError):
    """Too many arrays."""


class ArrayFieldsError(FrameError):
    """A map of an array with missing, unknown or wrongly typed fields."""


class ArrayDtypeError(FrameError):
    """A dtype other than bool, integer or float of 1 to 8 bytes."""


class ArrayShapeError(FrameError):
    """Too many dimensions, or one that is negative, huge or no integer."""


class ArrayLengthError(FrameError):
    """Data whose length is not that of shape and dtype."""


class FrameValueError(FrameError):
    """A number that its dtype cannot hold."""


class NonFiniteFrameError(FrameError):
    """A NaN or an infinity."""


def shown(value: object) -> str:
    """What a peer sent, short and printable, for a message."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[:LONGEST_SHOWN])
    elif isinstance(value, str):
        value = value[:LONGEST_SHOWN]
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
