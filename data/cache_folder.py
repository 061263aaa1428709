"""A folder of cache files that several processes share: one builder at a time, whole files only, a cap on the size."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from robopolicy.data.durable import TEMPORARY_SUFFIX, storage_errors
from robopolicy.data.shared_block import PAGE_BYTES
from robopolicy.errors import StorageError, explain

__all__ = ["building", "finished", "make_room"]


@contextlib.contextmanager
def building(folder: Path) -> Iterator[None]:
    """Hold the right to make files in ``folder``, waiting for whoever has it (the kernel frees it when that one dies).

    Raises:
        StorageError: the folder cannot be made or locked.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for left in folder.glob("*.frames" + TEMPORARY_SUFFIX):  # nobody is writing it: the right is ours
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)


def finished(path: Path, size: int, header: bytes) -> int | None:
    """Open the file if it is whole and holds what ``header`` says; None otherwise. Marks it as used now.

    Returns:
        A descriptor that the caller owns. The file stays readable through it even if the folder loses it.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        mend = "remove it, or use another folder"
        raise StorageError(explain(f"cannot read {path}: {error.strerror}", mend=mend)) from error
    if os.fstat(descriptor).st_size != size or os.pread(descriptor, PAGE_BYTES, 0).rstrip(b"\0") != header:
        os.close(descriptor)
        return None
    with contextlib.suppress(OSError):  # another user's file, or a read-only folder
        os.utime(path)
    return descriptor


def make_room(folder: Path, nbytes: int, cap_bytes: int) -> None:
    """Remove the files unused for longest until ``nbytes`` more fit below the cap. Whoever has one mapped keeps it.

    Args:
        folder: Of the cache; the right of :func:`building` is held.
        nbytes: Size of the file to come.
        cap_bytes: All files together.

    Raises:
        StorageError: it does not fit even into an empty folder.
    """
    if nbytes > cap_bytes:
        mend = "raise the cap, lower image_size, or do without the cache folder"
        raise StorageError(explain("a cache file is larger than the cap", given=nbytes, allowed=cap_bytes, mend=mend))
    files = sorted(((p.stat().st_mtime_ns, p.stat().st_size, p) for p in folder.glob("*.frames")), reverse=True)
    used = sum(size for _, size, _ in files)
    while files and used + nbytes > cap_bytes:
        _, size, oldest = files.pop()
        oldest.unlink(missing_ok=True)
        used -= size
