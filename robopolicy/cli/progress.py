"""A progress bar on a terminal; a line now and then where output goes to a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

__all__ = ["Progress"]

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
