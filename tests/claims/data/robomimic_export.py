"""A store exported to HDF5 opens in robomimic's own SequenceDataset, and every window has the numbers of the store.

    python tests/claims/data/robomimic_export.py --work runs/robomimic_export --out docs/results

Budget: quick, about a minute. Demonstrations of pick_place are collected with images, exported, and read through
robomimic 0.3 as its trainer reads them: two stacked frames, eight actions. Every value of every window must be equal to
the bit. The file is then converted back, and images and numbers must be those of the first store. The control compares
with the windows one row later.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.data.convert.engine import convert
from robopolicy.data.export.engine import export
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult

EPISODES = 4
FRAMES, ACTIONS = 2, 8
LOW_DIM = {"state": "state", "object": "environment_state", "joint_position": "joint_position"}


def windows(path: Path, low_dim: list[str], images: list[str]) -> Any:
    """robomimic's data set over the file."""
    import robomimic.utils.obs_utils as observations
    from robomimic.utils.dataset import SequenceDataset

    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": low_dim, "rgb": images}})
    return SequenceDataset(
        hdf5_path=str(path),
        obs_keys=(*low_dim, *images),
        dataset_keys=("actions", "rewards", "dones"),
        frame_stack=FRAMES,
        seq_length=ACTIONS,
        hdf5_use_swmr=False,
    )


def equal_windows(data: Any, store: EpisodeStore, streams: dict[str, str], late: int) -> tuple[int, int]:
    """(windows, those equal to the bit), the store's rows taken ``late`` rows later."""
    column = {stream: store.read(stream) for stream in (*streams.values(), "action")}
    count = equal = 0
    for episode in range(store.num_episodes):
        info = store.info(episode)
        start, length = info["start"], info["length"]
        for row in range(length):
            item = data[count]
            rows = start + np.clip(row + late + np.arange(1 - FRAMES, ACTIONS), 0, length - 1)
            pairs = [(item["actions"], column["action"][rows])]
            pairs += [(item["obs"][key], column[stream][rows]) for key, stream in streams.items()]
            equal += all(np.array_equal(theirs, ours) for theirs, ours in pairs)
            count += 1
    return count, equal


def main() -> None:
    """Collect, export, compare both ways, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    words = (
        "collect",
        "task=pick_place",
        "embodiment=panda",
        f"episodes={EPISODES}",
        "cameras=[front,wrist]",
        f"out={work / 'pick.zarr'}",
    )
    claim_run.robopolicy(*words, log=work / "log.txt")
    export(work / "pick.zarr", work / "pick.hdf5", format="robomimic", options={"validation": 0.25})
    convert(work / "pick.hdf5", work / "back.zarr", format="auto", codec="raw")
    with EpisodeStore.open(work / "pick.zarr") as store, EpisodeStore.open(work / "back.zarr") as back:
        cameras = list(store.cameras)
        streams = LOW_DIM | {f"{camera}_image": f"image/{camera}" for camera in cameras}
        data = windows(work / "pick.hdf5", list(LOW_DIM), [f"{camera}_image" for camera in cameras])
        count, equal = equal_windows(data, store, streams, 0)
        _, later = equal_windows(data, store, streams, 1)
        names = ["state", "action", "environment_state", *(f"image/{camera}" for camera in cameras)]
        returned = back.embodiment.hash == store.embodiment.hash and all(
            np.array_equal(back.read(name), store.read(name)) for name in names
        )
        steps = store.num_steps
    result = ClaimResult(
        claim="an export opens in robomimic's SequenceDataset; every window has the numbers of the store, bit for bit",
        source="own; robomimic 0.3 robomimic/utils/dataset.py",
        command="python tests/claims/data/robomimic_export.py --work runs/robomimic_export --out docs/results",
        commit=claim_run.commit(),
        target=f"all {steps} windows equal, and the way back",
        value={"windows": count, "equal": equal, "cameras": len(cameras), "converted back equal": bool(returned)},
        interval=None,
        n=count,
        seeds=[0],
        control={"what": "windows equal to those one row later", "value": later, "failed": later < count // 10},
        passed=bool(count == steps == equal and returned and later < count // 10),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "robomimic_export")


if __name__ == "__main__":
    main()
