"""Data: the episode store on zarr, windows over it, and their loader.

The public names are imported on first use, so that ``import robopolicy.data`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robopolicy.data.episode import Episode
    from robopolicy.data.loader import Loader
    from robopolicy.data.split import train_val_episodes
    from robopolicy.data.statistics import Statistics
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.windows import WindowDataset, WindowSpec

__all__ = ["Episode", "EpisodeStore", "Loader", "Statistics", "WindowDataset", "WindowSpec", "train_val_episodes"]

_HOMES = {
    "Episode": "episode",
    "EpisodeStore": "store",
    "Loader": "loader",
    "Statistics": "statistics",
    "WindowDataset": "windows",
    "WindowSpec": "windows",
    "train_val_episodes": "split",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
