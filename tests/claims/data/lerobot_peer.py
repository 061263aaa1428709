"""The other side of claims about LeRobot; run by the Python of an environment that has lerobot, and nothing of ours.

    <peer python> lerobot_peer.py read ROOT OUT.npz EVERY
    <peer python> lerobot_peer.py write ROOT OUT.npz video|image
    <peer python> lerobot_peer.py version

``read`` opens a data set with ``LeRobotDataset`` and dumps every number of every row and the frames of every n-th row.
``write`` records a data set with lerobot's own writer from made-up values, and dumps what it was given.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")
LENGTHS, FPS, SIZE = (30, 12, 45), 20, (96, 128)


def read(root: Path, out: Path, every: int) -> None:
    """What the loader gives."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("local/claim", root=root, video_backend="pyav")
    rows: dict[str, list] = {}
    frames: dict[str, list] = {}
    tasks = []
    for i in range(len(data)):
        item = data.hf_dataset[i]
        for key, value in item.items():
            if key not in data.meta.camera_keys:
                rows.setdefault(key, []).append(np.asarray(value))
        if i % every == 0:
            whole = data[i]
            tasks.append(whole["task"])
            for key in data.meta.camera_keys:
                picture = (whole[key].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
                frames.setdefault(key, []).append(picture)
    arrays = {f"row/{k}": np.stack(v) for k, v in rows.items()} | {f"frame/{k}": np.stack(v) for k, v in frames.items()}
    np.savez(out, tasks=np.array(tasks), **arrays)


def write(root: Path, out: Path, kind: str) -> None:
    """Record episodes with lerobot's writer."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"joint_{i}" for i in range(6)]
    shape = (*SIZE, 3)
    features = {
        "observation.state": {"dtype": "float32", "shape": (6,), "names": names},
        "action": {"dtype": "float32", "shape": (6,), "names": names},
        "observation.force": {"dtype": "float32", "shape": (1,), "names": None},
        "observation.images.top": {"dtype": kind, "shape": shape, "names": ["height", "width", "channels"]},
    }
    data = LeRobotDataset.create("local/claim", FPS, features, root=root, robot_type="toy", use_videos=kind == "video")
    kept: dict[str, list] = {key: [] for key in features}
    for index, length in enumerate(LENGTHS):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
        for t in range(length):
            level = 20 + 25 * (t % 8) + 7 * index
            picture = (
                np.stack([level + x // 16, level + y // 16, np.full_like(x, level)], -1).clip(0, 255).astype(np.uint8)
            )
            frame = {
                "observation.state": rng.normal(size=6).astype(np.float32),
                "action": rng.normal(size=6).astype(np.float32),
                "observation.force": rng.normal(size=1).astype(np.float32),
                "observation.images.top": picture,
            }
            for key, value in frame.items():
                kept[key].append(value)
            data.add_frame({**frame, "task": f"task {index % 2}"})
        data.save_episode()
    data.finalize()
    np.savez(out, lengths=np.array(LENGTHS), fps=FPS, **{k: np.stack(v) for k, v in kept.items()})


def main() -> None:
    """One of the three."""
    if sys.argv[1] == "version":
        from importlib import metadata

        print(metadata.version("lerobot"))
    elif sys.argv[1] == "read":
        read(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        write(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])


if __name__ == "__main__":
    main()
