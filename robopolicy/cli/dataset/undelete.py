"""Bring deleted episodes back to their old places, as long as the store was not compacted.

Examples:
  robopolicy data undelete runs/pick.zarr
  robopolicy data undelete runs/pick.zarr stored=[3,5]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "UndeleteConfig", "run"]


@dataclass(frozen=True)
class UndeleteConfig:
    """Keys of ``robopolicy data undelete``."""

    store: str = setting("episode store")
    stored: tuple[int, ...] = setting("stored indices, as delete and info show them; none for all", default=())


CONFIG = UndeleteConfig


def run(argv: Sequence[str]) -> int:
    """Undelete."""
    config = parse(UndeleteConfig, "data/undelete", argv, positional=("store",))
    from robopolicy.data.tools.deletion import undelete

    back = undelete(config.store, config.stored or None)
    print(f"{len(back)} episodes are back: stored indices {back}")
    return 0
