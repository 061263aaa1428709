"""Window reading inside this process: our tiers, a vectorised memmap, zarr-python on the same files, robomimic.

One sample is 2 observation rows of every camera and of the state, and 16 actions. All contenders have the
low-dimensional streams in RAM but robomimic, which keeps them there too (``hdf5_cache_mode="low_dim"``). zarr-python
slices the frames of each window, as its users do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.bench.comparison import Comparison, cpu_rate, interleaved
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.errors import DataError, explain
from robopolicy.seeding import generator

__all__ = ["BATCH", "HORIZONS", "Reference", "compare_reading", "spec_of", "window_indices"]

BATCH = 64
HORIZONS = (2, 16)
UNIT = "samples per CPU-second"
Gather = Callable[[NDArray[np.int64]], dict[str, Any]]


def spec_of(store: EpisodeStore) -> WindowSpec:
    """What is read of every sample."""
    return WindowSpec(*HORIZONS, environment_state=False, cameras=store.cameras)


def window_indices(windows: int, batches: int, number: int) -> list[NDArray[np.int64]]:
    """Batches of random windows of a round, the same for every contender."""
    return list(generator("data bench", "order", number).integers(0, windows, (batches, BATCH)))


class Reference:
    """The same windows from arrays of frames (np.memmap or zarr)."""

    def __init__(self, store: EpisodeStore, images: dict[str, Any]):
        """Arguments: the store, and camera -> array [N, H, W, 3]."""
        self.images = images
        self.state, self.action = store.read("state"), store.read("action")
        ends = store.episode_ends
        starts = np.concatenate([[0], ends[:-1]])
        self.start, self.last = np.repeat(starts, ends - starts), np.repeat(ends - 1, ends - starts)

    def _rows(self, index: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        start, last = self.start[index, None], self.last[index, None]
        seen, ahead = HORIZONS
        wanted = index[:, None] + np.arange(1 - seen, 1 - seen + ahead)
        done = np.clip(wanted, start, last)
        return np.maximum(index[:, None] + np.arange(1 - seen, 1), start), done, done == wanted

    def vectorised(self, index: NDArray[np.int64]) -> dict[str, Any]:
        """One np.take per array and batch."""
        rows, done, mask = self._rows(index)
        image = {}
        for name, array in self.images.items():
            flat = np.empty((rows.size, *array.shape[1:]), np.uint8)
            np.take(array, rows.ravel(), axis=0, out=flat, mode="clip")
            image[name] = flat.reshape(*rows.shape, *array.shape[1:])
        return {"image": image, "state": self.state[rows], "action": self.action[done], "mask": mask}

    def sliced(self, index: NDArray[np.int64]) -> dict[str, Any]:
        """One slice per camera and window."""
        rows, done, mask = self._rows(index)
        image = {name: np.empty((*rows.shape, *array.shape[1:]), np.uint8) for name, array in self.images.items()}
        for name, array in self.images.items():
            for i, row in enumerate(rows):
                image[name][i] = array[row[0] : row[-1] + 1] if row[-1] - row[0] == len(row) - 1 else array[row[0]]
        return {"image": image, "state": self.state[rows], "action": self.action[done], "mask": mask}


def compare_reading(stores: dict[str, EpisodeStore], folder: Path, rounds: int, scale: float) -> list[Comparison]:
    """Cache against memmap, and our shard reader against zarr-python on the same files.

    Args:
        stores: Codec (``raw``, ``jpeg``) -> store of the same content; one is enough.
        folder: For the memmap.
        rounds: Of every contender.
        scale: Length of a round, 1 for the figures.

    Raises:
        DataError: two contenders gave different numbers.
    """
    first = next(iter(stores.values()))
    memmaps = {camera: _memmap(first, camera, folder) for camera in first.cameras}
    found: dict[str, tuple[Gather, int]] = {}
    cached = WindowDataset(first, spec_of(first), cache_bytes=1 << 40)
    cached.fill_cache()
    found["memmap vectorised"] = Reference(first, memmaps).vectorised, 60
    found["decoded cache"] = cached.gather, 60
    for codec, store in stores.items():
        found[f"direct {codec}"] = (
            WindowDataset(store, spec_of(store), cache_bytes=0).gather,
            25 if codec == "raw" else 6,
        )
        found[f"zarr-python {codec}"] = Reference(store, _zarr_arrays(store)).sliced, 2
    _check(found, {"memmap vectorised", "decoded cache"}, next(iter(stores)), len(cached))
    contenders = {}
    for name, (gather, batches) in found.items():
        count = max(1, round(batches * scale))
        contenders[name] = _contender(gather, len(cached), count)
    rates = interleaved(contenders, rounds)
    slow = f"direct {'jpeg' if 'jpeg' in stores else next(iter(stores))}"
    comparisons = [
        Comparison(
            "window_cache_vs_memmap",
            "The decoded cache reads windows at 0.8 times the speed of a vectorised np.memmap or faster",
            0.8, "decoded cache", "memmap vectorised", (slow, "the same frames decoded at every use"), UNIT, rates,
        )
    ]  # fmt: skip
    for codec in stores:
        name, ours, theirs = f"window_direct_{codec}_vs_zarr", f"direct {codec}", f"zarr-python {codec}"
        claim = f"Our shard reader is ten times as fast as slicing zarr-python on the same {codec} files"
        control = (theirs, "zarr-python against itself, luckiest against unluckiest round")
        comparisons.append(Comparison(name, claim, 10.0, ours, theirs, control, UNIT, rates))
    return comparisons


def _contender(gather: Gather, windows: int, batches: int) -> Callable[[int], float]:
    return lambda number: cpu_rate(gather, window_indices(windows, batches, number), batches * BATCH)


def _memmap(store: EpisodeStore, camera: str, folder: Path) -> NDArray[np.uint8]:
    shape = (store.num_steps, *store.streams[f"image/{camera}"].shape)
    path = folder / f"{camera}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for start in range(0, len(array), 256):
        array[start : start + 256] = store.read(f"image/{camera}", start, min(start + 256, len(array)))
    array.flush()
    return np.load(path, mmap_mode="r")


def _zarr_arrays(store: EpisodeStore) -> dict[str, Any]:
    import zarr

    from robopolicy.data.jpeg_codec import register_jpeg_codec

    register_jpeg_codec()
    group = zarr.open_group(str(store.path), mode="r")
    return {camera: group[f"data/image/{camera}"] for camera in store.cameras}


def _check(found: dict[str, tuple[Gather, int]], of_first: set[str], first: str, windows: int) -> None:
    """All contenders of one codec must give the same numbers, or the comparison means nothing."""
    index = generator("data bench", "check").integers(0, windows, 16)
    for name, (gather, _) in found.items():
        codec = first if name in of_first else name.rpartition(" ")[2]
        truth, batch = found[f"zarr-python {codec}"][0](index), gather(index)
        same = all(np.array_equal(batch["image"][c], frames) for c, frames in truth["image"].items())
        if not (same and all(np.array_equal(batch[k], truth[k]) for k in ("state", "action"))):
            raise DataError(explain("two contenders read different numbers", given=(name, f"zarr-python {codec}")))
