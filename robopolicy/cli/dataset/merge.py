"""Merge stores of one robot into a new one; stored frames are copied, never encoded again.

The stores must agree in embodiment, streams, codecs and rate; if not, every difference is named. A merge that was
stopped, by Ctrl-C or worse, continues when the same command is given again.

Examples:
  robopolicy data merge runs/a.zarr runs/b.zarr out=runs/both.zarr
  robopolicy data merge runs/a.zarr runs/b.zarr out=runs/both.zarr duplicates=drop task=pick_place
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "MergeConfig", "run"]


@dataclass(frozen=True)
class MergeConfig:
    """Keys of ``robopolicy data merge``."""

    stores: tuple[str, ...] = setting("episode stores in the order in which they follow each other")
    out: str = setting("store to make or to continue")
    task: str | None = setting("name of the task; null joins the names of all", default=None)
    duplicates: Literal["refuse", "drop", "keep"] = setting("episodes with equal data", default="refuse")
    progress: bool = setting("show progress", default=True)


CONFIG = MergeConfig


def run(argv: Sequence[str]) -> int:
    """Merge."""
    paths = [a for a in argv if "=" not in a and not a.startswith(("-", "~"))]
    quoted = ",".join("'" + path.replace("'", "\\'") + "'" for path in paths)
    rest = [a for a in argv if a not in paths]
    config = parse(MergeConfig, "data/merge", [*([f"stores=[{quoted}]"] if paths else []), *rest])
    from robopolicy.cli.progress import telling
    from robopolicy.data.tools.merge import merge

    with telling("merge", config.progress) as tell:
        copied = merge(config.stores, config.out, task=config.task, duplicates=config.duplicates, progress=tell)
    resumed = f" ({copied.resumed} were there before)" if copied.resumed else ""
    print(f"{copied.path}: {copied.episodes} episodes{resumed}, {copied.steps} steps")
    return 0
