"""The same data from an S3-compatible server on loopback: over a good, a slow and a failing connection.

    python tests/claims/data/store_remote.py --work runs/remote --out docs/results

Budget: quick, about a minute. moto, where it is installed, else a small server of the tests, serves a JPEG and a raw
store; a proxy in between drops new connections, cuts them after a random number of bytes, or delays every piece of the
answer. Whatever is read must equal the folder bit for bit; with a connection that never works the error has to name
the address, the number of attempts and the last error. The control reads through the failing connection with a single
attempt, which must not succeed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import data_servers
import data_store_damage
import data_toy

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import StorageError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator

FAULTS = 400
LIFE_BYTES = 400_000
"""No broken connection carries more; a single shard is 150 kB."""
MESSAGE = re.compile(r"s3://demos/\w+\.zarr/\S+.* (\d+) attempts?, the last: \w+")


class Broken:
    """An endless supply of faults: about two of three new connections fail, and none lives for ever."""

    def __init__(self, between: data_servers.Proxy):
        rng = generator("store_remote", "faults")
        for _ in range(FAULTS):
            kind = ("drop", "cut", "cut")[int(rng.integers(3))]
            between.faults.append((kind, int(rng.integers(1, LIFE_BYTES))))
        between.always = ("cut", LIFE_BYTES)


def contents(name: str, storage: dict[str, object]) -> dict[str, object]:
    """All of a store behind the server; see :func:`data_store_damage.contents`."""
    store = EpisodeStore.open(f"s3://demos/{name}.zarr", storage=storage)
    found: dict[str, object] = {stream: store.read(stream) for stream in store.streams}
    return {**found, "hash": store.content_hash, "episodes": [store.info(i) for i in range(store.num_episodes)]}


def local(path: Path) -> dict[str, object]:
    """The same of the folder."""
    store = EpisodeStore.open(path)
    found: dict[str, object] = {stream: store.read(stream) for stream in store.streams}
    return {**found, "hash": store.content_hash, "episodes": [store.info(i) for i in range(store.num_episodes)]}


def attempts_named(name: str, storage: dict[str, object]) -> int:
    """Attempts that the error of a read which cannot succeed names; 0 if it succeeds or says something else."""
    try:
        contents(name, storage)
    except StorageError as error:
        found = MESSAGE.search(str(error))
        return int(found[1]) if found else 0
    return 0


def main() -> None:
    """Serve, read, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    root = options.work / "stores"
    shutil.rmtree(options.work, ignore_errors=True)
    for codec in ("raw", "jpeg"):
        with data_toy.create(root / f"{codec}.zarr", codec=codec) as store:
            store.append_many([data_toy.episode(store, i) for i in range(12)])
    whole = {codec: local(root / f"{codec}.zarr") for codec in ("raw", "jpeg")}
    equal: dict[str, bool] = {}
    took: dict[str, float] = {}
    moto = importlib.util.find_spec("moto") is not None
    serve = data_servers.moto_server if moto else data_servers.s3_server
    with serve(root, "demos") as port, data_servers.proxy(port) as between:
        storage = data_servers.s3_storage(between.port)
        for way in ("good", "slow", "failing"):
            between.faults.clear()
            between.always = ("slow", 0.01) if way == "slow" else ("", 0)
            if way == "failing":
                Broken(between)
            started = time.perf_counter()
            some = {codec: contents(codec, {**storage, "attempts": 60}) for codec in whole}
            took[way] = round(time.perf_counter() - started, 2)
            equal[way] = all(data_store_damage.same(whole[codec], some[codec]) for codec in whole)
        survived = FAULTS - len(between.faults)
        between.faults.clear()
        between.always = ("drop", 0)
        named = attempts_named("raw", {**storage, "attempts": 4})
        Broken(between)
        single = attempts_named("raw", {**storage, "attempts": 1})
    shutil.rmtree(options.work)
    claim_run.write(
        ClaimResult(
            claim="A store on an S3-compatible server reads alike over slow and failing connections, or says why not",
            source="own",
            command="python tests/claims/data/store_remote.py --work runs/remote --out docs/results",
            commit=claim_run.commit(),
            target="bit for bit equal over all three; 4 attempts asked for, 4 named in the error of a dead connection",
            value={"equal": equal, "wall_s": took, "faults met": survived, "attempts named": named},
            interval=None,
            n=3 * len(whole),
            seeds=[0],
            control={"what": "one attempt over the failing connection", "value": single, "failed": single == 1},
            passed=all(equal.values()) and survived > 10 and named == 4 and single == 1,
            cpu_s=claim_run.cpu_s(),
        ),
        options.out,
        "data",
        "store_remote",
    )


if __name__ == "__main__":
    main()
