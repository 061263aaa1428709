"""Plants damage in a copy of a store and tells what reading it gives: an error of ours, right data, or wrong data.

A whole file in the place of another of the same kind is sound in itself; there it is enough that ``verify`` finds it.

Usage: data_store_damage.py STORE WORK FIRST COUNT [--no-checksums]; prints one JSON line per case.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import RobopolicyError

KINDS = ("flip", "flips", "cut", "delete", "grow", "zeros", "json", "text", "swap")
MEMORY_BYTES = 4 << 30
SECONDS = 120


def contents(path: Path, verify: bool = True) -> dict[str, Any]:
    """Everything that a user can read of a store."""
    store = EpisodeStore.open(path, verify=verify)
    found: dict[str, Any] = {
        "about": (store.task, store.fps, store.cameras, store.environment_state_names, store.embodiment.hash),
        "counts": (store.num_episodes, store.num_steps, store.content_hash),
        "streams": store.streams,
        "ends": store.episode_ends.tolist(),
        "episodes": [store.info(i) for i in range(store.num_episodes)],
        "statistics": {n: store.statistics(n).to_dict() for n, s in store.streams.items() if s.dtype == "float32"},
    }
    for name in store.streams:
        found[name] = store.read(name)
    return found


def same(a: Any, b: Any) -> bool:
    """Equality, arrays bit for bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def damage(path: Path, rng: np.random.Generator) -> str:
    """Do one random thing to one random file. -> what was done."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    roots = [path / "zarr.json"] * (len(files) // 4)  # the one file that everything hangs on, more often than its share
    file = [*files, *roots][int(rng.integers(len(files) + len(roots)))]
    kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind in ("json", "text"):
        file = path / "zarr.json"
    raw = bytearray(file.read_bytes())
    where = f"{kind} {file.relative_to(path)}"
    if kind in ("flip", "flips"):
        for place in rng.integers(len(raw), size=1 if kind == "flip" else int(rng.integers(2, 20))).tolist():
            raw[place] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        raw = raw[: int(rng.integers(len(raw)))]
    elif kind == "grow":
        raw += rng.integers(0, 256, int(rng.integers(1, 2000)), dtype=np.uint8).tobytes()
    elif kind == "zeros":
        start = int(rng.integers(len(raw)))
        stop = min(len(raw), start + int(rng.integers(1, 5000)))
        raw[start:stop] = bytes(stop - start)
    elif kind == "json":
        document = json.loads(raw)
        where += " " + _edit(document, rng)
        raw = bytearray(json.dumps(document).encode())
    elif kind == "text":
        place, digits = int(rng.integers(len(raw))), [i for i, c in enumerate(raw) if chr(c).isdigit()]
        place = digits[place % len(digits)]
        raw[place : place + 1] = str(int(rng.integers(10 ** int(rng.integers(1, 19))))).encode()
    elif kind == "swap":
        other = files[int(rng.integers(len(files)))]
        raw = bytearray(other.read_bytes())
        where += f" with {other.relative_to(path)}"
    if kind == "delete":
        file.unlink()
    else:
        file.write_bytes(raw)
    return where


def _edit(node: Any, rng: np.random.Generator) -> str:
    """Replace one random value of a JSON document by another, or remove it."""
    trail = ""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[int(rng.integers(len(keys)))]
        trail += f"/{key}"
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
            node = node[key]
            continue
        odd = (0, 1, -1, 2**40, 2**63, 1e308, "", "x", None, True, [], {}, [[1]], "float32", "uint16", 3.5)
        if rng.random() < 0.2:
            del node[key]
            return f"{trail} removed"
        node[key] = odd[int(rng.integers(len(odd)))]
        return f"{trail} = {node[key]!r}"


def case(template: Path, work: Path, seed: int, verify: bool, whole: dict[str, Any]) -> dict[str, Any]:
    """Damage a copy with the numbers of ``seed`` and read it."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    what = damage(work, np.random.default_rng([seed, 5]))
    try:
        verdict = "right" if same(whole, contents(work, verify)) else "wrong"
        if verdict == "wrong" and what.startswith("swap") and verify and list(EpisodeStore.open(work).verify()):
            verdict = "found"  # each file is sound in itself; only the hashes of episodes tell that it is another's
    except RobopolicyError as error:
        verdict = "refused"
        what += f": {str(error)[:200]}"
    except BaseException as error:
        verdict = "escaped"
        what += f": {type(error).__name__}: {error}"
    return {"seed": seed, "verdict": verdict, "what": what}


def main(template: Path, work: Path, first: int, count: int, verify: bool) -> None:
    """Cases ``first .. first + count``; memory is limited so that an absurd size cannot pass unnoticed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    whole = contents(template)
    for seed in range(first, first + count):
        print(json.dumps(case(template, work, seed, verify, whole)), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), "--no-checksums" not in sys.argv)
