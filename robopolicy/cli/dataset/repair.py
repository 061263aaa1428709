"""Mend a damaged store, on a copy and by exactly the repairs that are named; the copy says what was done to it.

Without repairs it shows what was found and which would mend it, changes nothing, and ends with 1. Repairs:

  drop_damaged   leave out episodes that cannot be read, were altered, are not finite or do not decode
  episode_ends   take the ends of the episodes from the lengths in their records
  statistics     compute the statistics anew from the data
  time           replace a time_ns that stands still or runs backwards by the nominal rate

Examples:
  robopolicy data repair runs/pick.zarr
  robopolicy data repair runs/pick.zarr runs/mended.zarr repairs=[drop_damaged,statistics]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain

__all__ = ["CONFIG", "RepairConfig", "run"]


@dataclass(frozen=True)
class RepairConfig:
    """Keys of ``robopolicy data repair``."""

    store: str = setting("episode store; it is not changed")
    out: str | None = setting("store to make", default=None)
    repairs: tuple[str, ...] = setting("what is to be mended, by name", default=())
    frames: Literal["all", "sample", "none"] = setting("frames that are decoded to find damage", default="all")
    progress: bool = setting("show progress", default=True)


CONFIG = RepairConfig


def run(argv: Sequence[str]) -> int:
    """Repair, or show what could be."""
    config = parse(RepairConfig, "data/repair", argv, positional=("store", "out"))
    if not config.repairs:
        from robopolicy.cli.dataset import validate

        validate.run([config.store, f"frames={config.frames}", f"progress={str(config.progress).lower()}"])
        return 1
    if config.out is None:
        raise CommandError(explain("a repair makes a copy", mend="robopolicy data repair STORE OUT repairs=[...]"))
    from robopolicy.cli.progress import telling
    from robopolicy.data.tools.repair import repair

    with telling("repair", config.progress) as tell:
        copied, found = repair(config.store, config.out, config.repairs, frames=config.frames, progress=tell)
    errors = [f for f in found.findings if f.severity == "error"]
    print(f"{copied.path}: {copied.episodes} episodes, {copied.steps} steps; {len(errors)} errors mended")
    print(f"what was done: provenance.edits in robopolicy data info {copied.path} format=json")
    return 0
