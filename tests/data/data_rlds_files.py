"""RLDS data sets, written as tensorflow_datasets lays them out."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.convert.tfrecord import masked_crc32c


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _block(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def example(features: Mapping[str, Any], packed: bool = True) -> bytes:
    """A serialised ``tf.train.Example``; lists of bytes, float arrays and integer arrays."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = _block(1, b"".join(_block(1, v) for v in values))
        elif np.asarray(values).dtype.kind == "f":
            raw = np.asarray(values, "<f4").ravel()
            one = b"".join(_varint(1 << 3 | 5) + v.tobytes() for v in raw)
            feature = _block(2, _block(1, raw.tobytes()) if packed else one)
        else:
            parts = [_varint(int(v)) for v in np.asarray(values).ravel()]
            feature = _block(3, _block(1, b"".join(parts)) if packed else b"".join(_varint(8) + p for p in parts))
        entries += _block(1, _block(1, name.encode()) + _block(2, feature))
    return _block(1, entries)


def tfrecord(path: Path, records: Sequence[bytes]) -> None:
    with open(path, "wb") as stream:
        for data in records:
            length = struct.pack("<Q", len(data))
            stream.write(length + struct.pack("<I", masked_crc32c(length)) + data)
            stream.write(struct.pack("<I", masked_crc32c(data)))


def tensor(shape: Sequence[int], dtype: str, encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": "Tensor", "tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding}}


def image(height: int, width: int, channels: int = 3, dtype: str = "uint8", form: str = "jpeg") -> dict[str, Any]:
    shape = {"dimensions": [str(height), str(width), str(channels)]}
    return {"pythonClassName": "Image", "image": {"shape": shape, "dtype": dtype, "encodingFormat": form}}


def features_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: v if "pythonClassName" in v else features_of(v) for k, v in tree.items()}
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": inner}}


def rlds(
    folder: Path,
    name: str,
    steps: Mapping[str, Any],
    shards: Mapping[str, Sequence[Sequence[bytes]]],
    *,
    extra: Mapping[str, Any] | None = None,
    info: bool = True,
) -> Path:
    """A data set of one version; ``shards`` split -> file -> records."""
    folder.mkdir(parents=True, exist_ok=True)
    sequence = {"pythonClassName": "Dataset", "sequence": {"feature": features_of(steps), "length": "-1"}}
    tree = features_of({"steps": sequence, **({"episode_metadata": extra} if extra else {})})
    (folder / "features.json").write_text(json.dumps(tree))
    splits = []
    for split, files in shards.items():
        for i, records in enumerate(files):
            tfrecord(folder / f"{name}-{split}.tfrecord-{i:05d}-of-{len(files):05d}", records)
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append(
            {"name": split, "shardLengths": [str(len(r)) for r in files], "filepathTemplate": template, "numBytes": "1"}
        )
    described = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": splits}
    if info:
        (folder / "dataset_info.json").write_text(json.dumps(described))
    return folder


def packed(array: np.ndarray, encoding: str) -> list[bytes]:
    return [zlib.compress(row.tobytes()) if encoding == "zlib" else row.tobytes() for row in array]
