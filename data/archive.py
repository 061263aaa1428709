"""A store as one file: an uncompressed zip archive that is read in place, without unpacking.

Zip adds nothing to the bytes, so frames are mapped straight from the archive, and zarr-python reads it too
(``zarr.storage.ZipStore``). One file is easier to copy and to publish than a folder of thousands.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

from robopolicy.data.durable import TEMPORARY_SUFFIX, storage_errors, sync_folders
from robopolicy.data.files import Files, is_zip
from robopolicy.data.layout import chunk_keys, group_metadata
from robopolicy.data.snapshot import ROOT_FILE, json_bytes, record_bytes
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import StorageError, explain

__all__ = ["pack"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same store gives the same archive


def pack(store: EpisodeStore | str | Path, destination: str | Path) -> Path:
    """Write what is committed in a store into a new archive, whole or not at all.

    Args:
        store: The store, open or not.
        destination: A path that ends in ``.zip`` and does not exist.

    Returns:
        The destination; ``EpisodeStore.open`` takes it.

    Raises:
        StorageError: the path is taken or has another ending, or the disk refused.
        DataError: a file of the store is missing.
    """
    source = store if isinstance(store, EpisodeStore) else EpisodeStore.open(store)
    target = Path(destination)
    if not is_zip(target) or target.exists():
        given = "it exists" if target.exists() else f"it ends in '{target.suffix}'"
        raise StorageError(explain(f"cannot pack into {target}", given=given, allowed="a new path ending in .zip"))
    temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                    _write(archive, source)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync_folders([target.parent])
    return target


def _write(archive: zipfile.ZipFile, source: EpisodeStore) -> None:
    """The commit record first, then every array's metadata and the chunk files that hold committed rows."""
    snapshot, files = source.snapshot, source.files
    _entry(archive, ROOT_FILE, record_bytes(snapshot.attributes, snapshot.arrays))
    groups = {"/".join(name.split("/")[:i]) for name in snapshot.arrays for i in range(1, name.count("/") + 1)}
    for group in sorted(groups):
        _entry(archive, f"{group}/{ROOT_FILE}", json_bytes(group_metadata()))
    for name, document in sorted(snapshot.arrays.items()):
        _entry(archive, f"{name}/{ROOT_FILE}", json_bytes(document))
        for key in chunk_keys(document):
            _copy(archive, files, f"{name}/{key}")


def _copy(archive: zipfile.ZipFile, files: Files, key: str) -> None:
    _entry(archive, key, files.read(key))


def _entry(archive: zipfile.ZipFile, key: str, content: bytes) -> None:
    info = zipfile.ZipInfo(key, _EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)
