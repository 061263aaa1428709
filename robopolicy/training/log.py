"""What a run tells: ``metrics.jsonl``, TensorBoard, and a progress bar with throughput and time left."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["RunLog"]


class RunLog:
    """Writes on the first process only; on the others every method does nothing.

    Args:
        run_dir: Gets ``metrics.jsonl`` and ``tensorboard/``.
        active: Whether this process writes.
        progress: Show a bar; a plain line per log step where the output is no terminal.
    """

    def __init__(self, run_dir: Path, *, active: bool, progress: bool = True):
        self.active = active
        self._file = run_dir / "metrics.jsonl"
        self._board: Any = None
        self._console = Console(file=sys.stderr, quiet=not (active and progress))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (active and progress and self._console.is_terminal),
        )
        self._task: Any = None
        self._run_dir = run_dir

    def __enter__(self) -> Self:
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._run_dir / "tensorboard"))
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def begin(self, stage: str, step: int, steps: int) -> None:
        """Start the bar of a stage, and forget lines written after the step that is resumed from."""
        self._task = self._progress.add_task(stage, total=steps, completed=step, status="")
        if self.active and self._file.is_file():
            lines = [line for line in self._file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if not _after(json.loads(line), stage, step)]
            self._file.write_text("".join(kept))

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def write(self, stage: str, step: int, values: Mapping[str, float], status: str | None = None) -> None:
        """One line of metrics; ``status`` is what the bar or the plain output shows."""
        if not self.active:
            return
        with open(self._file, "a") as stream:
            stream.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{stage}/{name}", value, step)
        if status is not None:
            self._progress.update(self._task, status=status)
            if self._progress.disable:
                self.say(f"{stage} step {step}: {status}")

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _after(line: Mapping[str, Any], stage: str, step: int) -> bool:
    return line.get("stage") == stage and int(line.get("step", 0)) > step
