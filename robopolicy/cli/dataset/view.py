"""Show episodes in one HTML file that needs no network: frames, curves, labels, audit, statistics.

With to=rerun the episodes become a recording for the rerun viewer, if rerun-sdk is installed.

Examples:
  robopolicy data view runs/pick.zarr
  robopolicy data view runs/pick.zarr episodes=[0,1,2] out=view.html megabytes=10
  robopolicy data view runs/pick.zarr where="not success" out=failures.html
  robopolicy data view runs/pick.zarr episodes=[0] to=rerun out=episode.rrd
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robopolicy.cli.arguments import as_text, parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain

__all__ = ["CONFIG", "ViewConfig", "run"]


@dataclass(frozen=True)
class ViewConfig:
    """Keys of ``robopolicy data view``."""

    store: str = setting("episode store")
    episodes: tuple[int, ...] = setting("episodes to show; none for a dozen evenly spaced ones", default=())
    where: str | None = setting("condition that chooses them, as for data filter", default=None)
    most: int = setting("at most so many of those that the condition holds for", default=24, ge=1)
    out: str | None = setting("file to write; null for <store>.html or <store>.rrd", default=None)
    to: Literal["html", "rerun"] = setting("kind of file", default="html")
    megabytes: float = setting("budget of the pictures in the page, in MB", default=24.0, gt=0)
    progress: bool = setting("show progress", default=True)


CONFIG = ViewConfig


def run(argv: Sequence[str]) -> int:
    """Write the page or the recording."""
    config = parse(ViewConfig, "data/view", as_text(argv, ["where"]), positional=("store",))
    from robopolicy.cli.progress import telling
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.records import select
    from robopolicy.data.view.page import write_view
    from robopolicy.data.view.recording import write_recording

    if config.episodes and config.where is not None:
        raise CommandError(explain("choose episodes in one way", allowed=("episodes=[0,1]", "where='not success'")))
    store = EpisodeStore.open(config.store)
    chosen: list[int] | None = list(config.episodes) or None
    if config.where is not None:
        chosen = select(store, config.where)[: config.most]
        if not chosen:
            raise CommandError(explain("the condition holds for no episode", given=config.where))
    ending = {"html": ".html", "rerun": ".rrd"}[config.to]
    out = Path(config.out or f"{Path(config.store).name.removesuffix('.zarr')}{ending}")
    with telling("view", config.progress) as tell:
        if config.to == "rerun":
            write_recording(store, out, chosen, progress=tell)
        else:
            write_view(store, out, chosen, megabytes=config.megabytes, progress=tell)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return 0
