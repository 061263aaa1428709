"""Continuing a conversion: the store that it was begun in, what it was begun with, which episodes are in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.data.columns import read_column
from robopolicy.data.convert.plan import Request
from robopolicy.data.convert.source import SourceInfo
from robopolicy.data.layout import RECORDS, parse_column
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, explain

__all__ = ["open_conversion_store", "source_ids"]


def open_conversion_store(out: Path, request: Request, info: SourceInfo) -> EpisodeStore:
    """The store, new or begun by the same conversion.

    Raises:
        DataError: begun by another conversion, or not by a conversion.
    """
    identity = _identity(request, info)
    if not (out / "zarr.json").is_file():
        return EpisodeStore.create(
            out,
            info.embodiment,
            task=info.task,
            cameras=info.cameras,
            environment_state=info.environment_state,
            joints=info.joints,
            extra=info.extra,
            codec=request.codec,
            fps=info.fps,
            provenance={**info.provenance, "conversion": identity},
        )
    store = EpisodeStore.open(out, mode="a")
    try:
        begun = store.attributes.get("provenance", {}).get("conversion")
        mend = "choose another path for the store, or use the options that it was begun with"
        if begun is None:
            raise DataError(explain(f"{out} is a store that no conversion made", mend="choose another path"))
        differ = sorted(k for k in begun.keys() | identity.keys() if begun.get(k) != identity.get(k))
        if differ:
            raise DataError(
                explain(
                    f"{out} was begun by another conversion; they differ in {', '.join(differ)}",
                    given={k: identity.get(k) for k in differ},
                    allowed={k: begun.get(k) for k in differ},
                    mend=mend,
                )
            )
        store.embodiment.require_same(info.embodiment, mine=f"the store {out}", theirs="the source")
    except BaseException:
        store.close()
        raise
    return store


def _identity(request: Request, info: SourceInfo) -> dict[str, Any]:
    """What has to be the same for a conversion to be continued. Plain JSON."""
    return {
        "format": request.format,
        "source": str(Path(request.source).resolve()),
        "options": _json(request.options),
        "repair": sorted(request.repair),
        "embodiment": request.embodiment,
        "image_size": list(request.image_size) if request.image_size else None,
        "codec": request.codec,
        "fps": float(info.fps),
        "cameras": {name: list(size) for name, size in info.cameras.items()},
        "streams": sorted(info.extra),
    }


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def source_ids(store: EpisodeStore) -> set[str]:
    """Ids of all stored episodes, also of deleted ones, which must not come back."""
    layout = parse_column(store.snapshot.arrays[RECORDS])
    if layout is None:
        raise DataError(explain(f"{store.path} was laid out by other software", mend="choose another path"))
    lines = read_column(store.files.within(RECORDS), layout, 0, layout.rows).tobytes().splitlines()
    records = (json.loads(line)["metadata"] for line in lines)
    return {str(m["source"]["id"]) for m in records if isinstance(m.get("source"), Mapping) and "id" in m["source"]}
