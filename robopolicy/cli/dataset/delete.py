"""Delete episodes: hidden from every reader, on disk until compact. Without --yes they are only shown.

Without --yes the exit code is 1 and nothing is changed.

Episodes are named by their present indices, or by a condition. Those of later episodes move up by deleting.

Examples:
  robopolicy data delete runs/pick.zarr episodes=[3,5]
  robopolicy data delete runs/pick.zarr episodes=[3,5] --yes
  robopolicy data delete runs/pick.zarr where="not success" --yes
  robopolicy data undelete runs/pick.zarr
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import as_text, parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain

__all__ = ["CONFIG", "DeleteConfig", "run"]


@dataclass(frozen=True)
class DeleteConfig:
    """Keys of ``robopolicy data delete``."""

    store: str = setting("episode store")
    episodes: tuple[int, ...] = setting("present indices of the episodes", default=())
    where: str | None = setting("condition on an episode, as for data filter", default=None)


CONFIG = DeleteConfig


def run(argv: Sequence[str]) -> int:
    """Show or delete."""
    words = as_text([a for a in argv if a != "--yes"], ["where"])
    config = parse(DeleteConfig, "data/delete", words, positional=("store",))
    if bool(config.episodes) == (config.where is not None):
        raise CommandError(explain("say in one way what to delete", allowed=("episodes=[3,5]", "where='not success'")))
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.deletion import delete, doomed
    from robopolicy.data.tools.records import select
    from robopolicy.data.tools.tables import text_table

    store = EpisodeStore.open(config.store)
    chosen = list(config.episodes) if config.where is None else select(store, config.where)
    confirmed = "--yes" in argv
    rows = delete(config.store, chosen, expected=store.content_hash) if confirmed else doomed(store, chosen)
    head = ("episode", "stored", "length", "success", "language", "id")
    print(text_table(head, [[row[k] for k in head] for row in rows]))
    if not confirmed:
        print(f"nothing was changed; {len(rows)} of {store.num_episodes} episodes would be deleted: add --yes")
        return 1
    left = store.num_episodes - len(rows)
    print(f"{len(rows)} episodes deleted, {left} are left with new indices 0 to {left - 1}; the data are still there:")
    print(f"  robopolicy data undelete {config.store} stored={[row['stored'] for row in rows]}".replace(", ", ","))
    print(f"  robopolicy data compact {config.store} OUT")
    return 0
