"""TFRecord files and the ``tf.train.Example`` messages in them, read without tensorflow.

A record is ``uint64 length | uint32 masked crc32c of the length | data | uint32 masked crc32c of the data``, little
endian (tensorflow/core/lib/io/record_writer.h). The data are a protobuf message ``Example{Features{map<string,
Feature>}}`` where a Feature is a list of bytes, of floats or of int64 (tensorflow/core/example/feature.proto).
Shapes are not in the file. One record at a time is held in memory.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["Feature", "index_records", "masked_crc32c", "parse_example", "read_record"]

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""The values of one feature, flattened: bytes_list, float_list or int64_list."""

_HEADER = struct.Struct("<QI")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of ``data``, rotated right by 15 bits, plus a constant: the checksum that TFRecord stores."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_records(path: Path) -> NDArray[np.int64]:
    """Where the records of a file are: int64 [n, 2] of (offset of the data, length). Reads 12 bytes per record.

    Raises:
        DataError: a length whose checksum is wrong, or a file that ends within a record; file and record are named.
    """
    entries: list[tuple[int, int]] = []
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        position = 0
        while position < size:
            stream.seek(position)
            header = stream.read(_HEADER.size)
            where = f"{path}: record {len(entries)}"
            if len(header) < _HEADER.size:
                raise _cut(where, position, size)
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                raise DataError(
                    explain(
                        f"{where} is damaged: the checksum of its length is wrong",
                        given=f"length {length} at byte {position}",
                        mend="is this a TFRecord file? fetch it again; records after it cannot be found",
                    )
                )
            end = position + _HEADER.size + length + 4
            if end > size:
                raise _cut(where, end, size)
            entries.append((position + _HEADER.size, length))
            position = end
    return np.array(entries, np.int64).reshape(-1, 2)


def read_record(path: Path, offset: int, length: int, record: int) -> bytes:
    """The data of one record, its checksum verified.

    Args:
        path: File.
        offset, length: As :func:`index_records` gives them.
        record: Its number, for messages.

    Raises:
        DataError: cut short, or altered.
    """
    with open(path, "rb") as stream:
        stream.seek(offset)
        data = stream.read(length + 4)
    where = f"{path}: record {record}"
    if len(data) < length + 4:
        raise _cut(where, offset + length + 4, os.path.getsize(path))
    (checksum,) = struct.unpack("<I", data[length:])
    data = data[:length]
    if masked_crc32c(data) != checksum:
        raise DataError(
            explain(f"{where} is damaged: its checksum is wrong", given=f"{length} bytes at {offset}", mend="fetch it")
        )
    return data


def parse_example(data: bytes, where: str) -> dict[str, Feature]:
    """The features of a serialised ``tf.train.Example`` by name.

    Args:
        data: The message.
        where: File and record, for messages.

    Raises:
        DataError: not such a message.
    """
    features: dict[str, Feature] = {}
    try:
        for number, _, message in _fields(memoryview(data)):
            if number != 1:
                continue
            for tag, _, entry in _fields(_message(message)):
                if tag == 1:
                    parts = {n: value for n, _, value in _fields(_message(entry))}
                    features[bytes(_message(parts[1])).decode()] = _feature(_message(parts.get(2, memoryview(b""))))
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise DataError(explain(f"{where} is no tf.train.Example: {error!r}", mend="check the file")) from error
    return features


def _feature(message: memoryview) -> Feature:
    for number, _, value in _fields(message):
        payload = _message(value)
        if number == 1:
            return [bytes(_message(item)) for tag, _, item in _fields(payload) if tag == 1]
        if number == 2:
            parts = [np.frombuffer(_message(item), "<f4") for tag, _, item in _fields(payload) if tag == 1]
            return np.concatenate([np.empty(0, np.float32), *parts])
        if number == 3:
            return np.concatenate([np.empty(0, np.int64), *map(_integers, _values(payload))])
    return []


def _values(payload: memoryview) -> list[memoryview | int]:
    return [value for tag, _, value in _fields(payload) if tag == 1]


def _integers(value: memoryview | int) -> NDArray[np.int64]:
    """One varint, or a packed list of them, decoded without a loop over values."""
    if isinstance(value, int):
        return np.array([value], np.uint64).view(np.int64)
    raw = np.frombuffer(value, np.uint8)
    if not len(raw):
        return np.empty(0, np.int64)
    ends = np.flatnonzero(raw < 128)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("a list of integers that is cut")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise ValueError("an integer of more than ten bytes")
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    parts = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64)


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is expected")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(field number, wire type, value) of a protobuf message; numbers of fixed width come as their bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(message):
            raise ValueError("a field reaches beyond its message")
        yield number, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("an integer of more than ten bytes")


def _cut(where: str, needed: int, size: int) -> DataError:
    return DataError(
        explain(
            f"{where} is cut: the file ends within it",
            given=f"{size} bytes",
            allowed=f"at least {needed}",
            mend="fetch the file again",
        )
    )
