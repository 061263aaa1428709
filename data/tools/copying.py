"""Whole episodes from stores into a new store: the one engine behind merge, split, filter, compact and repair.

Stored bytes are copied, checked against the digest in each record, and committed in whole episodes. What is to be
copied, in which order, is fixed before the first byte and its hash stands in the new store, so a copy that was killed
is continued by the same command, and a command that means something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.contents import StoreContents
from robopolicy.data.episode import EncodedFrames, Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.reading import EpisodeReader, episode_digest, store_name
from robopolicy.errors import DataError, StorageError, StoreNotFoundError, explain

__all__ = ["Copied", "Pick", "copy_episodes", "create_like", "planned_episodes", "provenance_after"]

Progress = Callable[[int, int], None]
"""(episodes done, episodes in all) -> None."""
Mend = Callable[[int, Episode], Episode]
"""(index, episode) -> the episode as it is to be stored."""
BATCH_BYTES, BATCH_EPISODES = 32 << 20, 32
"""Short episodes are committed together up to either; one commit costs some twenty file writes."""
_OWN = ("software", "created", "plan", "edits")


@dataclass(frozen=True, eq=False)
class Pick:
    """One episode to copy.

    Attributes:
        reader: Of the store that it is in; one reader for all episodes of a store.
        index: Its live index there.
        source: Becomes ``metadata["source"]``; None leaves the metadata as they are.
    """

    reader: EpisodeReader
    index: int
    source: Mapping[str, Any] | None = None

    def metadata(self) -> dict[str, Any]:
        """As they are to be stored; an earlier source stays inside the new one."""
        before = dict(self.reader.record(self.index)["metadata"])
        if self.source is None:
            return before
        earlier = before.get("source")
        named = {"id": earlier["id"]} if isinstance(earlier, Mapping) and "id" in earlier else {}
        return {**before, "source": {**named, **self.source, **({} if earlier is None else {"source": earlier})}}


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        path: Of the new store.
        episodes: In it now.
        steps: Rows in it now.
        resumed: Episodes that an earlier, interrupted run had copied.
    """

    path: Path
    episodes: int
    steps: int
    resumed: int


def copy_episodes(
    out: str | Path,
    picks: Sequence[Pick],
    *,
    edit: Mapping[str, Any],
    task: str | None = None,
    verify: bool = True,
    mend: Mend | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy episodes into a new store, or go on with a copy that was interrupted.

    Args:
        out: Path that does not exist yet, or an unfinished copy of exactly these episodes.
        picks: In order; all stores have the layout of the first.
        edit: What is done and why, for ``provenance.edits``; its entry ``operation`` names it.
        task: Name of the task, that of the first store when None.
        verify: Refuse an episode whose bytes are not those of its record.
        mend: Change an episode before it is stored (repairs only).
        progress: Called after every commit.

    Raises:
        DataError: nothing to copy, or a damaged episode, named; what was copied before stays.
        StorageError: ``out`` is taken by something else, or the disk refused.
    """
    if not picks:
        raise DataError(explain("nothing to copy", given=edit.get("operation"), mend="choose at least one episode"))
    out = Path(out)
    plan = {"id": _plan_id(picks, edit), "episodes": len(picks)}
    provenance = provenance_after([p.reader.store for p in picks], edit, plan)
    with _opened(out, picks[0].reader.store, plan, provenance, task) as target:
        done = target.num_episodes + len(target.tombstones)
        resumed = min(done, len(picks))
        waiting: list[Episode] = []
        for number in range(resumed, len(picks)):
            episode = _checked(picks[number], verify)
            waiting.append(episode if mend is None else mend(picks[number].index, episode))
            full = len(waiting) >= BATCH_EPISODES or sum(map(_stored_bytes, waiting)) >= BATCH_BYTES
            if full or number == len(picks) - 1:
                target.append_many(waiting, any_rate=True)
                waiting.clear()
                if progress is not None:
                    progress(number + 1, len(picks))
        return Copied(out, target.num_episodes, target.num_steps, resumed)


def create_like(
    out: Path, store: StoreContents, *, task: str | None = None, provenance: Mapping[str, Any] | None = None
) -> EpisodeStore:
    """An empty store with the layout of ``store``, open for appending.

    Raises:
        StorageError: the path is taken, or the disk refused.
    """
    cameras = store.attributes["cameras"]
    codecs = {entry["codec"] for entry in cameras.values()} or {"raw"}
    own = ("state", "environment_state", "action", "time_ns")
    return EpisodeStore.create(
        out,
        store.embodiment,
        task=store.task if task is None else task,
        cameras={name: (entry["height"], entry["width"]) for name, entry in cameras.items()},
        environment_state=store.environment_state_names,
        joints=False,  # among the further streams
        extra={n: s for n, s in store.streams.items() if n not in own and not n.startswith("image/")},
        codec=codecs.pop(),
        fps=store.fps,
        provenance=provenance,
    )


def provenance_after(
    stores: Sequence[StoreContents], edit: Mapping[str, Any], plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Where a new store is from: what its only source said, or every source; all edits; what is to be copied."""
    unique = list({id(s): s for s in stores}.values())
    before = [dict(s.attributes.get("provenance", {})) for s in unique]
    edits = [e for entry in before for e in entry.get("edits", [])] if len(unique) == 1 else []
    origins = [{k: v for k, v in entry.items() if k not in _OWN} for entry in before]
    origin = origins[0] if len(unique) == 1 else {}
    sources = [
        {"store": store_name(s), "content_hash": s.content_hash, "episodes": s.num_episodes, "task": s.task}
        | ({"provenance": o} if len(unique) > 1 and o else {})
        for s, o in zip(unique, origins, strict=True)
    ]
    return {**origin, "edits": [*edits, {**edit, "sources": sources}], "plan": dict(plan)}


def planned_episodes(store: StoreContents) -> int | None:
    """How many episodes a copy is to have, or None when the store is no copy or the copy is complete."""
    plan = store.attributes.get("provenance", {}).get("plan")
    if not isinstance(plan, Mapping) or not isinstance(plan.get("episodes"), int):
        return None
    return plan["episodes"] if store.num_episodes + len(store.tombstones) < plan["episodes"] else None


def _stored_bytes(episode: Episode) -> int:
    return sum(
        sum(map(len, values.blobs)) if isinstance(values, EncodedFrames) else values.nbytes
        for values in episode.streams.values()
    )


def _checked(pick: Pick, verify: bool) -> Episode:
    reader, index = pick.reader, pick.index
    episode = reader.read(index)
    if verify and episode_digest(episode.streams) != reader.record(index)["sha256"]:
        raise DataError(
            explain(
                f"episode {index} of {reader.store.path} is not what was committed: its digest differs",
                mend=f"robopolicy data validate {reader.store.path}, then robopolicy data repair",
            )
        )
    return Episode(episode.streams, episode.language, episode.success, pick.metadata())


def _plan_id(picks: Sequence[Pick], edit: Mapping[str, Any]) -> str:
    """Hash of what the new store will hold; the place of the sources does not matter."""
    digest = hashlib.sha256()
    for line in _plan_lines(picks, edit):
        digest.update(json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n")
    return digest.hexdigest()[:32]


def _plan_lines(picks: Sequence[Pick], edit: Mapping[str, Any]) -> Iterator[Any]:
    yield dict(edit)
    for pick in picks:
        info = pick.reader.record(pick.index)
        yield [info["sha256"], info["length"], info["language"], info["success"], pick.metadata()]


def _opened(
    out: Path, template: StoreContents, plan: Mapping[str, Any], provenance: Mapping[str, Any], task: str | None
) -> EpisodeStore:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return create_like(out, template, task=task, provenance=provenance)
    taken = explain(f"{out} already exists", mend="choose another path; an unfinished copy is only gone on with as is")
    try:
        target = EpisodeStore.open(out, "a")
    except StoreNotFoundError as error:
        raise StorageError(taken) from error
    begun = target.attributes.get("provenance", {}).get("plan", {})
    if begun.get("id") != plan["id"]:
        target.close()
        given = f"a copy of {begun['episodes']} other episodes" if begun else "a store that is no copy"
        mend = "choose another path, or repeat the command that began it"
        raise StorageError(explain(f"{out} already exists", given=given, mend=mend))
    return target
