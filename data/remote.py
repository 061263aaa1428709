"""Stores behind a URL (``s3://``, ``https://``, ``memory://`` and whatever else fsspec knows), read by byte ranges.

Nothing is kept on the disk. Low-dimensional streams are fetched once and stay in RAM, as everywhere; of an image
shard the index is fetched when it is first needed (and kept), then the frames that are asked for, neighbours in one
request. What goes wrong is tried again a bounded number of times; then the error says what, where, how often.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from robopolicy.data.files import DAMAGE
from robopolicy.errors import DataError, MissingDependencyError, StorageError, explain

__all__ = ["RemoteFiles"]

T = TypeVar("T")
Request = tuple[str, int | None, int | None]
"""Key, first byte, byte after the last; None for a whole file."""

_OWN = {"attempts": 5, "wait_s": 0.2, "longest_wait_s": 5.0, "timeout_s": 20.0}
_AT_ONCE = 16
_WORTH_RETRYING = (408, 425, 429)  # of the HTTP statuses 400 to 499: time-outs and "too many requests"


class RemoteFiles:
    """Files below a URL. Read-only; usable from several threads and after a fork.

    Options of its own, the others go to fsspec (``key``, ``secret``, ``endpoint_url``, ``anon``, ``headers`` ...):

    * ``attempts``: how often a request is made before giving up (5);
    * ``wait_s``, ``longest_wait_s``: pause before the second attempt (0.2), doubled each time up to a limit (5);
    * ``timeout_s``: for connecting, and for silence while reading (20).
    """

    mapped = False

    def __init__(self, url: str, storage: Mapping[str, Any] | None = None):
        """Nothing is fetched yet.

        Args:
            url: Of the store.
            storage: Options, see above.

        Raises:
            MissingDependencyError: fsspec, or what it needs for this protocol, is not installed.
            StorageError: an unknown protocol, or options that it does not take.
        """
        options = dict(storage or {})
        self._settings = {name: type(value)(options.pop(name, value)) for name, value in _OWN.items()}
        self.url, self._options = url.rstrip("/"), options
        self._lock = threading.Lock()
        self._process, self._system, self._root = os.getpid(), *self._connected()
        self._prefix = ""

    def within(self, name: str) -> RemoteFiles:
        """The files below a folder; connection and settings are shared."""
        other = object.__new__(RemoteFiles)
        other.__dict__.update(self.__dict__)
        other._prefix = f"{self._prefix}{name}/"
        return other

    def where(self, key: str) -> str:
        """URL of a file."""
        return f"{self.url}/{self._prefix}{key}"

    def find(self, key: str) -> bytes | None:
        """A whole file, or None when there is none; see :meth:`read`."""
        return self._fetched([(key, None, None)])[0]

    def read(self, key: str) -> bytes:
        """A whole file.

        Raises:
            DataError: there is none.
            StorageError: the server does not answer, or refuses.
        """
        return self.read_many([key])[0]

    def read_many(self, keys: Sequence[str]) -> list[bytes]:
        """Whole files, several at a time; raises as :meth:`read`."""
        return self.ranges([(key, None, None) for key in keys])

    def view(self, key: str) -> memoryview:
        """A whole file; raises as :meth:`read`."""
        return memoryview(self.read(key))

    def ranges(self, requests: Sequence[Request]) -> list[bytes]:
        """Parts of files, several at a time; raises as :meth:`read`."""
        answers = []
        for (key, *_), answer in zip(requests, self._fetched(requests), strict=True):
            if answer is None:
                raise DataError(explain(f"{self.where(key)} is missing", mend=DAMAGE))
            answers.append(answer)
        return answers

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of each file; raises as :meth:`read`."""

        def ask() -> list[int]:
            found = self._files_system().sizes([self._path(key) for key in keys])
            if any(size is None for size in found):
                raise StorageError(explain(f"{self.where(keys[0])}: the server does not tell sizes of files"))
            return [int(size) for size in found]

        try:
            return self._patiently(ask, self.where(keys[0]))
        except FileNotFoundError as error:
            raise DataError(explain(f"{error.args[0] if error.args else keys} is missing", mend=DAMAGE)) from error

    def zarr_store(self) -> Any:
        """zarr-python's store of the same URL."""
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.url, storage_options=self._fsspec_options(), read_only=True)

    def _fetched(self, requests: Sequence[Request]) -> list[bytes | None]:
        """Answers in order, None for a file that is not there. Only what failed is asked for again."""
        answers: dict[int, bytes | None] = {}

        def ask() -> None:
            failed: Exception | None = None
            waiting = [i for i in range(len(requests)) if i not in answers]
            for first in range(0, len(waiting), _AT_ONCE):
                some = waiting[first : first + _AT_ONCE]
                parts = [requests[i] for i in some]
                found = self._files_system().cat_ranges(
                    [self._path(key) for key, *_ in parts],
                    [start for _, start, _ in parts],
                    [stop for *_, stop in parts],
                    on_error="return",
                )
                for i, answer in zip(some, found, strict=True):
                    problem = _problem(answer, requests[i])
                    if problem is None:
                        answers[i] = None if isinstance(answer, FileNotFoundError) else bytes(answer)
                    elif failed is None or not _retryable(problem):
                        failed = problem
            if failed is not None:
                raise failed

        missing = next((key for key, *_ in requests), "")
        self._patiently(ask, self.where(missing) + (f" and {len(requests) - 1} more" if len(requests) > 1 else ""))
        return [answers[i] for i in range(len(requests))]

    def _patiently(self, ask: Callable[[], T], where: str) -> T:
        """``ask()``, again and again while there is hope.

        Raises:
            StorageError: with the URL, the number of attempts and the last error.
            FileNotFoundError: as ``ask`` raised it.
        """
        attempts, pause_s = max(1, int(self._settings["attempts"])), float(self._settings["wait_s"])
        for attempt in range(1, attempts + 1):
            try:
                return ask()
            except StorageError:
                raise
            except Exception as caught:  # fsspec passes on the exceptions of whatever library moves the bytes
                error = _true_error(caught)
                if isinstance(error, FileNotFoundError):
                    raise
                if attempt == attempts or not _retryable(error):
                    raise StorageError(
                        explain(
                            f"cannot read {where}: {attempt} attempt{'s' * (attempt > 1)}, the last: "
                            f"{type(error).__name__}: {error}",
                            mend="check the address, the credentials and the connection, or copy the store to a disk",
                        )
                    ) from error
            time.sleep(min(pause_s, float(self._settings["longest_wait_s"])) * random.uniform(0.8, 1.2))
            pause_s *= 2
        raise AssertionError("unreachable")

    def _path(self, key: str) -> str:
        return f"{self._root}/{self._prefix}{key}"

    def _files_system(self) -> Any:
        """The connection; made anew in a forked child, whose copy has no running event loop."""
        if self._process != os.getpid():
            with self._lock:
                self._process, self._system, self._root = os.getpid(), *self._connected()
        return self._system

    def _connected(self) -> tuple[Any, str]:
        try:
            import fsspec

            system, root = fsspec.core.url_to_fs(self.url, **self._fsspec_options())
        except ImportError as error:
            what = f"{self.url} cannot be read: {error}"
            raise MissingDependencyError(explain(what, mend="pip install 'robopolicy[remote]'")) from error
        except (ValueError, TypeError) as error:
            raise StorageError(explain(f"{self.url} cannot be opened: {error}", given=sorted(self._options))) from error
        if hasattr(system, "retries"):
            system.retries = 1  # ours are enough; both together would multiply
        return system, str(root).rstrip("/")

    def _fsspec_options(self) -> dict[str, Any]:
        """The user's options and, where they leave it open, time-outs and no second layer of retries."""
        protocol, timeout_s = self.url.partition("://")[0], float(self._settings["timeout_s"])
        if protocol in ("s3", "s3a"):
            patience = {"connect_timeout": timeout_s, "read_timeout": timeout_s, "retries": {"total_max_attempts": 1}}
            config = {**patience, **self._options.get("config_kwargs", {})}
            return {"use_listings_cache": False, "skip_instance_cache": True, **self._options, "config_kwargs": config}
        if protocol in ("http", "https") and "client_kwargs" not in self._options:
            import aiohttp

            limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
            return {"skip_instance_cache": True, **self._options, "client_kwargs": {"timeout": limit}}
        return dict(self._options)


def _problem(answer: Any, request: Request) -> Exception | None:
    """What is wrong with the answer to a request; a file that is not there is no problem."""
    if isinstance(answer, Exception):
        error = _true_error(answer)
        return None if isinstance(error, FileNotFoundError) else error
    _, start, stop = request
    if start is not None and stop is not None and len(answer) != stop - start:
        return OSError(f"{len(answer)} bytes came instead of {stop - start}; does the server support ranges?")
    return None


def _true_error(error: Exception) -> Exception:
    """fsspec says "no such file" of every failed question for a size over HTTP; the cause knows better."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return error if status in (404, 410) else cause
    lost = isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp")
    return cause if lost and not isinstance(cause, FileNotFoundError) else error


def _retryable(error: Exception) -> bool:
    """Whether trying again may help: not when the server understood the request and refused it."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_RETRYING
    return not refused and not isinstance(error, (PermissionError, MissingDependencyError))
