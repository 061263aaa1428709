"""Say what a store holds: robot, streams, cameras, episodes, rates, size.

Examples:
  robopolicy data info runs/pick.zarr
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "InfoConfig", "run"]


@dataclass(frozen=True)
class InfoConfig:
    """Keys of ``robopolicy data info``."""

    store: str = setting("episode store")


CONFIG = InfoConfig


def run(argv: Sequence[str]) -> int:
    """Print the description."""
    config = parse(InfoConfig, "data/info", argv, positional=("store",))
    from robopolicy.data.store import EpisodeStore

    store = EpisodeStore.open(config.store)
    print(f"{store.path}: {store.num_episodes} episodes, {store.num_steps} steps at {store.fps:g} Hz")
    return 0
