"""Messages of MCAP recordings: decoders by encoding, fields by dotted path, stamps, frames."""

from __future__ import annotations

import base64
import binascii
import importlib
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.codecs import check_jpeg_size
from robopolicy.data.convert.mcap_map import Part
from robopolicy.errors import DataError, MissingDependencyError, explain, suggest

__all__ = ["Frame", "decoder_of", "field_of", "frame_of", "numbers_of", "stamp_of"]

FACTORIES = {
    "cdr": ("mcap_ros2.decoder", "mcap-ros2-support"),
    "ros1": ("mcap_ros1.decoder", "mcap-ros1-support"),
    "protobuf": ("mcap_protobuf.decoder", "mcap-protobuf-support"),
}
SECONDS = ("sec", "secs", "seconds")
NANOSECONDS = ("nanosec", "nsec", "nsecs", "nanos", "nanoseconds")
COLOUR = {"rgb8": (3, False), "bgr8": (3, True), "rgba8": (4, False), "bgra8": (4, True), "mono8": (1, False)}
DEPTH = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
JPEG, PNG = b"\xff\xd8", b"\x89PNG"


def decoder_of(encoding: str, schema: Any) -> Callable[[bytes], Any]:
    """What turns the bytes of a channel's messages into objects.

    Args:
        encoding: ``json``, ``cdr`` (ROS 2), ``ros1`` or ``protobuf``.
        schema: The channel's ``mcap.records.Schema``, or None.

    Raises:
        MissingDependencyError: the decoder's package is not installed.
        DataError: unknown encoding, or a schema that its decoder cannot use.
    """
    if encoding == "json":
        return json.loads
    if encoding not in FACTORIES:
        raise DataError(explain("no decoder for this encoding", given=encoding, allowed=["json", *FACTORIES]))
    module, package = FACTORIES[encoding]
    try:
        factory = importlib.import_module(module).DecoderFactory()
    except ImportError as error:
        mend = f"pip install {package} (ROS 1, ROS 2 and json come with 'robopolicy[formats]')"
        raise MissingDependencyError(explain(f"'{encoding}' messages need the package {package}", mend=mend)) from error
    try:
        decoder = factory.decoder_for(encoding, schema)
    except Exception as error:  # a parser of other people's text
        raise DataError(explain(f"the schema '{getattr(schema, 'name', '')}' cannot be parsed: {error}")) from error
    if decoder is None:
        given = (encoding, getattr(schema, "encoding", None))
        raise DataError(explain("no decoder for this message and schema encoding", given=given))
    return decoder


def field_of(message: Any, path: str) -> Any:
    """``a.b.0`` of a message: keys, attributes, list positions; '.' is the message itself.

    Raises:
        DataError: no such field; what there is instead is named.
    """
    value = message
    for name in [n for n in path.split(".") if n]:
        try:
            if isinstance(value, dict):
                value = value[name]
            elif name.lstrip("-").isdigit():
                value = value[int(name)]
            else:
                value = getattr(value, name)
        except (KeyError, AttributeError, IndexError, TypeError) as error:
            known = sorted(value) if isinstance(value, dict) else _attributes(value)
            mend = suggest(name, known)
            raise DataError(explain(f"no field '{name}' on the way of '{path}'", allowed=known, mend=mend)) from error
    return value


def _attributes(value: Any) -> list[str]:
    return [n for n in getattr(value, "__slots__", None) or vars(type(value)) if not str(n).startswith("_")]


def stamp_of(message: Any, path: str = "") -> int | None:
    """Capture time of a message in ns, from ``path``, ``header.stamp`` or ``timestamp``; None where it has none.

    Raises:
        DataError: ``path`` was given and is not there, or is no time.
    """
    if path:
        return _nanoseconds(field_of(message, path), path)
    for usual in ("header.stamp", "timestamp"):
        try:
            value = field_of(message, usual)
        except DataError:
            continue
        return _nanoseconds(value, usual)
    return None


def _nanoseconds(value: Any, path: str) -> int:
    """A ROS time, a protobuf time, whole nanoseconds, or seconds as a float."""
    if isinstance(value, bool) or value is None:
        raise DataError(explain(f"'{path}' is not a time", given=value))
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return round(value * 1e9)
    get = value.get if isinstance(value, dict) else lambda name: getattr(value, name, None)
    whole = next((v for n in SECONDS if (v := get(n)) is not None), None)
    part = next((v for n in NANOSECONDS if (v := get(n)) is not None), None)
    if whole is None or part is None:
        raise DataError(explain(f"'{path}' is not a time", allowed="sec and nanosec, whole nanoseconds, or seconds"))
    return int(whole) * 1_000_000_000 + int(part)


def numbers_of(message: Any, part: Part) -> NDArray[np.float64]:
    """The numbers of one message [C], scaled; of a pose position and quaternion wxyz [7].

    Raises:
        DataError: a field is missing, of another length, or not a number.
    """
    if part.pose:
        pose = field_of(message, part.pose)
        position = [field_of(pose, f"position.{a}") for a in "xyz"]
        return np.array([*position, *(field_of(pose, f"orientation.{a}") for a in "wxyz")], np.float64)
    found: list[Any] = []
    for path in part.fields:
        value = field_of(message, path)
        found += list(value) if np.ndim(value) else [value]
    if part.names:
        held = list(field_of(message, part.names))
        unknown = [n for n in part.pick if n not in held]
        if unknown or len(held) != len(found):
            raise DataError(
                explain(f"topic {part.topic}: names that '{part.names}' has not", given=unknown, allowed=held)
            )
        found = [found[held.index(n)] for n in part.pick]
    if len(found) != len(part.channels):
        raise DataError(
            explain(f"topic {part.topic} has another number of values", given=len(found), allowed=part.channels)
        )
    try:
        return np.array(found, np.float64) * part.scale + part.offset
    except (TypeError, ValueError) as error:
        raise DataError(explain(f"topic {part.topic}: not numbers", given=found)) from error


@dataclass(frozen=True)
class Frame:
    """One frame: an RGB JPEG file as it came, or pixels uint8 [H, W, 3] or uint16 [H, W, 1] (mm)."""

    jpeg: bytes
    pixels: NDArray[Any] | None
    size: tuple[int, int]

    def decoded(self) -> NDArray[Any]:
        """The pixels."""
        return _pillow(self.jpeg) if self.pixels is None else self.pixels


def frame_of(message: Any, depth: bool) -> Frame:
    """The frame in a ``CompressedImage`` or ``Image`` message, of ROS or of Foxglove.

    Raises:
        DataError: an encoding that is not known, or pixels that are cut.
    """
    data = field_of(message, "data")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise DataError(explain(f"the data of an image are not base64: {error}")) from error
    data = bytes(data)
    if not _has(message, "width"):
        return _compressed(data, str(field_of(message, "format")), depth)
    return _raw(message, data, depth)


def _compressed(data: bytes, form: str, depth: bool) -> Frame:
    if "compressedDepth" in form:
        data = data[12:]  # a header of compressed_depth_image_transport: a format number and two parameters
    if depth:
        if not data.startswith(PNG):
            raise DataError(explain("compressed depth that is not PNG", given=form))
        pixels = _pillow(data, depth=True)
        return Frame(b"", pixels, (pixels.shape[0], pixels.shape[1]))
    if data.startswith(JPEG):
        size = _jpeg_size(data)
        if size is not None:
            return Frame(data, None, size)
    pixels = _pillow(data)
    return Frame(b"", pixels, (pixels.shape[0], pixels.shape[1]))


def _raw(message: Any, data: bytes, depth: bool) -> Frame:
    height, width = int(field_of(message, "height")), int(field_of(message, "width"))
    encoding = str(field_of(message, "encoding"))
    known: dict[str, Any] = DEPTH if depth else COLOUR
    if encoding not in known:
        raise DataError(explain("an image encoding that is not known", given=encoding, allowed=list(known)))
    step = int(field_of(message, "step"))
    big = bool(field_of(message, "is_bigendian")) if depth and _has(message, "is_bigendian") else False
    dtype = np.dtype((">" if big else "<") + DEPTH[encoding]) if depth else np.dtype("u1")
    channels, bgr = (1, False) if depth else COLOUR[encoding]
    line = width * channels * dtype.itemsize
    if step < line or len(data) < step * (height - 1) + line:
        given = f"{len(data)} bytes, step {step}"
        raise DataError(
            explain("an image with fewer bytes than its size needs", given=given, allowed=f"{height} x {line}")
        )
    rows = np.frombuffer(data.ljust(step * height, b"\0")[: step * height], np.uint8).reshape(height, step)[:, :line]
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if depth:
        return Frame(b"", _millimetres(pixels, encoding), (height, width))
    pixels = np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels[..., 2::-1] if bgr else pixels[..., :3]
    return Frame(b"", np.ascontiguousarray(pixels), (height, width))


def _has(message: Any, name: str) -> bool:
    return name in message if isinstance(message, dict) else hasattr(message, name)


def _millimetres(pixels: NDArray[Any], encoding: str) -> NDArray[np.uint16]:
    """REP 118: 16UC1 is millimetres with 0 for none, 32FC1 metres with NaN for none."""
    if encoding != "32FC1":
        return pixels.astype(np.uint16)
    metres = np.where(np.isfinite(pixels), pixels, 0.0).astype(np.float64)
    return np.clip(np.round(metres * 1000), 0, 65_535).astype(np.uint16)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) of a JPEG file with three components; None for others, which have to be decoded."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            if channels != 3:
                return None
            check_jpeg_size(data, (height, width, 3))
            return height, width
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _pillow(data: bytes, depth: bool = False) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            if depth:
                return np.asarray(image).astype(np.uint16)[..., None]
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(explain(f"a compressed image cannot be decoded: {error}")) from error
