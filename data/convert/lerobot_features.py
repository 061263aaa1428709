"""Features of a LeRobot ``info.json``, and the columns of its tables as arrays."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain

__all__ = ["Feature", "blobs_of", "camera_key", "features_of", "flat_names", "numbers_of"]

_NUMBERS = re.compile(r"(float|int|uint)\d+|bool")


@dataclass(frozen=True)
class Feature:
    """One entry of ``features``.

    Attributes:
        key: Its name.
        kind: ``number``, ``video``, ``image`` or ``other``.
        shape: As stated.
        dtype: As stated.
        names: One name per number, made up where the source has none.
        slot: Name of the camera.
        size: (height, width) of a camera.
        depth: Whether the camera is a depth map.
        video: Codec, rate and so on, as stated, without the prefix ``video.``.
    """

    key: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    names: tuple[str, ...] = ()
    slot: str = ""
    size: tuple[int, int] = (0, 0)
    depth: bool = False
    video: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Numbers per row."""
        return math.prod(self.shape)

    def renamed(self, slot: str) -> Feature:
        """The same camera in another slot."""
        return dataclasses.replace(self, slot=slot)

    def sized(self, height: int, width: int) -> Feature:
        """The same camera with its true size."""
        return dataclasses.replace(self, size=(height, width))


def features_of(info: Mapping[str, Any]) -> dict[str, Feature]:
    """All features of an ``info.json``.

    Raises:
        DataError: an entry without dtype or shape.
    """
    found = {}
    for key, entry in info["features"].items():
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(explain(f"feature '{key}' of info.json is damaged: {error}", given=entry)) from error
        if dtype in ("video", "image"):
            found[key] = _camera(key, dtype, shape, entry)
        else:
            kind = "number" if _NUMBERS.fullmatch(dtype) else "other"
            found[key] = Feature(key, kind, shape, dtype, flat_names(entry.get("names"), math.prod(shape)))
    return found


def _camera(key: str, dtype: str, shape: tuple[int, ...], entry: Mapping[str, Any]) -> Feature:
    """Height and width by the names of the axes; without names by which end has the few channels."""
    stated = entry.get("info") or entry.get("video_info") or {}
    video = {k.removeprefix("video."): v for k, v in stated.items()}
    axes = [str(n) for n in entry.get("names") or ()]
    if len(axes) == len(shape) and {"height", "width"} <= set(axes):
        size = (shape[axes.index("height")], shape[axes.index("width")])
        channels = math.prod(n for axis, n in zip(axes, shape, strict=True) if axis not in ("height", "width"))
    elif len(shape) == 3 and shape[0] in (1, 3) and shape[2] not in (1, 3):
        size, channels = (shape[1], shape[2]), shape[0]
    else:
        size, channels = (shape[0], shape[1]) if len(shape) >= 2 else (0, 0), shape[2] if len(shape) == 3 else 3
    depth = bool(video.get("is_depth_map", False)) or channels == 1
    return Feature(key, dtype, shape, dtype, (), camera_key(key), size, depth, video)


def camera_key(key: str, *, whole: bool = False) -> str:
    """Slot of a camera: ``observation.images.cam_high`` -> ``cam_high``; with ``whole`` the whole key, made a name."""
    last = key if whole else re.sub(r"^observation\.images?\.", "", key).removeprefix("observation.")
    return re.sub(r"[^A-Za-z0-9_.-]", "_", last).strip(".-") or "camera"


def flat_names(names: Any, width: int) -> tuple[str, ...]:
    """Names as one flat tuple of ``width`` different ones: from a list, lists in a list, or a mapping of lists."""

    def walk(entry: Any) -> list[str]:
        if isinstance(entry, Mapping):
            return [name for value in entry.values() for name in walk(value)]
        if isinstance(entry, Sequence) and not isinstance(entry, str):
            return [name for value in entry for name in walk(value)]
        return [] if entry is None else [str(entry)]

    flat = walk(names)
    if len(flat) != width or len(set(flat)) != width:
        return tuple(str(i) for i in range(width))
    return tuple(flat)


def numbers_of(table: Any, feature: Feature, where: str) -> NDArray[Any]:
    """A column of numbers -> [T, n].

    Raises:
        DataError: no such column, empty cells, or lists of another length.
    """
    import pyarrow as pa

    if feature.key not in table.column_names:
        raise DataError(explain(f"{where}: the table has no column '{feature.key}'", allowed=table.column_names))
    parts = []
    for chunk in table[feature.key].chunks:
        array = chunk
        while not pa.types.is_primitive(array.type):
            if array.null_count:
                raise DataError(explain(f"{where}: '{feature.key}' has empty cells", given=array.null_count))
            if isinstance(array, pa.ExtensionArray):
                array = array.storage
            elif hasattr(array, "flatten") and not pa.types.is_struct(array.type):
                array = array.flatten()
            else:
                raise DataError(explain(f"{where}: '{feature.key}' is not numbers", given=array.type))
        if array.null_count:
            raise DataError(explain(f"{where}: '{feature.key}' has empty cells", given=array.null_count))
        parts.append(array.to_numpy(zero_copy_only=False))
    flat = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if len(flat) != table.num_rows * feature.width:
        given = f"{len(flat)} numbers in {table.num_rows} rows"
        raise DataError(explain(f"{where}: '{feature.key}' has another width", given=given, allowed=feature.width))
    return flat.reshape(table.num_rows, feature.width)


def blobs_of(table: Any, key: str, root: Path) -> list[bytes]:
    """Image files of a column: its bytes, or the files that it names below ``root``.

    Raises:
        DataError: no such column, an empty cell, or a file that is not there.
    """
    if key not in table.column_names:
        raise DataError(explain(f"{root}: the table has no column '{key}'", allowed=table.column_names))
    blobs = []
    for row, cell in enumerate(table[key].to_pylist()):
        blob = cell.get("bytes") if isinstance(cell, Mapping) else cell
        path = cell.get("path") if isinstance(cell, Mapping) else None
        if blob is None and path and (root / path).is_file():
            blob = (root / path).read_bytes()
        if not isinstance(blob, bytes):
            raise DataError(explain(f"{root}: '{key}' has no image in row {row}", given=path))
        blobs.append(blob)
    return blobs
