"""How batches come from worker processes: our ring against a pickling queue, and two workers against one."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import Any

import numpy as np

from robopolicy.data.bench.comparison import Comparison, Contender, interleaved
from robopolicy.data.bench.reading import HORIZONS, spec_of
from robopolicy.data.loader import Loader
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.seeding import generator

__all__ = ["compare_queue", "compare_workers"]


def _produce(queue: Queue[Any], shapes: dict[str, tuple[int, ...]], batches: int) -> None:
    arrays = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    for _ in range(batches):
        queue.put(arrays)
    queue.put(None)


class _Flow:
    """Batches per second of the clock from an endless source, opened for each round and closed after it."""

    def __init__(self, batches: int):
        self.batches = batches

    def rate(self, source: Iterator[Any]) -> float:
        next(source), next(source)  # the process has started and is at work
        start = time.perf_counter()
        for _ in range(self.batches):
            next(source)
        return self.batches / (time.perf_counter() - start)


def compare_queue(store: EpisodeStore, batch_size: int, rounds: int, scale: float) -> Comparison:
    """One worker that hands over batches of decoded frames, by our ring and by ``multiprocessing.Queue``.

    The ring's worker gathers every batch anew from a decoded cache; the queue's producer sends the same arrays over and
    over and does no gathering, which is in its favour. Both sides end with arrays that the consumer can read.

    Args:
        store: Whose windows are gathered.
        batch_size: Windows; 59 MB of frames are 534 windows of two frames of two 96x96 cameras.
        rounds: Of both.
        scale: Length of a round, 1 for the figures.
    """
    windows = WindowDataset(store, spec_of(store), cache_bytes=1 << 40)
    shapes = {n: (batch_size, *s) for n, (s, _) in windows.array_layout().items() if n.startswith("image/")}
    nbytes = sum(int(np.prod(shape)) for shape in shapes.values())
    flow = _Flow(max(3, round(30 * scale)))

    def by_queue(number: int) -> float:
        context = multiprocessing.get_context("spawn")
        queue = context.Queue(2)
        process = context.Process(target=_produce, args=(queue, shapes, flow.batches + 2), daemon=True)
        process.start()
        rate = flow.rate(iter(queue.get, None))
        queue.get()
        process.join()
        return rate

    def by_ring(number: int) -> float:
        order = generator("data bench", "ring", number).integers(0, len(windows), batch_size * (flow.batches + 8))
        with Loader(windows, batch_size, workers=1) as loader:
            rate = flow.rate(loader.batches(order))
        gc.collect()
        return rate

    rates = interleaved({"ring": by_ring, "queue": by_queue}, rounds)
    facts = {
        "batch MB": round(nbytes / 1e6, 1),
        "ring ms per batch": round(1e3 / float(np.median(rates["ring"])), 2),
        "queue ms per batch": round(1e3 / float(np.median(rates["queue"])), 2),
    }
    return Comparison(
        "ring_vs_pickling_queue",
        "A batch of 59 MB comes from a worker process ten times as fast through the ring as through a pickling queue",
        10.0, "ring", "queue", ("queue", "the queue against itself, luckiest against unluckiest round"),
        "batches per second", rates, facts,
    )  # fmt: skip


def compare_workers(store: EpisodeStore, rounds: int, scale: float) -> Comparison:
    """Samples per second of the clock with two loader processes, with one, and with one again as the control.

    Args:
        store: With JPEG frames, which are decoded at every use.
        rounds: Of each.
        scale: Length of a round, 1 for the figures.
    """
    spec = WindowSpec(*HORIZONS, environment_state=False, cameras=store.cameras)
    windows = WindowDataset(store, spec, cache_bytes=0)
    batches = max(4, round(150 * scale))
    numbers = {"two workers": 2, "one worker": 1, "again one": 1}
    loaders = {name: Loader(windows, 64, workers) for name, workers in numbers.items()}

    def contender(loader: Loader) -> Contender:
        def run(number: int) -> float:
            order = generator("data bench", "workers", number).integers(0, len(windows), 64 * (batches + 2))
            source = loader.batches(order)
            next(source)
            start = time.perf_counter()
            for _ in range(batches):
                next(source)
            taken_s = time.perf_counter() - start
            return 64 * batches / taken_s

        return run

    try:
        rates = interleaved({name: contender(loader) for name, loader in loaders.items()}, rounds)
    finally:
        for loader in loaders.values():
            loader.close()
    return Comparison(
        "two_workers_vs_one",
        "Two loader processes decode 1.7 times as many samples per second of the clock as one",
        1.7, "two workers", "one worker", ("again one", "one worker in the place of two"),
        "samples per second of the clock", rates,
    )  # fmt: skip
