"""What ten thousand episodes cost: the same number of rows in 10 and in 10,000 episodes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.bench.comparison import Comparison, Contender, cpu_rate, interleaved
from robopolicy.data.bench.reading import BATCH, spec_of, window_indices
from robopolicy.data.bench.synthetic import many_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset

__all__ = ["compare_scale"]


class _Scanning(WindowDataset):
    """The control: looks for the episode of each window one after the other, as an index in plain Python would."""

    def _episode(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        bounds = self._bounds.tolist()
        return np.array([next(e for e, end in enumerate(bounds) if end > i) for i in index.tolist()], np.int64)


def compare_scale(folder: Path, many: int, rows: int, size: int, rounds: int, scale: float) -> Comparison:
    """Samples per CPU-second from the decoded cache with ``many`` episodes and with ten.

    Args:
        folder: For the stores.
        many: Episodes of the larger store.
        rows: Of both.
        size: Of the square frames.
        rounds: Of each.
        scale: Length of a round, 1 for the figures.
    """
    few = many_episodes(folder / "few.zarr", 10, rows, size)
    lots = many_episodes(folder / "many.zarr", many, rows, size)
    start = time.process_time()
    opened = WindowDataset(EpisodeStore.open(lots.path), spec_of(lots), cache_bytes=0)
    open_s = time.process_time() - start
    batches = max(2, round(100 * scale))

    def contender(kind: type[WindowDataset], store: EpisodeStore, count: int) -> Contender:
        windows: Any = kind(store, spec_of(store), cache_bytes=1 << 40)
        windows.fill_cache()
        return lambda number: cpu_rate(windows.gather, window_indices(len(windows), count, number), count * BATCH)

    contenders = {
        f"{many} episodes": contender(WindowDataset, lots, batches),
        "10 episodes": contender(WindowDataset, few, batches),
        f"{many} episodes, scanned": contender(_Scanning, lots, max(1, batches // 20)),
    }
    rates = interleaved(contenders, rounds)
    assert len(opened)
    return Comparison(
        "many_episodes_vs_few",
        "With 10,000 episodes windows are read at 0.8 times the speed with 10 episodes of as many rows, or faster",
        0.8, f"{many} episodes", "10 episodes",
        (f"{many} episodes, scanned", "the episode of each window searched one by one"),
        "samples per CPU-second", rates, {"open s CPU": round(open_s, 3), "rows": rows},
    )  # fmt: skip
