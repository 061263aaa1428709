"""Files that are either whole or absent: write beside, fsync, rename; and the lock of the single writer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

from robopolicy.errors import StorageError, explain

__all__ = ["TEMPORARY_SUFFIX", "WriterLock", "storage_errors", "sync_folders", "write_atomically"]

TEMPORARY_SUFFIX = ".partial"
"""Ending of files that were being written when a process died; the next writer removes them."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into :class:`StorageError`.

    Raises:
        StorageError: disk full, quota, file-size limit, read-only or vanished file system.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        mends = {
            errno.ENOSPC: "free some space or choose another disk, then append again",
            errno.EDQUOT: "raise the quota or choose another disk, then append again",
            errno.EFBIG: "raise the file-size limit (ulimit -f) or choose another disk, then append again",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "the folder is not writable; change its permissions or choose another",
        }
        raised = StorageError(
            explain(
                f"cannot write {path}: {error.strerror or error}",
                mend=f"{mends.get(error.errno or 0, 'check the disk')} (everything committed before is intact)",
            )
        )
        raised.errno = error.errno
        raise raised from error


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace ``path`` by the concatenation of ``parts``; a reader sees the old file or the new one, never a mixture.

    The content is on the disk before the name points to it. The folder entry itself is made durable by
    :func:`sync_folders`.

    Raises:
        StorageError: nothing was replaced.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with storage_errors(path):
        try:
            with open(temporary, "wb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def sync_folders(folders: Iterable[Path]) -> None:
    """Make renames inside ``folders`` survive a power cut.

    Raises:
        StorageError: the disk refused.
    """
    for folder in sorted(set(folders)):
        with storage_errors(folder):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class WriterLock:
    """Exclusive right to write into a folder, held by an open descriptor of the folder itself.

    The kernel releases it when the process dies, so a killed writer leaves nothing to clean up
    (``flock``, no lock file). A forked child gives up its copy at once: the right stays with the parent alone, and a
    child that outlives the parent does not hold it.
    """

    def __init__(self, folder: Path):
        """Take the lock at once or refuse.

        Raises:
            StorageError: another handle, in this process or another, is writing.
        """
        with storage_errors(folder):
            self._descriptor: int | None = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.release()
                raise StorageError(
                    explain(
                        f"{folder} is being written by another process or another open handle",
                        mend="close that writer first, open with mode='r', or collect into a store of its own",
                    )
                ) from error

        _HELD.add(self)

    @property
    def held(self) -> bool:
        """Whether this process may write."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the right back; harmless when done twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: weakref.WeakSet[WriterLock] = weakref.WeakSet()  # locks of this process, for the hook below only


def _give_up_after_fork() -> None:
    for lock in list(_HELD):
        lock.release()


os.register_at_fork(after_in_child=_give_up_after_fork)
