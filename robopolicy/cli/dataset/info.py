"""Say what a store holds: robot, streams, cameras, episodes, lengths, success, origin, size.

Nothing but the commit record, the episode records and the sizes of the files is read.

Examples:
  robopolicy data info runs/pick.zarr
  robopolicy data info runs/pick.zarr episodes=true
  robopolicy data info runs/pick.zarr format=json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "InfoConfig", "run"]


@dataclass(frozen=True)
class InfoConfig:
    """Keys of ``robopolicy data info``."""

    store: str = setting("episode store")
    episodes: bool = setting("list every episode, too", default=False)
    format: Literal["text", "json"] = setting("how it is printed", default="text")


CONFIG = InfoConfig


def run(argv: Sequence[str]) -> int:
    """Print the description."""
    config = parse(InfoConfig, "data/info", argv, positional=("store",))
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.describe import describe, describe_episodes
    from robopolicy.data.tools.tables import description_text, text_table

    store = EpisodeStore.open(config.store)
    about = describe(store)
    listed = describe_episodes(store) if config.episodes else []
    if config.format == "json":
        print(json.dumps({**about, **({"list": listed} if config.episodes else {})}, indent=1))
        return 0
    print(description_text(about))
    if config.episodes:
        head = ("episode", "length", "duration_s", "success", "language", "id")
        print("\n" + text_table(head, [[row[k] for k in head] for row in listed]))
    return 0
