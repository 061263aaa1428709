"""Makes an empty store, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from robopolicy.data import layout
from robopolicy.data.durable import storage_errors, sync_folders
from robopolicy.data.episode import StreamSpec, stream_specs
from robopolicy.data.layout import ColumnLayout, ImageLayout
from robopolicy.data.snapshot import ROOT_FILE, json_bytes, record_bytes, strict_json
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, StorageError, explain

__all__ = ["create_store"]


def create_store(
    path: Path,
    embodiment: Embodiment,
    *,
    task: str,
    cameras: Mapping[str, tuple[int, int]],
    environment_state: tuple[str, ...],
    extra: Mapping[str, StreamSpec],
    codec: str,
    fps: float,
    provenance: Mapping[str, Any],
    checksums: bool = True,
) -> None:
    """Lay out a store without episodes; arguments as :meth:`robopolicy.data.store.EpisodeStore.create`.

    Raises:
        DataError: an unknown codec, or channel names that repeat.
        StorageError: the path is taken, or the disk refused.
    """
    if codec not in layout.IMAGE_CODECS:
        raise DataError(explain("unknown image codec", given=repr(codec), allowed=layout.IMAGE_CODECS))
    if len(set(environment_state)) != len(environment_state):
        raise DataError(explain("environment_state names repeat", given=environment_state))
    specs = stream_specs(embodiment, environment_state, cameras, extra)
    description = {
        "format": layout.FORMAT,
        "schema_version": layout.SCHEMA_VERSION,
        "task": task,
        "fps": fps,
        "embodiment": strict_json(embodiment.to_dict()),
        "embodiment_hash": embodiment.hash,
        "streams": {name: spec.to_dict() for name, spec in specs.items()},
        "environment_state": list(environment_state),
        "cameras": {n: {"height": h, "width": w, "codec": codec} for n, (h, w) in cameras.items()},
    }
    attributes = {
        **description,
        "provenance": {
            "software": f"robopolicy {metadata.version('robopolicy')}",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **strict_json(provenance),
        },
        "committed": {
            "num_episodes": 0,
            "num_steps": 0,
            "content_hash": hashlib.sha256(json_bytes(description)).hexdigest(),
        },
        "statistics": {},
    }
    _lay_out(path, attributes, _empty_arrays(specs, codec, checksums))


def _empty_arrays(specs: Mapping[str, StreamSpec], codec: str, checksums: bool) -> dict[str, dict[str, Any]]:
    arrays = {}
    for name, spec in specs.items():
        if spec.image:
            height, width, channels = spec.shape
            frame = (height, width, channels)
            chosen = codec if (spec.dtype, channels) == ("uint8", 3) else "blosc"  # depth and masks stay exact
            size = layout.shard_frames(frame, spec.dtype, chosen)
            image = ImageLayout(frame, size, chosen, 0, spec.dtype, checksums)
            arrays[f"data/{name}"] = layout.image_metadata(image)
        else:
            arrays[f"data/{name}"] = _empty_column(spec.dtype, spec.shape)
    arrays[layout.ENDS] = _empty_column("int64", ())
    records = ColumnLayout("uint8", (), layout.RECORD_CHUNK_BYTES, 0)
    arrays[layout.RECORDS] = layout.column_metadata(records)
    return arrays


def _empty_column(dtype: str, width: tuple[int, ...]) -> dict[str, Any]:
    return layout.column_metadata(ColumnLayout(dtype, width, layout.chunk_rows(dtype, width), 0))


def _lay_out(path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Build the empty store beside ``path`` and rename it into place."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(
            explain(f"{path} already exists", mend="open it with mode='a' to add episodes, or choose another path")
        )
    root = layout.root_metadata(attributes, arrays)
    inside = {
        name: document if document["node_type"] == "array" else layout.group_metadata()
        for name, document in root["consolidated_metadata"]["metadata"].items()
    }
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            for name, document in inside.items():
                folder = staging / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ROOT_FILE).write_bytes(json_bytes(document))
            (staging / ROOT_FILE).write_bytes(record_bytes(attributes, arrays))
            os.replace(staging, path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    sync_folders([path.parent])
