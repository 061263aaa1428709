"""Windows from LeRobotDataset, in a process of its own environment, in turns with ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.bench.comparison import Comparison, Contender, cpu_rate, interleaved
from robopolicy.data.bench.reading import BATCH, HORIZONS, Reference, _zarr_arrays, spec_of, window_indices
from robopolicy.data.loader import Loader
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset
from robopolicy.errors import DataError, explain

__all__ = ["compare_lerobot"]


def compare_lerobot(
    stores: dict[str, EpisodeStore], folder: Path, python: str, rounds: int, scale: float
) -> list[Comparison]:
    """Our JPEG shards, decoded at every use, against LeRobotDataset with its videos and the pyav backend.

    Both sides return batches of torch tensors of the same windows: 2 frames of each camera, 2 states, 16 actions.
    LeRobot's frames are float and normalised to one, ours uint8, as each hands them to a trainer.

    Args:
        stores: Codec -> store; ``jpeg`` has to be among them.
        folder: For the peer's copy.
        python: Interpreter of an environment with lerobot 0.4.
        rounds: Of every contender.
        scale: Length of a round, 1 for the figures.

    Raises:
        DataError: the peer failed; the end of its output is shown.
    """
    store = stores["jpeg"]
    _hand_over(store, folder)
    own = WindowDataset(store, spec_of(store), cache_bytes=0)
    cached = WindowDataset(store, spec_of(store), cache_bytes=1 << 40)
    cached.fill_cache()
    count = max(1, round(6 * scale))
    zarr = Reference(store, _zarr_arrays(store)).sliced

    def ours(windows: WindowDataset, batches: int) -> Contender:
        loader = Loader(windows, BATCH)

        def run(number: int) -> float:
            order: NDArray[np.int64] = np.concatenate(window_indices(len(windows), batches, number))
            return cpu_rate(lambda indices: [None for _ in loader.batches(indices)], [order], batches * BATCH)

        return run

    def through_zarr(number: int) -> float:
        parts = window_indices(len(own), max(1, count // 4), number)
        return cpu_rate(zarr, parts, len(parts) * BATCH)

    with _peer(python, folder) as (version, theirs):
        contenders = {
            "direct jpeg": ours(own, count),
            "decoded cache": ours(cached, 10 * count),
            "LeRobotDataset": lambda number: theirs(max(1, count // 3), 32, number),
            "zarr-python jpeg": through_zarr,
        }
        rates = interleaved(contenders, rounds)
    height, width, _ = store.streams[f"image/{store.cameras[0]}"].shape
    comparison = Comparison(
        "window_jpeg_vs_lerobot",
        f"Batches of windows decoded from our JPEG shards come twenty times as fast as from LeRobotDataset {version} "
        f"(videos, pyav), {height}x{width}",
        20.0, "direct jpeg", "LeRobotDataset",
        ("zarr-python jpeg", "zarr-python on our files in our place"), "samples per CPU-second", rates,
    )  # fmt: skip
    return [comparison]


def _hand_over(store: EpisodeStore, folder: Path) -> None:
    plan = {
        "fps": round(store.fps),
        "episodes": store.num_episodes,
        "horizons": HORIZONS,
        "state": store.streams["state"].shape[0],
        "action": store.streams["action"].shape[0],
        "cameras": {camera: store.streams[f"image/{camera}"].shape for camera in store.cameras},
    }
    for i in range(store.num_episodes):
        info = store.info(i)
        names = {"state": "state", "action": "action", **{camera: f"image/{camera}" for camera in store.cameras}}
        for name, stream in names.items():
            np.save(folder / f"{i}_{name}.npy", store.read(stream, info["start"], info["stop"]))
    (folder / "episodes.json").write_text(json.dumps(plan))


@contextlib.contextmanager
def _peer(python: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """(version, rate(batches, batch size, seed)) of the process, ended on leaving."""
    script = str(Path(__file__).with_name("lerobot_reader.py"))
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
    }
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | offline
    log = folder / "lerobot.log"
    with log.open("wb") as errors:
        try:
            process = subprocess.Popen(
                [python, "-P", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, env=environment,
            )  # fmt: skip
        except OSError as error:
            mend = "name the python of an environment with lerobot: peer_python=PATH"
            what = f"the peer's interpreter cannot be started: {error}"
            raise DataError(explain(what, given=python, mend=mend)) from error

    def answer() -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            end = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise DataError(explain(f"the peer ended with {process.returncode}", given=end, mend="see its message"))
        found: dict[str, Any] = json.loads(line)
        return found

    def rate(batches: int, size: int, seed: int) -> float:
        assert process.stdin is not None
        process.stdin.write(f"{batches} {size} {seed}\n")
        process.stdin.flush()
        return float(answer()["rate"])

    try:
        yield str(answer()["lerobot"]), rate
    finally:
        process.kill()
        process.communicate()
