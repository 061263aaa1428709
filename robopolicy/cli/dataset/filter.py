"""Copy the episodes for which a condition holds into a new store; without out it only lists them.

Names: success, language, length (rows), duration_s, index, metadata.NAME, quality.NAME. Words: and, or, not, in,
== != < <= > >=, true, false, null, 'text', numbers, [lists].

Examples:
  robopolicy data filter runs/pick.zarr keep=success
  robopolicy data filter runs/pick.zarr runs/good.zarr keep="success and 40 <= length < 400"
  robopolicy data filter runs/pick.zarr runs/cups.zarr keep="'cup' in language and metadata.operator != 'test'"
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import as_text, parse
from robopolicy.config import setting

__all__ = ["CONFIG", "FilterConfig", "run"]


@dataclass(frozen=True)
class FilterConfig:
    """Keys of ``robopolicy data filter``."""

    store: str = setting("episode store; it is not changed")
    keep: str = setting("condition on an episode")
    out: str | None = setting("store to make or to continue; null only lists the episodes", default=None)
    format: Literal["text", "json"] = setting("how the list is printed", default="text")
    progress: bool = setting("show progress", default=True)


CONFIG = FilterConfig


def run(argv: Sequence[str]) -> int:
    """Filter, or list."""
    config = parse(FilterConfig, "data/filter", as_text(argv, ["keep"]), positional=("store", "out"))
    from robopolicy.cli.progress import telling
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.parts import filter_store
    from robopolicy.data.tools.records import select

    if config.out is None:
        store = EpisodeStore.open(config.store)
        found = select(store, config.keep)
        if config.format == "json":
            print(json.dumps({"store": config.store, "keep": config.keep, "episodes": found}))
        else:
            print(f"{len(found)} of {store.num_episodes} episodes: {found}")
        return 0
    with telling("filter", config.progress) as tell:
        copied = filter_store(config.store, config.out, config.keep, progress=tell)
    print(f"{copied.path}: {copied.episodes} episodes, {copied.steps} steps")
    return 0
