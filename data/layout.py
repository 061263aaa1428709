"""What a store looks like on disk: names, zarr v3 metadata documents, and what our own readers recognise.

Everything here is plain JSON of the zarr v3 core specification (https://zarr-specs.readthedocs.io/en/latest/v3/core/),
so a store can be created and read without importing zarr.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.data.codecs import JPEG_CODEC, jpeg_codec_metadata
from robopolicy.data.depth_codec import BLOSC_CODEC, blosc_metadata
from robopolicy.errors import DataError, explain

__all__ = [
    "COLUMN_CHUNK_ROWS",
    "ENDS",
    "FORMAT",
    "IMAGE_CODECS",
    "MAX_SHARD_BYTES",
    "RECORDS",
    "RECORD_CHUNK_BYTES",
    "SCHEMA_VERSION",
    "SHARD_FRAMES",
    "ColumnLayout",
    "ImageLayout",
    "chunk_keys",
    "chunk_rows",
    "column_metadata",
    "group_metadata",
    "image_metadata",
    "parse_column",
    "parse_image",
    "root_metadata",
    "shard_frames",
]

FORMAT = "robopolicy.episodes"
SCHEMA_VERSION = 2
"""1 had no checksum in the commit record; such stores are read and appended to as they are."""
COLUMN_CHUNK_ROWS = 65_536
MAX_COLUMN_CHUNK_BYTES = 4 << 20
"""An append rewrites the unfinished chunk, so a chunk of a wide stream has fewer rows."""
RECORD_CHUNK_BYTES = 1 << 18
SHARD_FRAMES = 256
MAX_SHARD_BYTES = 64 << 20
"""Of decoded frames; an append rewrites the unfinished shard, so a shard of large raw frames has fewer of them."""
IMAGE_CODECS = ("raw", "jpeg")
ENDS, RECORDS = "meta/episode_ends", "meta/episode_records"

_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_FLAT_KEYS = {"name": "default", "configuration": {"separator": "."}}
_CRC32C = {"name": "crc32c"}
_ITEM_BYTES = {"float32": 4, "int64": 8, "uint8": 1, "uint16": 2}
_FRAME_DTYPES = ("uint8", "uint16")
_MAX_FRAMES_PER_SHARD = 1 << 20


@dataclass(frozen=True)
class ColumnLayout:
    """A low-dimensional array: zstd chunks of whole rows.

    Attributes:
        dtype: numpy name.
        width: Trailing shape, () or (C,).
        chunk_rows: Rows per chunk file.
        rows: Length of the array.
    """

    dtype: str
    width: tuple[int, ...]
    chunk_rows: int
    rows: int

    def key(self, chunk: int) -> str:
        """File name of a chunk inside the array's folder."""
        return ".".join(["c", str(chunk), *["0"] * len(self.width)])


@dataclass(frozen=True)
class ImageLayout:
    """An image array: one frame per inner chunk, a fixed number of frames per shard file, index at the end.

    Attributes:
        frame: (H, W, C).
        shard_frames: Frames per shard.
        codec: ``raw``, ``jpeg`` or ``blosc``.
        rows: Length of the array.
        dtype: ``uint8`` or ``uint16``.
        checksum: Whether four bytes of CRC-32C follow each stored frame.
    """

    frame: tuple[int, int, int]
    shard_frames: int
    codec: str
    rows: int
    dtype: str = "uint8"
    checksum: bool = False

    def key(self, shard: int) -> str:
        """File name of a shard inside the array's folder."""
        return f"c.{shard}.0.0.0"

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        height, width, channels = self.frame
        return height * width * channels * _ITEM_BYTES[self.dtype]


def chunk_rows(dtype: str, width: tuple[int, ...]) -> int:
    """Rows per chunk of a new low-dimensional array."""
    row_bytes = _ITEM_BYTES[dtype] * math.prod(width)
    return max(1, min(COLUMN_CHUNK_ROWS, MAX_COLUMN_CHUNK_BYTES // row_bytes))


def shard_frames(frame: tuple[int, int, int], dtype: str, codec: str) -> int:
    """Frames per shard of a new image array."""
    if codec == "jpeg":
        return SHARD_FRAMES
    return max(1, min(SHARD_FRAMES, MAX_SHARD_BYTES // (_ITEM_BYTES[dtype] * math.prod(frame))))


def _plain_bytes(dtype: str) -> dict[str, Any]:
    return {"name": "bytes", **({"configuration": {"endian": "little"}} if _ITEM_BYTES[dtype] > 1 else {})}


def _array(shape: Sequence[int], dtype: str, chunk: Sequence[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [int(n) for n in shape],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [int(n) for n in chunk]}},
        "chunk_key_encoding": _FLAT_KEYS,
        "fill_value": 0.0 if dtype.startswith("float") else 0,
        "codecs": codecs,
        "attributes": {},
        "storage_transformers": [],
    }


def column_metadata(layout: ColumnLayout) -> dict[str, Any]:
    """zarr.json of a low-dimensional array."""
    codecs = [_plain_bytes(layout.dtype), {"name": "zstd", "configuration": {"level": 1, "checksum": True}}]
    return _array((layout.rows, *layout.width), layout.dtype, (layout.chunk_rows, *layout.width), codecs)


def image_metadata(layout: ImageLayout) -> dict[str, Any]:
    """zarr.json of an image array."""
    inner = [jpeg_codec_metadata() if layout.codec == "jpeg" else _plain_bytes(layout.dtype)]
    inner += [blosc_metadata(_ITEM_BYTES[layout.dtype])] if layout.codec == "blosc" else []
    inner += [_CRC32C] if layout.checksum else []
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *layout.frame],
            "codecs": inner,
            "index_codecs": _INDEX_CODECS,
            "index_location": "end",
        },
    }
    return _array((layout.rows, *layout.frame), layout.dtype, (layout.shard_frames, *layout.frame), [sharding])


def parse_column(metadata: Mapping[str, Any]) -> ColumnLayout | None:
    """The layout behind ``metadata``, or None when it is not exactly what our reader knows."""
    try:
        rows, *width = metadata["shape"]
        size = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        layout = ColumnLayout(metadata["data_type"], tuple(width), size, rows)
        known = _counts(rows, (size, *width)) and layout.dtype in _ITEM_BYTES
        return layout if known and _same(column_metadata(layout), metadata) else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def parse_image(metadata: Mapping[str, Any]) -> ImageLayout | None:
    """The layout behind ``metadata``, or None when it is not exactly what our reader knows."""
    try:
        rows, height, width, channels = metadata["shape"]
        size = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        inner = [codec["name"] for codec in metadata["codecs"][0]["configuration"]["codecs"]]
        codec = "jpeg" if inner[0] == JPEG_CODEC else "blosc" if BLOSC_CODEC in inner else "raw"
        frame, dtype = (height, width, channels), metadata["data_type"]
        layout = ImageLayout(frame, size, codec, rows, dtype, inner[-1] == _CRC32C["name"])
        known = _counts(rows, (size, *frame)) and size <= _MAX_FRAMES_PER_SHARD and dtype in _FRAME_DTYPES
        known = known and (codec != "jpeg" or (channels, dtype) == (3, "uint8"))
        return layout if known and _same(image_metadata(layout), metadata) else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _counts(rows: Any, sizes: Sequence[Any]) -> bool:
    """Whether these are whole numbers that an array can have as its length and chunk shape."""
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (rows, *sizes))
    return whole and rows >= 0 and all(n > 0 for n in sizes)


def _same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Equality apart from entries that do not change a single byte: attributes, names of axes, an encoder's effort."""
    idle = ("attributes", "storage_transformers", "dimension_names")
    return _plain({k: v for k, v in ours.items() if k not in idle}) == _plain(
        {k: v for k, v in theirs.items() if k not in idle}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("name") in (JPEG_CODEC, BLOSC_CODEC):  # their files say themselves how they were made
            return {"name": value["name"]}
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def chunk_keys(metadata: Mapping[str, Any]) -> list[str]:
    """File names of all chunks or shards that hold rows of an array, inside its folder.

    Raises:
        DataError: another layout than ours.
    """
    layout = parse_column(metadata) or parse_image(metadata)
    if layout is None:
        raise DataError(
            explain("an array is laid out by other software", given=metadata.get("codecs"), mend="copy its episodes")
        )
    size = layout.chunk_rows if isinstance(layout, ColumnLayout) else layout.shard_frames
    return [layout.key(i) for i in range(-(-layout.rows // size))]


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def root_metadata(attributes: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """zarr.json of the store: attributes, and the metadata of every node inline, as zarr-python consolidates them.

    Args:
        attributes: Of the root group.
        arrays: Path within the store (``data/image/front``) -> its zarr.json.
    """
    groups = {"/".join(path.split("/")[:i]) for path in arrays for i in range(1, path.count("/") + 1)}

    def inline(nodes: Mapping[str, Any]) -> dict[str, Any]:
        return {"kind": "inline", "must_understand": False, "metadata": nodes}

    nodes = {name: {**group_metadata(), "consolidated_metadata": inline({})} for name in sorted(groups)}
    return {**group_metadata(attributes), "consolidated_metadata": inline({**nodes, **arrays})}
