"""Writes 40 toy episodes into a store and ends. Usage: data_kill_ordered.py STORE "data first" | "record first"

The second order is the control of the claim ``data/store_kill``: the commit record is replaced before the
chunk files are written.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import data_toy

from robopolicy.data import layout, writer
from robopolicy.data.snapshot import ROOT_FILE, record_bytes
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import StoreNotFoundError

EPISODES = 40


def small_chunks() -> None:
    """So that commits span several files of one array."""
    layout.COLUMN_CHUNK_ROWS, layout.RECORD_CHUNK_BYTES, layout.SHARD_FRAMES = 256, 2048, 64


def record_first() -> None:
    """Spoil the writer: what the data files wait for comes before them."""
    real = writer.StoreWriter._commit

    def commit(self: Any, files: Mapping[Path, list[bytes]], tails: Any, committed: Any, *rest: Any) -> None:
        attributes = {**self.snapshot.attributes, "committed": dict(committed)}
        arrays = {name: writer._document(tail) for name, tail in tails.items()}
        writer.write_atomically(self.path / ROOT_FILE, [record_bytes(attributes, arrays)])
        real(self, files, tails, committed, *rest)

    writer.StoreWriter._commit = commit  # type: ignore[method-assign]


def main(path: Path, order: str) -> None:
    """Create the store or go on with it."""
    small_chunks()
    try:
        EpisodeStore.open(path).close()
    except StoreNotFoundError:
        data_toy.create(path, codec="raw", extra={}).close()
    if order == "record first":
        record_first()
    with EpisodeStore.open(path, mode="a") as store:
        while store.num_episodes < EPISODES:
            first = store.num_episodes
            count = 1 if first % 5 else 3
            made = [data_toy.episode(store, i) for i in range(first, min(first + count, EPISODES))]
            store.append_many(made) if len(made) > 1 else store.append(made[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
