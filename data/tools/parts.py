"""One store into smaller ones: by a condition, by shares, by lists, or by the value of a field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.contents import StoreContents
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.copying import Copied, Pick, Progress, copy_episodes
from robopolicy.data.tools.expression import parse_expression
from robopolicy.data.tools.reading import EpisodeReader, store_name
from robopolicy.data.tools.records import check_indices, fields_of_episode, select
from robopolicy.errors import CommandError, DataError, explain
from robopolicy.seeding import generator

__all__ = ["MAX_PARTS", "by_field", "by_shares", "filter_store", "split_store"]

MAX_PARTS = 200
"""A field with more values than this is refused: it was meant otherwise."""


def filter_store(store: str | Path, out: str | Path, keep: str, *, progress: Progress | None = None) -> Copied:
    """Copy the episodes for which ``keep`` holds into a new store. The same command goes on after a kill.

    Args:
        store: Left as it is.
        out: New path.
        keep: A condition, see :mod:`robopolicy.data.tools.expression`.
        progress: Called after every episode.

    Raises:
        CommandError: the condition.
        DataError: it holds for no episode, or an episode is damaged.
        StorageError: ``out`` is taken by something else, or the disk refused.
    """
    source = EpisodeStore.open(store)
    chosen = select(source, keep)
    if not chosen:
        raise DataError(explain(f"no episode of {source.path} is kept", given=keep, mend="loosen the condition"))
    edit = {"operation": "filter", "keep": keep}
    return copy_episodes(out, _picks(source, chosen), edit=edit, progress=progress)


def split_store(
    store: str | Path,
    out: str | Path,
    parts: Mapping[str, Sequence[int]],
    *,
    why: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Copied]:
    """Copy episodes into ``<out>/<part>.zarr``, one store per part. The same command goes on after a kill.

    Args:
        store: Left as it is.
        out: Folder of the new stores.
        parts: Name -> episodes, each in one part at most; empty parts make no store.
        why: How the parts were chosen, for ``provenance.edits``.
        progress: Called after every episode with the count over all parts.

    Raises:
        CommandError: no such episodes, an episode in two parts, a name that cannot be a file name.
        DataError, StorageError: as :func:`robopolicy.data.tools.copying.copy_episodes`.
    """
    source = EpisodeStore.open(store)
    check_indices(source, [i for episodes in parts.values() for i in episodes])
    wrong = [name for name in parts if not re.fullmatch(r"[\w.-]+", name) or name.startswith(".")]
    if wrong:
        raise CommandError(explain("a part cannot have this name", given=wrong, allowed="letters, digits, _ - ."))
    total, made, done = sum(map(len, parts.values())), {}, 0
    for name, episodes in parts.items():
        if not episodes:
            continue
        before = done

        def show(count: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, total)

        edit = {"operation": "split", "part": name, **(why or {})}
        path = Path(out) / f"{name}.zarr"
        made[name] = copy_episodes(path, _picks(source, episodes), edit=edit, progress=show)
        done += len(episodes)
    return made


def by_shares(num_episodes: int, shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Episodes of each part: a random split of whole episodes, a pure function of the arguments.

    Every part with a share above 0 gets at least one episode; what rounding leaves goes to the largest remainders.
    Shares that sum to less than 1 leave episodes out.

    Raises:
        CommandError: shares that are not in (0, 1] or sum to more than 1, or more parts than episodes.
    """
    values = np.array(list(shares.values()), float)
    if not len(values) or not np.isfinite(values).all() or values.min() <= 0 or values.sum() > 1 + 1e-9:
        raise CommandError(explain("unusable shares", given=dict(shares), allowed="each above 0, together at most 1"))
    if len(values) > num_episodes:
        raise CommandError(explain("more parts than episodes", given=f"{len(values)} parts, {num_episodes} episodes"))
    wanted = values * num_episodes
    counts = np.maximum(np.floor(wanted + 1e-9).astype(int), 1)
    total = min(num_episodes, round(float(wanted.sum())))
    while counts.sum() > max(total, len(values)):
        counts[int(np.argmax(counts - wanted + (counts == 1) * -1e9))] -= 1
    while counts.sum() < total:
        counts[int(np.argmax(wanted - counts))] += 1
    order = generator("split", seed).permutation(num_episodes)
    ends = np.cumsum(counts)
    return {
        name: sorted(order[end - count : end].tolist()) for name, end, count in zip(shares, ends, counts, strict=True)
    }


def by_field(store: StoreContents, field: str) -> dict[str, list[int]]:
    """Episodes by the value of ``success``, ``language``, ``metadata.x`` ...; the values become names of parts.

    Raises:
        CommandError: no field, a field that no episode has, or one with too many values.
    """
    expression = parse_expression(f"{field} == null")
    if len(expression.paths) != 1:
        raise CommandError(explain("split by one field", given=field, allowed="success, language, metadata.NAME"))
    select(store, f"{field} == null")  # refuses a field that no episode has
    head, *rest = next(iter(expression.paths))
    groups: dict[str, list[int]] = {}
    values: dict[str, str] = {}
    for i in range(store.num_episodes):
        value = fields_of_episode(store, i)[head]
        for part in rest:
            value = value.get(part) if isinstance(value, Mapping) else None
        text = value if isinstance(value, str) else json.dumps(value)
        name = values.setdefault(text, _unused(_slug(text), set(values.values())))
        groups.setdefault(name, []).append(i)
    if len(groups) > MAX_PARTS:
        raise CommandError(explain(f"'{field}' has {len(groups)} values", allowed=f"up to {MAX_PARTS} parts"))
    return groups


def _picks(store: StoreContents, episodes: Sequence[int]) -> list[Pick]:
    reader = EpisodeReader(store)
    return [Pick(reader, i, {"store": store_name(store), "episode": i}) for i in episodes]


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text).strip("_")[:60] or "none"


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
