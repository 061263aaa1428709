"""Instructions of RoboMIND: a CSV with one line per task, and JSON files with steps of about ten thousand episodes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, explain

__all__ = ["Language", "find_language", "read_language"]

_FRAME = re.compile(r"(\d+)\.\w+$")
_UP = 3
"""Levels above the source in which the released files are looked for: benchmark, data set, release."""


@dataclass
class Language:
    """What is known.

    Attributes:
        instructions: Task folder -> instruction; steps in one line divided by commas, as released.
        annotations: ``h5_.../task/success_episodes/split/episode`` -> ``{task_summary, steps}``.
        files: Where it was read.
    """

    instructions: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def of(self, task: str, key: str) -> tuple[str, dict[str, Any]]:
        """Instruction of an episode, and the entry for its metadata (``task_summary``, ``steps`` with row numbers)."""
        entry = self.annotations.get(key, {})
        return self.instructions.get(task) or str(entry.get("task_summary", "")), entry


def find_language(source: Path) -> tuple[Path, ...]:
    """Released files beside the source or above it: ``*instr*.csv`` and ``language_description_annotation_json``."""
    base = source if source.is_dir() else source.parent
    found: list[Path] = []
    for folder in (base, *list(base.parents)[:_UP]):
        found += sorted(folder.glob("*instr*.csv"))
        found += sorted((folder / "language_description_annotation_json").glob("*.json"))
        found += sorted((folder / "static" / "language_description_annotation_json").glob("*.json"))
        found += sorted((folder / "static").glob("*instr*.csv"))
    return tuple(dict.fromkeys(found))


def read_language(files: Iterable[Path]) -> Language:
    """Read CSV and JSON files; folders stand for the JSON and CSV files in them.

    Raises:
        DataError: a file that is missing or not of the released form.
    """
    language = Language()
    listed: list[Path] = []
    for path in files:
        listed += sorted([*path.glob("*.json"), *path.glob("*.csv")]) if path.is_dir() else [path]
    for path in listed:
        if not path.is_file():
            raise DataError(explain(f"no such file: {path}", mend="check options.language"))
        (_read_csv if path.suffix == ".csv" else _read_json)(path, language)
    language.files = tuple(listed)
    return language


def _read_csv(path: Path, language: Language) -> None:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if not {"task", "instruction"} <= set(rows.fieldnames or ()):
            raise DataError(
                explain(f"{path} is not a table of instructions", given=rows.fieldnames, allowed="task, instruction")
            )
        for row in rows:
            if row["task"] and row["instruction"]:
                language.instructions[row["task"].strip()] = row["instruction"].strip()


def _read_json(path: Path, language: Language) -> None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            response = entry["response"]
            key = str(entry["id"]).strip("/").removesuffix("/data")
            language.annotations[key] = {
                "task_summary": str(response.get("task_summary", "")),
                "steps": [_step(step) for step in response.get("steps", [])],
            }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            explain(
                f"{path} is not a file of step annotations: {type(error).__name__} {error}",
                allowed="[{id, response: {task_summary, steps: [{step_description, start_frame, end_frame}]}}]",
            )
        ) from error


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """Frame names such as ``camera_top_0281.jpg`` become row numbers, -1 where there is none."""
    numbers = [_FRAME.search(str(step.get(key, ""))) for key in ("start_frame", "end_frame")]
    start, end = (int(found.group(1)) if found else -1 for found in numbers)
    return {"description": str(step["step_description"]), "start": start, "end": end}
