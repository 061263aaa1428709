"""The results ledger: one JSON file per claim under ``docs/results/<family>/<name>.json``, one table made from them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError, explain, suggest
from robopolicy.evaluation.files import plain, read_json, write_json
from robopolicy.evaluation.report import versions

__all__ = ["ClaimResult", "read_claim", "read_claims", "table", "write_claim"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """What one run of a claim found; a miss is kept like a hit.

    Attributes:
        claim: The claim, one falsifiable sentence.
        source: Paper, equation or section that it comes from.
        command: Command line that measures it again.
        commit: Version of the code that ran.
        target: What was to be reached, as text (``>= 0.90``) or a number.
        value: What was measured; several named figures (both sides of a comparison, ratio) as a mapping.
        interval: 95 % interval of the value, None if it has none.
        n: Number of trials, None if there is nothing to count.
        seeds: Seeds of the run.
        control: The control that must fail: ``{what, value, failed}``; ``failed`` True is how it should be.
        passed: Target reached and control failed.
        cpu_s: CPU seconds of the run.
        versions: Versions of the packages that decide the result.

    Raises:
        DataError: an empty sentence, a control without verdict, or a pass although the control did not fail.
    """

    claim: str
    source: str
    command: str
    commit: str
    target: str | float
    value: Any
    interval: Sequence[float] | None
    n: int | None
    seeds: Sequence[int]
    control: Mapping[str, Any]
    passed: bool
    cpu_s: float
    versions: Mapping[str, str | None] = field(default_factory=versions)

    def __post_init__(self) -> None:
        problems = [f"{name} is empty" for name in ("claim", "source", "command", "commit") if not getattr(self, name)]
        if not isinstance(self.passed, bool):
            problems.append(f"passed is {self.passed!r}, not true or false")
        if not isinstance(self.control, Mapping) or not isinstance(self.control.get("failed"), bool):
            problems.append("control needs {what, value, failed: true or false}")
        elif self.passed and not self.control["failed"]:
            problems.append("passed although its control did not fail")
        if self.interval is not None and (len(self.interval) != 2 or self.interval[0] > self.interval[1]):
            problems.append(f"interval {list(self.interval)} is not (lower, upper)")
        if problems:
            raise DataError(explain("a claim's result is not usable", given="; ".join(problems)))


def write_claim(result: ClaimResult, root: str | os.PathLike[str], family: str, name: str) -> Path:
    """Write ``<root>/<family>/<name>.json`` whole and return its path.

    Raises:
        DataError: a name that is no file name, or a value that is not finite.
        StorageError: the disk refuses.
    """
    for part in (family, name):
        if not _NAME.fullmatch(part):
            raise DataError(explain("not a claim's name", given=part, allowed="a-z, 0-9, '_', '-', '.'"))
    path = Path(root) / family / f"{name}.json"
    write_json(path, plain(result))
    return path


def read_claim(path: str | os.PathLike[str]) -> ClaimResult:
    """Read one result.

    Raises:
        FileNotFoundError: no such file.
        DataError: cut, unknown or missing fields, or a result that contradicts itself.
    """
    document = read_json(path, "claim's result")
    names = [item.name for item in dataclasses.fields(ClaimResult)]
    wrong = [f"unknown '{key}' ({suggest(key, names) or 'no such field'})" for key in document if key not in names]
    wrong += [f"missing {name}" for name in names if name not in document]
    if wrong:
        raise DataError(explain(f"{path} has the wrong fields", given="; ".join(wrong), allowed=names))
    return ClaimResult(**document)


def read_claims(root: str | os.PathLike[str]) -> dict[str, ClaimResult]:
    """Every result below ``root`` as ``{"family/name": result}``, sorted by name."""
    base = Path(root)
    return {
        path.relative_to(base).with_suffix("").as_posix(): read_claim(path) for path in sorted(base.glob("*/*.json"))
    }


def table(root: str | os.PathLike[str]) -> str:
    """The text of ``docs/results.md``: every result below ``root``, misses included, by family."""
    claims = read_claims(root)
    missed = sum(not result.passed for result in claims.values())
    lines = [
        "# Results",
        "",
        "Made by `robopolicy claims table` from the files under `docs/results/`; each file holds the command that",
        f"measures it again. {len(claims)} claims, {len(claims) - missed} reached, {missed} missed.",
    ]
    family = None
    for key, result in claims.items():
        here, name = key.split("/")
        if here != family:
            family = here
            lines += ["", f"## {family}", ""]
            lines += [
                "| | claim | target | measured (95 %) | n | seeds | control | source |",
                "|---|---|---|---|---|---|---|---|",
            ]
        cells = (
            f"{'reached' if result.passed else '**missed**'}",
            f"[{name}](results/{key}.json): {result.claim}",
            _show(result.target),
            _show(result.value) + ("" if result.interval is None else f" ({_show(list(result.interval))})"),
            "" if result.n is None else str(result.n),
            ", ".join(map(str, result.seeds)),
            _control(result.control),
            result.source,
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _control(control: Mapping[str, Any]) -> str:
    verdict = "failed, as it must" if control["failed"] else "**did not fail**"
    value = "" if control.get("value") is None else f" {_show(control['value'])}"
    return f"{control.get('what', 'control')}{value}: {verdict}"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_show(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(_show(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """One cell of a Markdown table: no line break, no bar, no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
