"""Where the bytes of a store are: a folder, an uncompressed zip file, or (:mod:`robopolicy.data.remote`) a server."""

from __future__ import annotations

import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from robopolicy.errors import DataError, StoreNotFoundError, explain

__all__ = ["DAMAGE", "Files", "LocalFiles", "ZipFiles", "is_zip", "lasting_path", "store_url"]

DAMAGE = "the file is damaged; restore it from a copy of the store, or collect the data again"
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)")  # two letters or more, or it would be a drive
_MAX_INFLATED_BYTES = 1 << 30
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKWARE APPNOTE 6.3.10, section 4.3.7


class Files(Protocol):
    """The files below one folder of a store; a key is a file's path below that folder, parts divided by ``/``."""

    mapped: bool
    """Whether :meth:`view` costs nothing until the bytes are touched."""

    def within(self, name: str) -> Files:
        """The files below a folder."""
        ...

    def where(self, key: str) -> str:
        """What to call a file in a message."""
        ...

    def find(self, key: str) -> bytes | None:
        """A whole file, or None when there is none; raises as :meth:`read` otherwise."""
        ...

    def read(self, key: str) -> bytes:
        """A whole file.

        Raises:
            DataError: it is missing or cannot be read.
            StorageError: a server does not answer.
        """
        ...

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Whole files, side by side where that is faster; raises as :meth:`read`."""
        ...

    def view(self, key: str) -> memoryview:
        """A whole file as read-only memory, raises as :meth:`read`."""
        ...

    def zarr_store(self) -> Any:
        """What ``zarr.open_group`` takes to open this folder."""
        ...


class LocalFiles:
    """Files of a folder. A mapping keeps showing the file it was made from when a writer has replaced it."""

    mapped = True

    def __init__(self, folder: Path):
        """Nothing is opened."""
        self.folder = folder

    def within(self, name: str) -> LocalFiles:
        """The files below a folder."""
        return LocalFiles(self.folder / name)

    def where(self, key: str) -> str:
        """Path of a file."""
        return str(self.folder / key)

    def find(self, key: str) -> bytes | None:
        """A whole file, or None; see :meth:`Files.find`."""
        return self.read(key) if (self.folder / key).is_file() else None

    def read(self, key: str) -> bytes:
        """A whole file; see :meth:`Files.read`."""
        try:
            return (self.folder / key).read_bytes()
        except OSError as error:
            raise _unreadable(self.where(key), error) from error

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Whole files, one after the other."""
        return [self.read(key) for key in keys]

    def view(self, key: str) -> memoryview:
        """A mapped file; see :meth:`Files.view`."""
        try:
            with open(self.folder / key, "rb") as stream:
                return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise _unreadable(self.where(key), error) from error

    def zarr_store(self) -> str:
        """The folder."""
        return str(self.folder)


def _unreadable(where: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(explain(f"{where} is missing", mend=DAMAGE))
    return DataError(explain(f"{where} cannot be read: {error}", mend=DAMAGE))


def store_url(path: str | Path) -> str | None:
    """``path`` as a URL, also where :class:`Path` took one of its slashes; None for a local path."""
    found = _URL.fullmatch(str(path))
    return f"{found[1]}://{found[2]}" if found else None


def is_zip(path: Path) -> bool:
    """Whether a path is that of a zipped store, by its name."""
    return path.suffix == ".zip"


class ZipFiles:
    """Files of a zip archive, mapped once; stored entries are read in place, deflated ones are inflated at each use."""

    mapped = True

    def __init__(self, path: Path, memory: memoryview, entries: dict[str, zipfile.ZipInfo], prefix: str = ""):
        """Use :meth:`open`."""
        self.path, self.prefix = path, prefix
        self._memory, self._entries = memory, entries

    @classmethod
    def open(cls, path: Path) -> ZipFiles:
        """Map an archive and read its directory.

        Raises:
            StoreNotFoundError: nothing there.
            DataError: not a zip archive, or a damaged one.
        """
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise StoreNotFoundError(explain(f"no zipped store at {path}", given=found, mend="check the path"))
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise DataError(explain(f"{path} is not a readable zip archive: {error}", mend=DAMAGE)) from error
        return cls(path, LocalFiles(path.parent).view(path.name), entries)

    def within(self, name: str) -> ZipFiles:
        """The files below a folder."""
        return ZipFiles(self.path, self._memory, self._entries, f"{self.prefix}{name}/")

    def where(self, key: str) -> str:
        """Archive and name within."""
        return f"{self.path}:{self.prefix}{key}"

    def find(self, key: str) -> bytes | None:
        """A whole entry, or None; see :meth:`Files.find`."""
        return self.read(key) if self.prefix + key in self._entries else None

    def read(self, key: str) -> bytes:
        """A whole entry; see :meth:`Files.read`."""
        return bytes(self.view(key))

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Whole entries, one after the other."""
        return [self.read(key) for key in keys]

    def view(self, key: str) -> memoryview:
        """An entry; a part of the mapped archive when it is stored.

        Raises:
            DataError: no such entry, or it does not lie inside the archive.
        """
        info = self._entries.get(self.prefix + key)
        if info is None:
            raise DataError(explain(f"{self.where(key)} is missing", mend=DAMAGE))
        start = info.header_offset
        head = bytes(self._memory[start : start + _LOCAL_HEADER.size])
        if start < 0 or len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
            raise DataError(explain(f"{self.where(key)} is not where the archive says", mend=DAMAGE))
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)[9:]
        start += _LOCAL_HEADER.size + name_bytes + extra_bytes
        stop = start + info.compress_size
        stored = info.compress_type == zipfile.ZIP_STORED
        if stop > len(self._memory) or info.flag_bits & 1 or (stored and info.compress_size != info.file_size):
            raise DataError(explain(f"{self.where(key)} is encrypted or cut short", mend=DAMAGE))
        return self._memory[start:stop] if stored else memoryview(self._inflated(key, info, start, stop))

    def _inflated(self, key: str, info: zipfile.ZipInfo, start: int, stop: int) -> bytes:
        """A deflated entry: right, but slow; ``robopolicy.data.archive.pack`` never makes one.

        Raises:
            DataError: another compression, an absurd size, or damage.
        """
        if info.compress_type != zipfile.ZIP_DEFLATED or info.file_size > _MAX_INFLATED_BYTES:
            given = (info.compress_type, info.file_size)
            mend = "pack the store again with robopolicy.data.archive.pack"
            raise DataError(explain(f"{self.where(key)} cannot be inflated", given=given, mend=mend))
        try:
            inflate = zlib.decompressobj(-15)
            raw = inflate.decompress(self._memory[start:stop], info.file_size + 1)
        except zlib.error as error:
            raise DataError(explain(f"{self.where(key)} cannot be inflated: {error}", mend=DAMAGE)) from error
        if len(raw) != info.file_size or zlib.crc32(raw) != info.CRC:
            raise DataError(explain(f"{self.where(key)} does not match its checksum", mend=DAMAGE))
        return raw

    def zarr_store(self) -> Any:
        """zarr-python's store of the same archive."""
        from zarr.storage import ZipStore

        return ZipStore(self.path, mode="r")


def lasting_path(path: str | Path) -> str:
    """``path`` as it is found again from any folder: a URL as it is, a local path made absolute."""
    return store_url(path) or str(Path(path).absolute())
