"""What an RLDS data set holds, from its ``features.json``, and how a parsed record becomes arrays.

tensorflow_datasets flattens an episode into one ``tf.train.Example``: the feature ``steps`` (a data set of its own) and
``episode_metadata`` become keys such as ``steps/observation/state`` whose values are those of all steps, one after the
other; shapes and dtypes are only in ``features.json`` (tensorflow_datasets/core/proto/feature.proto, in its JSON form;
core/example_serializer.py for the flattening). Integers and bools are stored as int64, floats as float32, images as
their files, tensors with an encoding as bytes (zlib or plain), and sequences within steps as flat values with row
lengths.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.tfrecord import Feature
from robopolicy.errors import DataError, explain

__all__ = ["Leaf", "read_features", "step_values"]

SEPARATOR = "/"
_TEXT = ("string", "object")


@dataclass(frozen=True)
class Leaf:
    """One feature.

    Attributes:
        path: Key in the record, parts joined by ``/``.
        kind: ``tensor``, ``image``, ``text`` or the class of a feature that is not read.
        shape: Of one value, -1 where it varies.
        dtype: numpy name, ``string`` for text.
        encoding: ``none``, ``bytes`` or ``zlib`` of a tensor; ``jpeg`` or ``png`` of an image, or empty.
        rank: Over how many sequences it is repeated: 0 of the episode, 1 once per step, 2 several per step.
        description: As the source has it.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str = "none"
    rank: int = 0
    description: str = ""


def read_features(path: Path) -> dict[str, Leaf]:
    """Every feature by its path.

    Args:
        path: ``features.json``.

    Raises:
        DataError: unreadable, of the form before 2021, or without ``steps``.
    """
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(explain(f"{path} cannot be read: {error}", mend="shapes are only there; fetch it")) from error
    if not isinstance(root, dict) or "pythonClassName" not in root:
        raise DataError(
            explain(
                f"{path} is not a feature description of tensorflow_datasets 4.4 or newer",
                given=sorted(root)[:8] if isinstance(root, dict) else type(root).__name__,
                mend="write it again with a newer tensorflow_datasets",
            )
        )
    try:
        found = {leaf.path: leaf for leaf in sorted(_walk(root, (), 0), key=lambda leaf: leaf.path)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(explain(f"{path} is damaged: {error!r}", mend="fetch it again")) from error
    if not any(leaf.path.startswith("steps/") and leaf.rank for leaf in found.values()):
        raise DataError(
            explain(
                f"{path} describes no episodes of steps", given=sorted(found), allowed="an RLDS data set: steps/..."
            )
        )
    return found


def _walk(node: Mapping[str, Any], path: tuple[str, ...], rank: int) -> Iterator[Leaf]:
    if "featuresDict" in node:
        for name, inner in node["featuresDict"]["features"].items():
            yield from _walk(inner, (*path, name), rank)
        return
    if "sequence" in node:
        yield from _walk(node["sequence"]["feature"], path, rank + 1)
        return
    key, about = SEPARATOR.join(path), node.get("description", "")
    if not isinstance(about, str):
        about = str(about.get("text", "")) if isinstance(about, dict) else ""
    for kind in ("tensor", "image"):
        if kind in node:
            entry = node[kind]
            encoding = entry.get("encoding" if kind == "tensor" else "encodingFormat") or "none"
            yield Leaf(key, kind, _shape(entry), entry.get("dtype", "uint8"), encoding.lower(), rank, about)
            return
    if "text" in node:
        yield Leaf(key, "text", (), "string", "none", rank, about)
    elif "classLabel" in node:
        yield Leaf(key, "tensor", (), "int64", "none", rank, about)
    elif "boundingBox" in node:
        yield Leaf(key, "tensor", (4,), "float32", "none", rank, about)
    else:
        yield Leaf(key, node.get("pythonClassName", "?").rpartition(".")[2], (), "", "none", rank, about)


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in (entry.get("shape") or {}).get("dimensions", ()))


def step_values(leaf: Leaf, features: Mapping[str, Feature], rows: int, where: str) -> NDArray[Any] | list[Any] | None:
    """The values of one feature over the steps of an episode.

    Args:
        leaf: The feature, of rank 1 or 2.
        features: Of the record.
        rows: Steps of the episode.
        where: File and record, for messages.

    Returns:
        Tensors [rows, *shape]; text as a list of str; images as a list of their files. None when the number of values
        differs between steps.

    Raises:
        DataError: missing, of another type, or not as many values as the steps need.
    """
    if leaf.rank == 2:
        return _ragged(leaf, features, rows, where)
    return _decoded(leaf, _feature(leaf.path, features, where), rows, where)


def _ragged(leaf: Leaf, features: Mapping[str, Feature], rows: int, where: str) -> NDArray[Any] | list[Any] | None:
    lengths = _feature(f"{leaf.path}/ragged_row_lengths_0", features, where)
    flat = _feature(f"{leaf.path}/ragged_flat_values", features, where)
    if len(lengths) != rows:
        raise _wrong_count(leaf, where, len(lengths), rows)
    each = set(np.asarray(lengths).tolist())
    if len(each) != 1 or leaf.kind != "tensor" or leaf.dtype in _TEXT:
        return None
    per_step = int(each.pop())
    values = _decoded(leaf, flat, rows * per_step, where)
    assert isinstance(values, np.ndarray)
    return values.reshape(rows, per_step, *values.shape[1:])


def _decoded(leaf: Leaf, values: Feature, count: int, where: str) -> NDArray[Any] | list[Any]:
    """``count`` values out of their flattened form."""
    if leaf.kind in ("image", "text") or leaf.dtype in _TEXT or leaf.encoding in ("bytes", "zlib"):
        size = count * (_size(leaf) if leaf.dtype in _TEXT else 1)
        if not isinstance(values, list) or len(values) != size:
            raise _wrong_count(leaf, where, len(values), size)
        if leaf.kind == "image":
            return values
        if leaf.kind == "text" or leaf.dtype in _TEXT:
            return [value.decode("utf-8", "replace") for value in values]
        return np.stack([_unpacked(leaf, value, where) for value in values]) if count else _empty(leaf)
    size = count * _size(leaf)
    if isinstance(values, list) or len(values) != size:
        raise _wrong_count(leaf, where, len(values), size)
    return values.reshape(count, *leaf.shape).astype(_dtype(leaf, where), copy=False)


def _unpacked(leaf: Leaf, value: bytes, where: str) -> NDArray[Any]:
    try:
        raw = zlib.decompress(value) if leaf.encoding == "zlib" else value
        array = np.frombuffer(raw, _dtype(leaf, where))
        return array.reshape(leaf.shape)
    except (zlib.error, ValueError) as error:
        raise DataError(explain(f"{where}: '{leaf.path}' cannot be unpacked: {error}", allowed=leaf.shape)) from error


def _feature(key: str, features: Mapping[str, Feature], where: str) -> Feature:
    if key not in features:
        raise DataError(
            explain(f"{where} has no '{key}'", given=sorted(features), mend="features.json belongs to another version")
        )
    return features[key]


def _size(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape, dtype=np.int64)) if leaf.shape else 1


def _empty(leaf: Leaf) -> NDArray[Any]:
    return np.empty((0, *leaf.shape))


def _dtype(leaf: Leaf, where: str) -> np.dtype[Any]:
    try:
        return np.dtype(leaf.dtype)
    except TypeError as error:
        raise DataError(explain(f"{where}: '{leaf.path}' has a dtype that is not known", given=leaf.dtype)) from error


def _wrong_count(leaf: Leaf, where: str, given: int, allowed: int) -> DataError:
    return DataError(
        explain(
            f"{where}: '{leaf.path}' has the wrong number of values",
            given=given,
            allowed=allowed,
            mend="the record is damaged, or features.json belongs to another version",
        )
    )
