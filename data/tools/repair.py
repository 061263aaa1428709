"""Mending a store, by name and on a copy: what was damaged stays as it is, and the copy says what was done to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tombstones import LiveRows
from robopolicy.data.tools.copying import Copied, Mend, Pick, Progress, copy_episodes
from robopolicy.data.tools.reading import EpisodeReader, RowReader
from robopolicy.data.tools.structure import Skeleton
from robopolicy.data.tools.validate import Validation, validate
from robopolicy.errors import CommandError, DataError, explain

__all__ = ["REPAIRS", "repair"]

REPAIRS = {
    "drop_damaged": "leave out episodes that cannot be read, were altered, are not finite or do not decode",
    "episode_ends": "take the ends of the episodes from the lengths in their records",
    "statistics": "compute the statistics anew from the data",
    "time": "replace a time_ns that stands still or runs backwards by the nominal rate",
}
"""Name -> what it does."""


def repair(
    path: str | Path,
    out: str | Path,
    repairs: Sequence[str],
    *,
    frames: str = "sample",
    progress: Progress | None = None,
) -> tuple[Copied, Validation]:
    """Copy a store and mend the copy with exactly the repairs named. The same command goes on after a kill.

    Every change is listed in ``provenance.edits``: which repair, on which episodes, for which finding.

    Args:
        path: The damaged store; it is not changed.
        out: New path.
        repairs: Names out of :data:`REPAIRS`.
        frames: Which frames are decoded in search of damage, as in :func:`robopolicy.data.tools.validate.validate`.
        progress: Called after every episode.

    Returns:
        What was copied, and what was found in ``path``.

    Raises:
        CommandError: an unknown repair, or none.
        DataError: errors are left that the repairs do not mend; each with the repair that would, if there is one.
        StorageError: ``out`` is taken by something else, or the disk refused.
    """
    unknown = sorted(set(repairs) - set(REPAIRS))
    if unknown or not repairs:
        raise CommandError(explain("choose the repairs by name", given=unknown or "none", allowed=list(REPAIRS)))
    found = validate(path, frames=frames)
    left = [f for f in found.findings if f.severity == "error" and f.repair not in repairs and f.kind != "unfinished"]
    if left:
        shown = [f"{f.kind}{f' of episode {f.episode}' * bool(f.episode)}: {f.message}" for f in left[:10]]
        names = sorted({f.repair for f in left if f.repair})
        mend = f"add repairs={[*repairs, *names]}".replace("'", "") if names else "restore the store from a copy"
        what = f"{len(left)} errors of {path} are not mended by {list(repairs)}:\n  " + "\n  ".join(shown) + "\n"
        raise DataError(explain(what, allowed=list(REPAIRS), mend=mend))
    store, reader, count = _reader(path)
    dropped = found.damaged_episodes if "drop_damaged" in repairs else []
    late = {int(f.episode) for f in found.findings if f.kind == "time" and f.severity == "error"}
    kept = [i for i in range(count) if i not in set(_to_drop(found, dropped, repairs))]
    if not kept:
        raise DataError(explain(f"every episode of {path} is damaged", mend="restore the store from a copy"))
    edit: dict[str, Any] = {"operation": "repair", "repairs": sorted(repairs)}
    edit["findings"] = [
        {"kind": f.kind, "episode": f.episode, "stream": f.stream, "repair": f.repair}
        for f in found.findings
        if f.severity == "error" and f.repair
    ]
    edit["dropped"] = [i for i in range(count) if i not in set(kept)]
    picks = [Pick(reader, i) for i in kept]
    mend_time = _nominal_time(late, store.fps) if "time" in repairs else None
    return copy_episodes(out, picks, edit=edit, mend=mend_time, progress=progress), found


def _to_drop(found: Validation, damaged: list[int], repairs: Sequence[str]) -> list[int]:
    """Damaged episodes, apart from those whose only damage another chosen repair mends."""
    needs: dict[int, set[str]] = {}
    for f in found.findings:
        if f.severity == "error" and f.episode:
            needs.setdefault(int(f.episode), set()).add(f.repair)
    return [i for i in damaged if not needs[i] <= set(repairs) - {"drop_damaged"}]


def _reader(path: str | Path) -> tuple[EpisodeStore, EpisodeReader, int]:
    """A reader that relies on whichever of ends and records is sound."""
    store = EpisodeStore.open(path)
    skeleton = Skeleton(store.snapshot, RowReader(store))
    spans, records = skeleton.spans, skeleton.records
    if spans is None or records is None:
        raise DataError(explain(f"the records of {path} cannot be read", mend="restore the store from a copy"))
    live = LiveRows.of(spans[:, 1], store.tombstones).episodes
    return store, EpisodeReader(store, spans[live], [records[i] for i in live.tolist()]), len(live)


def _nominal_time(episodes: set[int], fps: float) -> Mend:
    period_ns = 1e9 / fps

    def mend(index: int, episode: Episode) -> Episode:
        if index not in episodes:
            return episode
        times = np.asarray(episode.streams["time_ns"])
        steady = int(times[0]) + np.round(np.arange(len(times)) * period_ns).astype(np.int64)
        return replace(episode, streams={**episode.streams, "time_ns": steady})

    return mend
