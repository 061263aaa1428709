"""Copy a store without its deleted episodes, bit for bit. The old one stays until you remove it.

Examples:
  robopolicy data compact runs/pick.zarr runs/pick_compact.zarr
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "CompactConfig", "run"]


@dataclass(frozen=True)
class CompactConfig:
    """Keys of ``robopolicy data compact``."""

    store: str = setting("episode store; it is not changed")
    out: str = setting("store to make or to continue")
    progress: bool = setting("show progress", default=True)


CONFIG = CompactConfig


def run(argv: Sequence[str]) -> int:
    """Compact."""
    config = parse(CompactConfig, "data/compact", argv, positional=("store", "out"))
    from robopolicy.cli.progress import telling
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.deletion import compact

    left = len(EpisodeStore.open(config.store).tombstones)
    with telling("compact", config.progress) as tell:
        copied = compact(config.store, config.out, progress=tell)
    print(f"{copied.path}: {copied.episodes} episodes, {copied.steps} steps; {left} deleted episodes left out")
    return 0
