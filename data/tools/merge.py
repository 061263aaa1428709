"""Several stores into one, when they are of one robot and laid out alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robopolicy.data.contents import StoreContents
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.copying import Copied, Pick, Progress, copy_episodes
from robopolicy.data.tools.reading import EpisodeReader
from robopolicy.errors import DataError, explain

__all__ = ["DUPLICATES", "differences", "merge", "store_names"]

DUPLICATES = ("refuse", "drop", "keep")
"""What is done with an episode whose data are in more than one place."""


def differences(a: StoreContents, b: StoreContents) -> list[str]:
    """What keeps two stores from being merged, each with both sides; empty when nothing does."""
    found = []
    if a.embodiment.hash != b.embodiment.hash:
        ours, theirs = a.embodiment.to_dict(), b.embodiment.to_dict()
        keys = sorted(k for k in ours.keys() | theirs.keys() if k != "description" and ours.get(k) != theirs.get(k))
        names = f"'{a.embodiment.name}' {a.embodiment.hash}, '{b.embodiment.name}' {b.embodiment.hash}"
        found.append(f"embodiment: {names}, which differ in {keys}")
    if a.fps != b.fps:
        found.append(f"fps: {a.fps:g}, {b.fps:g}")
    if a.environment_state_names != b.environment_state_names:
        found.append(f"environment_state: {a.environment_state_names}, {b.environment_state_names}")
    ours, theirs = a.streams, b.streams
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            sides = (_side(ours.get(name)), _side(theirs.get(name)))
            found.append(f"stream '{name}': {sides[0]}, {sides[1]}")
    for name in sorted(set(a.cameras) & set(b.cameras)):
        codecs = [s.attributes["cameras"][name]["codec"] for s in (a, b)]
        if codecs[0] != codecs[1]:
            found.append(f"codec of camera '{name}': {codecs[0]}, {codecs[1]}")
    return found


def merge(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    task: str | None = None,
    duplicates: str = "refuse",
    progress: Progress | None = None,
) -> Copied:
    """Copy all episodes of ``stores``, in that order, into a new store. The same command goes on after a kill.

    Every episode gets ``metadata["source"] = {"store": name, "episode": index, ...}``, an earlier source inside it.

    Args:
        stores: Two or more; of one embodiment, with the same streams, codecs and rate.
        out: New path.
        task: Name of the task; by default the common one, or all of them joined by `` + ``.
        duplicates: One of :data:`DUPLICATES`, for episodes with equal data.
        progress: Called after every episode.

    Raises:
        DataError: too few stores, differences (all are named), duplicates, a damaged episode.
        StorageError: ``out`` is taken by something else, or the disk refused.
    """
    if duplicates not in DUPLICATES:
        raise DataError(explain("unknown rule for duplicates", given=duplicates, allowed=DUPLICATES))
    if len(stores) < 2:
        raise DataError(explain("merging needs two stores or more", given=[str(s) for s in stores]))
    opened = [EpisodeStore.open(path) for path in stores]
    _require_alike(opened)
    names = store_names([Path(str(store.path)) for store in opened])
    picks = [
        Pick(reader, i, {"store": name, "episode": i})
        for reader, name in zip(map(EpisodeReader, opened), names, strict=True)
        for i in range(reader.store.num_episodes)
    ]
    picks = _without_duplicates(picks, duplicates)
    tasks = list(dict.fromkeys(store.task for store in opened))
    return copy_episodes(
        out,
        picks,
        edit={"operation": "merge", "stores": names, "duplicates": duplicates},
        task=" + ".join(tasks) if task is None else task,
        progress=progress,
    )


def store_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; a path that is named twice is numbered."""
    resolved = [path.resolve() for path in paths]
    names = [path.name for path in resolved]
    for depth in range(2, 1 + max(len(path.parts) for path in resolved)):
        repeated = {n for n, count in Counter(names).items() if count > 1}
        if not repeated or len(set(names)) == len(set(resolved)):
            break
        names = ["/".join(p.parts[-depth:]) if n in repeated else n for p, n in zip(resolved, names, strict=True)]
    return names


def _side(spec: Any) -> str:
    return "absent" if spec is None else str(spec.to_dict())


def _require_alike(stores: Sequence[StoreContents]) -> None:
    first, faults = stores[0], []
    for other in stores[1:]:
        found = differences(first, other)
        if found:
            faults.append(f"{first.path} and {other.path}:\n    " + "\n    ".join(found))
    if faults:
        raise DataError(
            "these stores cannot be merged:\n  "
            + "\n  ".join(faults)
            + "\n"
            + explain("", mend="convert them alike, or train on them as a mixture").removeprefix("; ")
        )


def _without_duplicates(picks: list[Pick], rule: str) -> list[Pick]:
    if rule == "keep":
        return picks
    seen: dict[str, Pick] = {}
    kept, twice = [], []
    for pick in picks:
        digest = pick.reader.record(pick.index)["sha256"]
        if digest in seen:
            twice.append((seen[digest], pick))
            continue
        seen[digest] = pick
        kept.append(pick)
    if twice and rule == "refuse":
        shown = [f"{a.reader.store.path}[{a.index}] = {b.reader.store.path}[{b.index}]" for a, b in twice[:5]]
        raise DataError(
            explain(
                f"{len(twice)} episodes are there more than once",
                given=", ".join(shown) + (" ..." if len(twice) > 5 else ""),
                mend="duplicates=drop keeps the first of each, duplicates=keep all of them",
            )
        )
    return kept
