"""Reading the commit record: the root ``zarr.json``, checked before anything else is believed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.durable import write_atomically
from robopolicy.data.files import Files, LocalFiles
from robopolicy.data.layout import FORMAT, SCHEMA_VERSION, root_metadata
from robopolicy.data.tombstones import check_tombstones
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, EmbodimentError, StoreNotFoundError, explain

__all__ = ["ROOT_FILE", "Snapshot", "accept_record", "json_bytes", "read_snapshot", "record_bytes", "strict_json"]

ROOT_FILE = "zarr.json"
_NON_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_CHECKED_VERSION = 2
_RESTORE = "restore it from a copy of the store; the chunk files beside it are unaffected"


@dataclass(frozen=True)
class Snapshot:
    """What one commit record says.

    Attributes:
        attributes: Of the root group.
        arrays: Path within the store -> zarr.json of that array, with the committed shape.
        embodiment: The card in it.
    """

    attributes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    embodiment: Embodiment

    @property
    def num_steps(self) -> int:
        """Committed rows of every stream."""
        return int(self.attributes["committed"]["num_steps"])

    @property
    def num_episodes(self) -> int:
        """Committed episodes."""
        return int(self.attributes["committed"]["num_episodes"])

    @property
    def tombstones(self) -> tuple[int, ...]:
        """Stored indices of the deleted episodes, see :mod:`robopolicy.data.tombstones`."""
        return check_tombstones(self.attributes.get("tombstones", []), self.num_episodes)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Strict JSON, one line per store small enough to be replaced at every commit."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def strict_json(value: Any) -> Any:
    """``value`` with infinities (a limit of a card may be one) written as the text that zarr uses for them."""
    if isinstance(value, Mapping):
        return {str(k): strict_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def record_bytes(attributes: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The commit record as it is written, with its own checksum among the attributes.

    Args:
        attributes: Of the root group.
        arrays: Path within the store -> zarr.json of that array.
    """
    attributes = dict(attributes)
    if attributes["schema_version"] >= _CHECKED_VERSION:
        attributes["checksum"] = _checksum(attributes, arrays)
    return json_bytes(root_metadata(attributes, arrays))


def accept_record(path: str | Path) -> None:
    """Make the commit record's checksum fit again after it was edited on purpose.

    Args:
        path: The store's folder; nobody may be writing to it.

    Raises:
        StoreNotFoundError, DataError: as :func:`read_snapshot`, apart from the checksum.
        StorageError: the disk refused.
    """
    folder = Path(path)
    attributes, arrays = _read_root(folder, LocalFiles(folder))
    write_atomically(folder / ROOT_FILE, [record_bytes(attributes, arrays)])


def _checksum(attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """SHA-256 of everything in the record that can change what is read; indifferent to spacing and order of keys."""
    said = {k: v for k, v in attributes.items() if k != "checksum"}
    laid_out = {path: {k: v for k, v in a.items() if k != "attributes"} for path, a in arrays.items()}
    text = json.dumps([said, laid_out], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_snapshot(path: Path | str, files: Files | None = None) -> Snapshot:
    """Read and check the commit record of the store at ``path``.

    Args:
        path: Of the store, for messages.
        files: Where its files are; the folder ``path`` when not given.

    Raises:
        StoreNotFoundError: nothing there, or something else; the message says what was found.
        DataError: the record is damaged or of a newer schema.
    """
    files = files or LocalFiles(Path(path))
    attributes, arrays = _read_root(path, files)
    version = attributes.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise DataError(
            explain(
                f"{path} has another schema version",
                given=version,
                allowed=f"1 to {SCHEMA_VERSION}",
                mend="install a newer robopolicy, or export the store with the one that wrote it",
            )
        )
    record = files.where(ROOT_FILE)
    try:
        embodiment = Embodiment.from_dict(_numbers(attributes["embodiment"]))
        snapshot = Snapshot(attributes, arrays, embodiment)
        steps, stated = snapshot.num_steps, attributes["embodiment_hash"]
        lengths = {p: a["shape"][0] for p, a in arrays.items() if p.startswith("data/")}
        episodes = arrays["meta/episode_ends"]["shape"][0]
        missing = [f"data/{name}" for name in attributes["streams"] if f"data/{name}" not in lengths]
        _ = snapshot.tombstones
        altered = version >= _CHECKED_VERSION and attributes.get("checksum") != _checksum(attributes, arrays)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, EmbodimentError) as error:
        raise DataError(explain(f"{record} is damaged: {type(error).__name__}: {error}", mend=_RESTORE)) from error
    if embodiment.hash != stated:
        raise DataError(
            explain(f"{record}: the embodiment card was altered", given=(embodiment.hash, stated), mend=_RESTORE)
        )
    if missing or set(lengths.values()) != {steps} or episodes != snapshot.num_episodes:
        raise DataError(
            explain(
                f"{record} contradicts itself",
                given={"missing": missing, "rows": lengths, "committed": attributes["committed"]},
                mend=_RESTORE,
            )
        )
    if altered:
        mend = f"{_RESTORE}; if it was edited on purpose: robopolicy.data.snapshot.accept_record(path)"
        raise DataError(explain(f"{record} does not match its checksum", mend=mend))
    return snapshot


def _read_root(path: Path | str, files: Files) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Attributes and array documents, of whatever robopolicy store is there."""
    raw = _raw_root(path) if isinstance(files, LocalFiles) else files.find(ROOT_FILE)
    if raw is None:
        mend = f"name the folder or archive that has {ROOT_FILE} at its top"
        raise StoreNotFoundError(explain(f"no episode store at {path}: it has no {ROOT_FILE}", mend=mend))
    record = files.where(ROOT_FILE)
    try:
        document = json.loads(raw)
        attributes, kind = document.get("attributes", {}), document.get("node_type")
        ours = kind == "group" and attributes.get("format") == FORMAT
        nodes = document["consolidated_metadata"]["metadata"] if ours else {}
        arrays = {p: n for p, n in nodes.items() if n["node_type"] == "array"}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(explain(f"{record} is damaged: {type(error).__name__}: {error}", mend=_RESTORE)) from error
    if not ours:
        raise StoreNotFoundError(
            explain(
                f"{path} is zarr, but not an episode store",
                given=f"node_type {kind}, format {attributes.get('format')}",
                allowed=f"a group with format {FORMAT}",
                mend="convert it into a new store",
            )
        )
    return attributes, arrays


def _raw_root(path: Path | str) -> bytes:
    """The commit record of a local store, with a message that says what is there instead."""
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise StoreNotFoundError(
            explain(f"no episode store at {folder}", given=found, mend="check the path, or collect into it first")
        )
    try:
        return (folder / ROOT_FILE).read_bytes()
    except FileNotFoundError as error:
        entries = sorted(p.name for p in folder.iterdir())[:8]
        v2 = " (zarr version 2)" if ".zgroup" in entries else ""
        raise StoreNotFoundError(
            explain(
                f"no episode store at {folder}: it has no {ROOT_FILE}",
                given=f"a folder with {entries or 'nothing'} in it{v2}",
                mend="name the .zarr folder itself; other formats have to be converted first",
            )
        ) from error
    except OSError as error:
        raise DataError(explain(f"{folder / ROOT_FILE} cannot be read: {error}", mend=_RESTORE)) from error
