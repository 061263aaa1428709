"""The same windows from robomimic's own ``SequenceDataset`` over an HDF5 file in its layout, batched by torch."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.bench.comparison import Comparison, Contender, cpu_rate, interleaved
from robopolicy.data.bench.reading import BATCH, HORIZONS, Reference, _zarr_arrays, spec_of, window_indices
from robopolicy.data.loader import Loader
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset
from robopolicy.errors import MissingDependencyError, explain

__all__ = ["compare_robomimic", "write_robomimic"]


def write_robomimic(store: EpisodeStore, path: Path, episodes: int) -> None:
    """Write the first episodes as robomimic has them: ``data/demo_i/{obs/<key>, actions, ...}``, uncompressed.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(explain("h5py is not installed", mend="pip install robomimic")) from error
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "bench", "env_type": 1, "env_kwargs": {}})
        total = 0
        for i in range(min(episodes, store.num_episodes)):
            info = store.info(i)
            start, stop = info["start"], info["stop"]
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = stop - start
            demo["actions"] = store.read("action", start, stop)
            demo["rewards"], demo["dones"] = np.zeros(stop - start), np.zeros(stop - start)
            obs = demo.create_group("obs")
            obs["state"] = store.read("state", start, stop)
            for camera in store.cameras:
                frames = store.read(f"image/{camera}", start, stop)
                obs.create_dataset(f"{camera}_image", data=frames, chunks=(1, *frames.shape[1:]))
            total += stop - start
        data.attrs["total"] = total


def _dataset(path: Path, cameras: tuple[str, ...], seq_length: int, cache: str) -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import robomimic.utils.obs_utils as obs_utils
            from robomimic.utils.dataset import SequenceDataset
    except ImportError as error:
        raise MissingDependencyError(explain("robomimic is not installed", mend="pip install robomimic")) from error
    images = [f"{camera}_image" for camera in cameras]
    with contextlib.redirect_stdout(io.StringIO()):
        specs = {"obs": {"low_dim": ["state"], "rgb": images, "depth": [], "scan": []}}
        obs_utils.initialize_obs_utils_with_obs_specs([specs])
        return SequenceDataset(
            hdf5_path=str(path),
            obs_keys=["state", *images],
            dataset_keys=["actions"],
            frame_stack=HORIZONS[0],
            seq_length=seq_length,
            pad_frame_stack=True,
            pad_seq_length=True,
            goal_mode=None,
            hdf5_cache_mode=cache,
            hdf5_use_swmr=True,
            load_next_obs=False,
        )


def _contender(dataset: Any, batches: int) -> Contender:
    import torch

    def run(number: int) -> float:
        parts = [part.tolist() for part in window_indices(len(dataset), batches, number)]
        loader = torch.utils.data.DataLoader(dataset, batch_sampler=parts, num_workers=0)
        return cpu_rate(lambda loaded: [None for _ in loaded], [loader], batches * BATCH)

    return run


def _ours(windows: WindowDataset, batches: int) -> Contender:
    loader = Loader(windows, BATCH)

    def run(number: int) -> float:
        order: NDArray[np.int64] = np.concatenate(window_indices(len(windows), batches, number))
        return cpu_rate(lambda indices: [None for _ in loader.batches(indices)], [order], batches * BATCH)

    return run


def compare_robomimic(stores: dict[str, EpisodeStore], folder: Path, rounds: int, scale: float) -> list[Comparison]:
    """Frames read from the disk at every use on both sides: our raw shards, robomimic's uncompressed HDF5.

    robomimic returns the frames of its whole sequence. With ``seq_length=1`` and ``frame_stack=2`` that is our two
    frames (and fewer actions than ours); with the 16 steps that its diffusion policy asks for it is 17, also shown.

    Args:
        stores: Codec -> store of the same content; ``raw`` has to be among them.
        folder: For the HDF5 file.
        rounds: Of every contender.
        scale: Length of a round, 1 for the figures.
    """
    raw = stores["raw"]
    path = folder / "robomimic.hdf5"
    write_robomimic(raw, path, raw.num_episodes)
    own = {name: WindowDataset(store, spec_of(store), cache_bytes=0) for name, store in stores.items()}
    cached = WindowDataset(raw, spec_of(raw), cache_bytes=1 << 40)
    cached.fill_cache()
    zarr = Reference(raw, _zarr_arrays(raw)).sliced
    count = max(1, round(4 * scale))

    def through_zarr(number: int) -> float:
        parts = window_indices(len(cached), count, number)
        return cpu_rate(zarr, parts, count * BATCH)

    contenders: dict[str, Contender] = {f"direct {name}": _ours(d, 5 * count) for name, d in own.items()}
    contenders["decoded cache"] = _ours(cached, 12 * count)
    contenders["robomimic 2 frames"] = _contender(_dataset(path, raw.cameras, 1, "low_dim"), count)
    contenders["robomimic 17 frames"] = _contender(_dataset(path, raw.cameras, 16, "low_dim"), count)
    contenders["robomimic 2 frames, all in RAM"] = _contender(_dataset(path, raw.cameras, 1, "all"), count)
    contenders["zarr-python raw"] = through_zarr
    rates = interleaved(contenders, rounds)
    height, width, _ = raw.streams[f"image/{raw.cameras[0]}"].shape
    comparison = Comparison(
        "window_raw_vs_robomimic",
        f"Batches of windows from our raw shards come three times as fast as from robomimic's SequenceDataset, "
        f"{height}x{width}, both from the disk",
        3.0, "direct raw", "robomimic 2 frames",
        ("zarr-python raw", "zarr-python on our files in our place"), "samples per CPU-second", rates,
    )  # fmt: skip
    return [comparison]
