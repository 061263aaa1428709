"""A progress bar on a terminal; a line now and then where output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

__all__ = ["Progress", "telling"]

QUIET_S = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts episodes.

    Args:
        title: What is being done.
        total: Episodes in all.
        done: Episodes that were there before; they do not count for the rate.
    """

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done, self._first = title, total, done, done
        self.succeeded = 0
        self._begin = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            text = TextColumn("{task.description}")
            self._bar = Bar(text, *columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def count(self, result: Any) -> None:
        """One more episode is finished; says how many have succeeded. ``result`` is an ``EpisodeResult``."""
        self.succeeded += bool(result.success_at_end)
        self.show(self.done + 1, f"{self.succeeded} succeeded")

    def show(self, done: int, note: str = "") -> None:
        """Say that ``done`` episodes are finished."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last >= QUIET_S or done >= self.total:
            rate = (done - self._first) / max(now - self._begin, 1e-9)
            print(f"{self.title}: {done} of {self.total}, {rate:.2f}/s {note}".rstrip(), file=sys.stderr, flush=True)
            self._last = now


@contextmanager
def telling(title: str, shown: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """A function (done, in all) -> None that shows progress from its first call on, or None when nothing is shown."""
    bar = Progress(title, 0)
    begun = False

    def tell(done: int, total: int) -> None:
        nonlocal begun
        bar.total = total
        if not begun:
            bar.__enter__()
            begun = True
        bar.show(done)

    try:
        yield tell if shown else None
    finally:
        bar.__exit__(None, None, None)
