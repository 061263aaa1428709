"""The other side of the comparison with LeRobot: run by the Python of an environment that has ``lerobot``.

    python lerobot_reader.py FOLDER

FOLDER holds ``episodes.json`` and, per episode and stream, ``<i>_<stream>.npy``. Writes them as a LeRobotDataset with
videos (its default encoder), then answers each line ``<batches> <batch size> <seed>`` with the samples per CPU-second
of reading that many random windows, as JSON. Imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _write(folder: Path, plan: dict[str, Any], root: Path) -> None:
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    cameras, names = plan["cameras"], ("height", "width", "channels")
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": (plan["state"],), "names": None},
        "action": {"dtype": "float32", "shape": (plan["action"],), "names": None},
    }
    for camera, shape in cameras.items():
        features[f"observation.images.{camera}"] = {"dtype": "video", "shape": tuple(shape), "names": list(names)}
    data = LeRobotDataset.create("bench/bench", plan["fps"], features, root=root, use_videos=True, video_backend="pyav")
    for i in range(plan["episodes"]):
        arrays = {name: np.load(folder / f"{i}_{name}.npy") for name in ("state", "action", *cameras)}
        for t in range(len(arrays["state"])):
            frame = {f"observation.images.{camera}": arrays[camera][t] for camera in cameras}
            data.add_frame(
                {"observation.state": arrays["state"][t], "action": arrays["action"][t], "task": "bench", **frame}
            )
        data.save_episode()
    data.finalize()


def _open(plan: dict[str, Any], root: Path) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    seen, ahead = plan["horizons"]
    past = [i / plan["fps"] for i in range(1 - seen, 1)]
    wanted = {"observation.state": past, "action": [i / plan["fps"] for i in range(1 - seen, 1 - seen + ahead)]}
    wanted |= {f"observation.images.{camera}": past for camera in plan["cameras"]}
    return LeRobotDataset("bench/bench", root=root, delta_timestamps=wanted, video_backend="pyav")


def main(folder: Path) -> None:
    """Write, open, answer."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # encoders and progress bars write to the standard output
    plan = json.loads((folder / "episodes.json").read_text())
    root = folder / "lerobot"
    _write(folder, plan, root)
    data = _open(plan, root)
    import lerobot

    print(json.dumps({"lerobot": lerobot.__version__, "windows": len(data)}), file=answers, flush=True)
    for line in sys.stdin:
        batches, size, seed = map(int, line.split())
        parts = np.random.default_rng(seed).integers(0, len(data), (batches, size)).tolist()
        loader = torch.utils.data.DataLoader(data, batch_sampler=parts, num_workers=0)
        start = time.process_time()
        for _ in loader:
            pass
        taken_s = time.process_time() - start
        print(json.dumps({"rate": batches * size / taken_s}), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
