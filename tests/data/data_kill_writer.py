"""Appends episodes for ever and says so after each; killed from outside. Usage: data_kill_writer.py STORE"""

from __future__ import annotations

import sys

import data_toy

from robopolicy.data.store import EpisodeStore


def main(path: str) -> None:
    with EpisodeStore.open(path, mode="a") as store:
        print("open", store.num_episodes, flush=True)
        while True:
            index = store.append(data_toy.episode(store, store.num_episodes))
            print("committed", index, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
