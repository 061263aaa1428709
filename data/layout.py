"""What a store looks like on disk: names, zarr v3 metadata documents, and what our own readers recognise.

Everything here is plain JSON of the zarr v3 core specification (https://zarr-specs.readthedocs.io/en/latest/v3/core/),
so a store can be created and read without importing zarr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.data.codecs import JPEG_CODEC, jpeg_codec_metadata

__all__ = [
    "COLUMN_CHUNK_ROWS",
    "ENDS",
    "FORMAT",
    "IMAGE_CODECS",
    "RECORDS",
    "RECORD_CHUNK_BYTES",
    "SCHEMA_VERSION",
    "SHARD_FRAMES",
    "ColumnLayout",
    "ImageLayout",
    "column_metadata",
    "group_metadata",
    "image_metadata",
    "parse_column",
    "parse_image",
    "root_metadata",
]

FORMAT = "robopolicy.episodes"
SCHEMA_VERSION = 1
COLUMN_CHUNK_ROWS = 65_536
RECORD_CHUNK_BYTES = 1 << 18
SHARD_FRAMES = 256
IMAGE_CODECS = ("raw", "jpeg")
ENDS, RECORDS = "meta/episode_ends", "meta/episode_records"

_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_FLAT_KEYS = {"name": "default", "configuration": {"separator": "."}}
_ITEM_BYTES = {"float32": 4, "int64": 8, "uint8": 1}


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
        codec: ``raw`` or ``jpeg``.
        rows: Length of the array.
    """

    frame: tuple[int, int, int]
    shard_frames: int
    codec: str
    rows: int

    def key(self, shard: int) -> str:
        """File name of a shard inside the array's folder."""
        return f"c.{shard}.0.0.0"

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        height, width, channels = self.frame
        return height * width * channels


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
    plain: dict[str, Any] = {"name": "bytes"}
    if _ITEM_BYTES[layout.dtype] > 1:
        plain["configuration"] = {"endian": "little"}
    codecs = [plain, {"name": "zstd", "configuration": {"level": 1, "checksum": True}}]
    return _array((layout.rows, *layout.width), layout.dtype, (layout.chunk_rows, *layout.width), codecs)


def image_metadata(layout: ImageLayout) -> dict[str, Any]:
    """zarr.json of an image array."""
    inner = {"name": "bytes"} if layout.codec == "raw" else jpeg_codec_metadata()
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *layout.frame],
            "codecs": [inner],
            "index_codecs": _INDEX_CODECS,
            "index_location": "end",
        },
    }
    return _array((layout.rows, *layout.frame), "uint8", (layout.shard_frames, *layout.frame), [sharding])


def parse_column(metadata: Mapping[str, Any]) -> ColumnLayout | None:
    """The layout behind ``metadata``, or None when it is not exactly what our reader knows."""
    try:
        rows, *width = metadata["shape"]
        chunk_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        layout = ColumnLayout(metadata["data_type"], tuple(width), chunk_rows, rows)
        return layout if _same(column_metadata(layout), metadata) else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def parse_image(metadata: Mapping[str, Any]) -> ImageLayout | None:
    """The layout behind ``metadata``, or None when it is not exactly what our reader knows."""
    try:
        rows, height, width, channels = metadata["shape"]
        shard_frames = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        inner = metadata["codecs"][0]["configuration"]["codecs"][0]["name"]
        codec = {"bytes": "raw", JPEG_CODEC: "jpeg"}[inner]
        layout = ImageLayout((height, width, channels), shard_frames, codec, rows)
        return layout if _same(image_metadata(layout), metadata) else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Equality apart from entries that do not change a single byte: attributes, names of axes, JPEG quality."""
    idle = ("attributes", "storage_transformers", "dimension_names")
    return _plain({k: v for k, v in ours.items() if k not in idle}) == _plain(
        {k: v for k, v in theirs.items() if k not in idle}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("name") == JPEG_CODEC:
            return {"name": JPEG_CODEC}
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


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
