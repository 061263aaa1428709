"""Check a store: structure, checksums, digest of every episode, frames, time, ranges, statistics. Changes nothing.

The exit code is 1 when there is an error; warnings and notes leave it at 0. A writer may go on meanwhile.

Examples:
  robopolicy data validate runs/pick.zarr
  robopolicy data validate runs/pick.zarr frames=all threads=2
  robopolicy data validate runs/pick.zarr frames=none format=json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "ValidateConfig", "run"]


@dataclass(frozen=True)
class ValidateConfig:
    """Keys of ``robopolicy data validate``."""

    store: str = setting("episode store")
    frames: Literal["all", "sample", "none"] = setting("frames that are decoded; all are hashed", default="sample")
    sample: int = setting("frames per camera and episode with frames=sample", default=4, ge=2)
    threads: int = setting("blocks of episodes checked side by side", default=1, ge=1)
    format: Literal["text", "json"] = setting("how it is printed", default="text")
    progress: bool = setting("show progress", default=True)


CONFIG = ValidateConfig


def run(argv: Sequence[str]) -> int:
    """Print what was found."""
    config = parse(ValidateConfig, "data/validate", argv, positional=("store",))
    from robopolicy.cli.progress import telling
    from robopolicy.data.tools.validate import validate

    with telling("validate", config.progress and config.format == "text") as tell:
        answer = validate(
            config.store, frames=config.frames, sample=config.sample, threads=config.threads, progress=tell
        )
    if config.format == "json":
        print(json.dumps(answer.to_dict(), indent=1))
        return 0 if answer.passed else 1
    for finding in answer.shown():
        where = f" episode {finding.episode}" if finding.episode else ""
        mend = f" (repair: {finding.repair})" if finding.repair else ""
        print(f"{finding.severity:<8}{finding.kind}{where}: {finding.message}{mend}")
    verdict = "no errors" if answer.passed else "DAMAGED"
    print(
        f"{config.store}: {verdict}; checked {answer.episodes} episodes, {answer.rows} rows, "
        f"{answer.frames} frames decoded"
    )
    if answer.repairs:
        print(f"mend a copy: robopolicy data repair {config.store} OUT repairs=[{','.join(answer.repairs)}]")
    return 0 if answer.passed else 1
