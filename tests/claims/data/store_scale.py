"""A store of 10,000 episodes: how fast it opens, goes on growing, tells about one episode and recomputes statistics.

    python tests/claims/data/store_scale.py --work runs/scale --out docs/results

Budget: full, about 3 minutes. A store of 10,000 episodes of 100 low-dimensional rows (one million) and 8x8 frames is
written in batches and compared with one of 1,000 of the same make. Times are CPU seconds of this process (wall
seconds beside them), page cache warm, medians.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment import load_embodiment
from robopolicy.evaluation.claims import ClaimResult

EPISODES, FEW, ROWS, BATCH = 10_000, 1_000, 100, 500


def episode(store: EpisodeStore, index: int) -> Episode:
    """A pure function of its index."""
    rng = np.random.default_rng([3, index])
    streams: dict[str, np.ndarray] = {"time_ns": np.arange(ROWS) * round(1e9 / store.fps)}
    for name, spec in store.streams.items():
        if spec.image:
            streams[name] = rng.integers(0, 256, (ROWS, *spec.shape), dtype=np.uint8)
        elif name != "time_ns":
            streams[name] = rng.normal(size=(ROWS, *spec.shape)).astype(np.float32)
    return Episode(streams, "put the cube into the bowl", True, {"index": index})


def build(path: Path, episodes: int) -> float:
    """Write the store, or go on with it. -> CPU seconds."""
    started = time.process_time()
    if not path.exists():
        EpisodeStore.create(path, load_embodiment("panda"), cameras={"front": (8, 8)}).close()
    with EpisodeStore.open(path, mode="a") as store:
        while store.num_episodes < episodes:
            first = store.num_episodes
            store.append_many(episode(store, i) for i in range(first, min(first + BATCH, episodes)))
    return time.process_time() - started


def median_s(action: Callable[[], object], times: int = 5) -> tuple[float, float]:
    """(CPU, wall) seconds of one call."""
    cpu, wall = [], []
    for _ in range(times):
        started, began = time.process_time(), time.perf_counter()
        action()
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - began)
    return statistics.median(cpu), statistics.median(wall)


def opened(path: Path) -> EpisodeStore:
    """A handle with everything that is needed to train on it: ends, all labels, all windows."""
    store = EpisodeStore.open(path)
    WindowDataset(store, WindowSpec(2, 16, environment_state=False, cameras=("front",)), cache_bytes=0)
    return store


def appends(path: Path) -> tuple[float, float]:
    """(CPU, wall) seconds of one append; the store itself is left as it was."""
    with EpisodeStore.open(path, mode="a") as store:
        made = episode(store, 0)
        first = store.num_episodes
        took = median_s(lambda: store.append(made), 9)
        store.set_tombstones(range(first, store.num_episodes))
    return took


def recompute(path: Path) -> tuple[float, float]:
    """(CPU, wall) seconds of recomputing all statistics with every image file out of reach."""
    images = path / "data" / "image"
    with EpisodeStore.open(path, mode="a") as store:
        images.rename(path / "hidden")
        try:
            return median_s(store.recompute_statistics, 3)
        finally:
            (path / "hidden").rename(images)


def main() -> None:
    """Build, measure, write the entries."""
    options = claim_run.arguments(__doc__.splitlines()[0], episodes=EPISODES)
    options.work.mkdir(parents=True, exist_ok=True)
    large, small = options.work / "large.zarr", options.work / "small.zarr"
    shutil.rmtree(small, ignore_errors=True)
    built = build(large, options.episodes)
    build(small, FEW)
    found = {name: (median_s(lambda p=p: opened(p)), path_size(p)) for name, p in (("large", large), ("small", small))}
    bare = median_s(lambda: EpisodeStore.open(large))
    store = EpisodeStore.open(large)
    info = median_s(lambda: EpisodeStore.open(large).info(options.episodes // 2))
    again = median_s(lambda: [store.info(i) for i in range(0, options.episodes, 100)])
    took = {"large": appends(large), "small": appends(small)}
    anew = recompute(large)
    began = time.perf_counter()
    damage = list(EpisodeStore.open(large).verify())
    assert not damage, damage[0]
    whole = time.perf_counter() - began
    shutil.rmtree(large)
    value = {
        "episodes": options.episodes,
        "rows": options.episodes * ROWS,
        "build_cpu_s": round(built, 1),
        "open_cpu_s": round(bare[0], 4),
        "open_with_windows_cpu_s": round(found["large"][0][0], 3),
        "open_with_windows_wall_s": round(found["large"][0][1], 3),
        "open_with_windows_1000_episodes_cpu_s": round(found["small"][0][0], 4),
        "first_info_cpu_s": round(info[0], 4),
        "info_cpu_us": round(1e6 * again[0] / len(range(0, options.episodes, 100)), 1),
        "append_cpu_s": round(took["large"][0], 4),
        "append_wall_s": round(took["large"][1], 4),
        "append_to_1000_episodes_cpu_s": round(took["small"][0], 4),
        "append_to_1000_episodes_wall_s": round(took["small"][1], 4),
        "statistics_cpu_s": round(anew[0], 2),
        "statistics_wall_s": round(anew[1], 2),
        "root_bytes": found["large"][1],
        "root_bytes_1000_episodes": found["small"][1],
        "verify_wall_s": round(whole, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    for name, entry in value.items():
        print(f"{name:40s} {entry}")
    write(value, options)


def path_size(path: Path) -> int:
    """Bytes of the commit record."""
    return (path / "zarr.json").stat().st_size


def write(value: dict[str, float], options: object) -> None:
    """The entry; its control is an opening that reads everything back, which must take too long."""
    reached = (
        value["open_with_windows_wall_s"] < 2
        and value["statistics_wall_s"] < 10
        and value["append_cpu_s"] < 2 * value["append_to_1000_episodes_cpu_s"]
        and value["root_bytes"] < 2 * value["root_bytes_1000_episodes"]
    )
    whole = value["verify_wall_s"]
    claim_run.write(
        ClaimResult(
            claim="A store of 10,000 episodes opens in under 2 s with all its windows and grows as fast as a small one",
            source="own",
            command="python tests/claims/data/store_scale.py --work runs/scale --out docs/results",
            commit=claim_run.commit(),
            target="open < 2 s; statistics of 1e6 rows < 10 s, no image read; append and record < 2x those of 1,000",
            value=value,
            interval=None,
            n=int(value["episodes"]),
            seeds=[3],
            control={"what": "reading everything back", "value": whole, "failed": bool(whole >= 2)},
            passed=bool(reached and whole >= 2),
            cpu_s=claim_run.cpu_s(),
        ),
        options.out,
        "data",
        "store_scale",
    )


if __name__ == "__main__":
    main()
