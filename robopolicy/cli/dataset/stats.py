"""Show the statistics of every channel: count, min, max, mean, std, 1 % and 99 % quantiles. Reads no image.

Examples:
  robopolicy data stats runs/pick.zarr
  robopolicy data stats runs/pick.zarr stream=action format=json
  robopolicy data stats runs/pick.zarr --recompute          # from the data; the store is not changed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.errors import UnknownNameError, explain, suggest

__all__ = ["CONFIG", "StatsConfig", "run"]


@dataclass(frozen=True)
class StatsConfig:
    """Keys of ``robopolicy data stats``."""

    store: str = setting("episode store")
    stream: str | None = setting("one stream; null for all", default=None)
    recompute: bool = setting("from the data instead of from the commit record (also --recompute)", default=False)
    format: Literal["text", "json"] = setting("how it is printed", default="text")


CONFIG = StatsConfig


def run(argv: Sequence[str]) -> int:
    """Print the table."""
    words = ["recompute=true" if a == "--recompute" else a for a in argv]
    config = parse(StatsConfig, "data/stats", words, positional=("store",))
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.tables import statistics_rows, text_table

    store = EpisodeStore.open(config.store)
    rows = statistics_rows(store, recompute=config.recompute)
    if config.stream is not None:
        known = list(dict.fromkeys(row["stream"] for row in rows))
        rows = [row for row in rows if row["stream"] == config.stream]
        if not rows:
            mend = suggest(config.stream, known)
            raise UnknownNameError(explain("no such stream", given=config.stream, allowed=known, mend=mend))
    if config.format == "json":
        print(json.dumps({"store": config.store, "recomputed": config.recompute, "channels": rows}, indent=1))
        return 0
    head = ("stream", "channel", "unit", "count", "min", "max", "mean", "std", "q01", "q99")
    print(text_table(head, [[row[k] for k in head] for row in rows]))
    return 0
