"""Files of a LeRobot data set: info.json, JSON lines, path templates that the folders may contradict, parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from robopolicy.data.convert.source import Finding
from robopolicy.errors import DataError, MissingDependencyError, explain

__all__ = ["PathTemplate", "missing_episodes", "read_info", "read_lines", "require_parquet", "spans", "version_of"]

INFO = Path("meta") / "info.json"
_NEEDED = ("fps", "features")


def version_of(root: Path) -> str:
    """``codebase_version`` of the data set at ``root``, empty when it is none."""
    path = root / INFO
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("codebase_version", ""))
    except (ValueError, AttributeError):
        return ""


def read_info(root: Path) -> dict[str, Any]:
    """``meta/info.json``.

    Raises:
        DataError: missing, not JSON, or without what is needed.
    """
    path = root / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(explain(f"{path} cannot be read: {error}", mend="copy the data set again")) from error
    lacking = [key for key in _NEEDED if key not in info]
    if lacking or not isinstance(info["features"], Mapping):
        raise DataError(explain(f"{path} lacks {lacking or 'a mapping of features'}", given=sorted(info)))
    try:
        rate = float(info["fps"])
    except (TypeError, ValueError):
        rate = 0.0
    if not rate > 0:
        raise DataError(explain(f"{path}: fps has to be a positive number", given=info["fps"]))
    return dict(info)


def read_lines(path: Path, key: str) -> dict[int, dict[str, Any]]:
    """A file of JSON lines, by the whole number under ``key``.

    Raises:
        DataError: missing, or a line that is not what it should be; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(explain(f"{path} cannot be read: {error}", mend="copy the data set again")) from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found[int(entry[key])] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(explain(f"{path}, line {number} is damaged: {error}", given=line[:80])) from error
    return found


@dataclass(frozen=True)
class PathTemplate:
    """A path with fields, below the root of the data set.

    Attributes:
        root: Of the data set.
        template: As stated, or as found where the folders are named otherwise.
        tried: Fields of some files that should exist, for :meth:`settled`.
        findings: What did not agree.
    """

    root: Path
    template: str
    tried: Sequence[Mapping[str, Any]]
    findings: tuple[Finding, ...] = ()

    def path(self, **fields: Any) -> Path:
        """The file for these fields.

        Raises:
            DataError: the template has other fields.
        """
        try:
            return self.root / self.template.format(**fields)
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                explain(
                    f"a path of info.json cannot be filled in: {error!r}", given=self.template, allowed=list(fields)
                )
            ) from error

    def settled(self, tried: Sequence[Mapping[str, Any]]) -> PathTemplate:
        """With the first folder changed to one that exists, if no stated file does: ``video/`` for ``videos/``."""
        own = PathTemplate(self.root, self.template, tried)
        if any(own.path(**fields).is_file() for fields in tried):
            return own
        first, _, rest = self.template.partition("/")
        for other in (first.removesuffix("s"), first + "s"):
            changed = PathTemplate(self.root, f"{other}/{rest}", tried)
            if other != first and any(changed.path(**fields).is_file() for fields in tried):
                text = f"info.json says {self.template}, the files are below {other}/"
                return PathTemplate(self.root, changed.template, tried, (Finding("path_template", text),))
        return own


def require_parquet() -> tuple[ModuleType, tuple[type[Exception], ...]]:
    """``pyarrow.parquet``, and the errors that a damaged file raises.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        mend = 'pip install "robopolicy[formats]"'
        raise MissingDependencyError(explain("LeRobot tables need 'pyarrow'", given=str(error), mend=mend)) from error
    return parquet, (OSError, pa.ArrowException)


def spans(numbers: Sequence[int]) -> str:
    """``0-3, 7`` for 0, 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def missing_episodes(expected: int, listed: Sequence[int], lacking: Mapping[int, str]) -> list[Finding]:
    """One finding that names every episode that is not there, with what is missing of it; none when all are there.

    Args:
        expected: How many the data set says it has.
        listed: Those that its metadata describe.
        lacking: Episode -> what is missing of it, empty for nothing.
    """
    groups: dict[str, list[int]] = {}
    for episode, what in lacking.items():
        if what:
            groups.setdefault(what, []).append(episode)
    unlisted = sorted(set(range(expected)) - set(listed))
    if unlisted:
        groups["not in the metadata"] = unlisted
    total = sum(map(len, groups.values()))
    if not total:
        return []
    told = "; ".join(f"{what}: {spans(episodes)}" for what, episodes in groups.items())
    return [Finding("missing_episode", f"{total} of {max(expected, len(listed))} episodes are missing ({told})")]
