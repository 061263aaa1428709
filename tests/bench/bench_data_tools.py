"""Copying a store against encoding its frames again, and how long the tools take on many episodes.

    python tests/bench/bench_data_tools.py --work runs/bench_tools --out docs/results

Both sides read and write the same store (JPEG, two cameras, 240x320, 12 episodes of 60 rows) in turn, in one process;
CPU seconds, the best of three. A copy of the folder by ``shutil`` stands beside them: it neither checks nor commits.
``info`` and ``stats`` are measured on 10,000 episodes.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import claim_run
import data_toy

from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.copying import create_like
from robopolicy.data.tools.deletion import compact
from robopolicy.data.tools.describe import describe
from robopolicy.data.tools.tables import statistics_rows
from robopolicy.data.tools.validate import validate
from robopolicy.evaluation.claims import ClaimResult

EPISODES, ROWS, SIZE = 12, 60, (240, 320)


def make(path: Path) -> None:
    """A store with smooth, slightly noisy frames, which compress about as camera pictures do."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 40.0
    noise = rng.normal(0, 2.2, (ROWS, *SIZE, 3)).astype(np.float32)
    with data_toy.create(path, cameras={"a": SIZE, "b": SIZE}, codec="jpeg") as store:
        for i in range(EPISODES):
            episode = data_toy.episode(store, i, ROWS)
            for name in ("image/a", "image/b"):
                waves = np.stack([np.sin(x + c + i) * np.cos(y * (c + 1)) for c in range(3)], axis=-1) * 90 + 128
                shifted = np.roll(noise, i, axis=2)
                episode.streams[name] = np.clip(waves.astype(np.float32) + shifted, 0, 255).astype(np.uint8)
            store.append(episode)


def encode_again(source: Path, out: Path) -> None:
    """What a copy costs when frames are decoded and encoded."""
    store = EpisodeStore.open(source)
    with create_like(out, store) as target:
        for i in range(store.num_episodes):
            info = store.info(i)
            streams = {name: store.read(name, info["start"], info["stop"]) for name in store.streams}
            target.append(Episode(streams, info["language"], info["success"], info["metadata"]))


def seconds(job: Callable[[], object]) -> tuple[float, float]:
    """(CPU, wall) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.process_time() - cpu, time.perf_counter() - wall


def many(path: Path, count: int = 10_000) -> None:
    """A store of very many short episodes with a camera."""
    with data_toy.create(path, cameras=("wrist",), codec="jpeg") as store:
        for first in range(0, count, 500):
            store.append_many([data_toy.episode(store, i, 10) for i in range(first, first + 500)])


def main() -> None:
    """Measure and write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source, out = work / "source.zarr", work / "out.zarr"
    make(source)
    jobs = {
        "copy": lambda: compact(source, out),
        "encode again": lambda: encode_again(source, out),
        "shutil": lambda: shutil.copytree(source, out),
    }
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(3):
        for name, job in jobs.items():
            cpu[name].append(seconds(job)[0])
            shutil.rmtree(out)
    best = {name: min(values) for name, values in cpu.items()}
    size_mb = sum(p.stat().st_size for p in source.rglob("*") if p.is_file()) / 1e6
    checked, _ = seconds(lambda: validate(source, frames="none"))
    decoded, _ = seconds(lambda: validate(source, frames="all"))
    many(work / "many.zarr")
    info = min(seconds(lambda: describe(EpisodeStore.open(work / "many.zarr")))[1] for _ in range(3))
    stats = min(seconds(lambda: statistics_rows(EpisodeStore.open(work / "many.zarr")))[1] for _ in range(3))
    ratio = best["encode again"] / best["copy"]
    result = ClaimResult(
        claim="data tools copy stored frames instead of encoding them again",
        source="own",
        command="python tests/bench/bench_data_tools.py --work runs/bench_tools --out docs/results",
        commit=claim_run.commit(),
        target="at least 10 times fewer CPU seconds than encoding again; info of 10,000 episodes under 1 s",
        value={
            "ratio": round(ratio, 1),
            **{f"{name}, CPU s": round(value, 3) for name, value in best.items()},
            "store, MB": round(size_mb, 1),
            "copy, MB per CPU s": round(size_mb / best["copy"]),
            "validate frames=none, CPU s": round(checked, 2),
            "validate frames=all, CPU s": round(decoded, 2),
            "info of 10,000 episodes, wall s": round(info, 3),
            "stats of 10,000 episodes, wall s": round(stats, 3),
        },
        interval=None,
        n=3,
        seeds=[0],
        control={
            "what": "frames decoded and encoded again",
            "value": round(best["encode again"], 2),
            "failed": best["encode again"] > 10 * best["copy"],
        },
        passed=bool(ratio >= 10 and info < 1),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "bench", "data_tools")


if __name__ == "__main__":
    main()
