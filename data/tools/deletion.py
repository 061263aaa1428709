"""Deleting episodes without touching their data, bringing them back, and making a store without them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopolicy.data.contents import StoreContents
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.copying import Copied, Pick, Progress, copy_episodes
from robopolicy.data.tools.reading import EpisodeReader
from robopolicy.data.tools.records import check_indices, source_id
from robopolicy.errors import CommandError, explain

__all__ = ["compact", "delete", "doomed", "tombstones", "undelete"]


def doomed(store: StoreContents, episodes: Sequence[int]) -> list[dict[str, Any]]:
    """What would be deleted: index, stored index, length, success, language, source id of each. Changes nothing.

    Raises:
        CommandError: no such episodes, none at all, or every episode of the store.
    """
    chosen = sorted(check_indices(store, episodes))
    if not chosen:
        raise CommandError(explain("nothing to delete", mend="episodes=[3,5], or where='not success'"))
    if len(chosen) == store.num_episodes:
        raise CommandError(
            explain(
                f"this would delete every episode of {store.path}",
                given=f"{len(chosen)} of {store.num_episodes}",
                mend="if the data set is not wanted any more, remove its folder yourself",
            )
        )
    live = store.live_rows
    rows = []
    for i in chosen:
        info = store.info(i)
        entry = {"episode": i, "stored": i if live is None else int(live.episodes[i])}
        entry |= {k: info[k] for k in ("length", "success", "language")}
        rows.append({**entry, "id": source_id(info["metadata"])})
    return rows


def delete(path: str | Path, episodes: Sequence[int], *, expected: str | None = None) -> list[dict[str, Any]]:
    """Hide episodes, named by their present (live) indices, from every reader. **The indices of later ones move up.**

    Their data stay on disk until :func:`compact`; :func:`undelete` brings them back.

    Args:
        path: Of the store.
        episodes: Live indices.
        expected: Content hash of the store when the episodes were chosen; refused if it has changed since.

    Returns:
        What was deleted, as :func:`doomed` shows it.

    Raises:
        CommandError: as :func:`doomed`, or the store has changed.
        StorageError: another writer has the store, or the disk refused; nothing was changed.
    """
    with EpisodeStore.open(path, "a") as store:
        if expected is not None and store.content_hash != expected:
            raise CommandError(explain(f"{path} has changed in the meantime", mend="look again, then delete"))
        rows = doomed(store, episodes)
        store.set_tombstones([*store.tombstones, *(row["stored"] for row in rows)])
        return rows


def tombstones(store: StoreContents) -> list[int]:
    """Stored indices of what was deleted."""
    return list(store.tombstones)


def undelete(path: str | Path, stored: Sequence[int] | None = None) -> list[int]:
    """Show deleted episodes again, at their old places.

    Args:
        path: Of the store.
        stored: Their *stored* indices, as ``delete`` and ``info`` give them; all of them when None.

    Returns:
        Stored indices that were brought back.

    Raises:
        CommandError: not deleted.
        StorageError: another writer has the store, or the disk refused; nothing was changed.
    """
    with EpisodeStore.open(path, "a") as store:
        dead = set(store.tombstones)
        back = dead if stored is None else set(stored)
        if not back or back - dead:
            given = sorted(back - dead) or "no deleted episode"
            raise CommandError(explain(f"not deleted in {store.path}", given=given, allowed=sorted(dead)))
        store.set_tombstones(dead - back)
        return sorted(back)


def compact(path: str | Path, out: str | Path, *, progress: Progress | None = None) -> Copied:
    """A new store of the live episodes, bit for bit, without the deleted ones. The old one stays until you remove it.

    Raises:
        DataError: an episode is damaged.
        StorageError: ``out`` is taken by something else, or the disk refused.
    """
    store = EpisodeStore.open(path)
    edit = {"operation": "compact", "left_out": list(store.tombstones)}
    reader = EpisodeReader(store)
    return copy_episodes(out, [Pick(reader, i) for i in range(store.num_episodes)], edit=edit, progress=progress)
