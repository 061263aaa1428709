"""A UMI dataset.zarr.zip converts frame by frame: every number and pixel of the file, in memory that does not grow.

    python tests/claims/data/umi_zip.py --work runs/umi_zip --out docs/results

Budget: quick, about two minutes. Files are written to the published layout (JPEG XL level 99, 224 x 224, 59.94 Hz), one
five times longer than the other. Controls: an action taken from its own row instead of the next must differ, and
reading whole arrays, as the published loader can, must need more memory for the longer file. Memory is that of a
conversion to JPEG; a raw store also holds back a few hundred frames until a commit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult

EPISODE_ROWS, SIZE = 30, 224
GROWTH_MB = 25.0
"""What the longer file may need more: allocator and page cache of the process, far less than its 120 MB of frames."""


def write_set(path: Path, episodes: int) -> None:
    """One arm, frames that differ in every row."""
    from data_replay import old_codecs, smooth_frames, write_buffer
    from imagecodecs.numcodecs import Jpegxl

    rng, rows = np.random.default_rng(0), episodes * EPISODE_ROWS
    arrays = {
        "robot0_eef_pos": rng.normal(size=(rows, 3)).astype(np.float32),
        "robot0_eef_rot_axis_angle": rng.uniform(-2, 2, (rows, 3)).astype(np.float32),
        "robot0_gripper_width": rng.uniform(0, 0.09, (rows, 1)).astype(np.float32),
        "robot0_demo_start_pose": rng.normal(size=(rows, 6)),
        "robot0_demo_end_pose": rng.normal(size=(rows, 6)),
        "camera0_rgb": np.resize(smooth_frames(EPISODE_ROWS, SIZE, SIZE), (rows, SIZE, SIZE, 3)),
    }
    for i in range(rows):
        arrays["camera0_rgb"][i, :8, :8] = i % 251
    codec = Jpegxl(level=99, lossless=False, effort=3, numthreads=1)
    write_buffer(path, arrays, np.arange(1, episodes + 1) * EPISODE_ROWS, codecs={"camera0_rgb": codec})
    old_codecs(path)


def peak_mb() -> float:
    """Largest resident memory of this program; ru_maxrss would include that of the parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def convert(path: Path, store: Path, codec: str) -> None:
    """In a process of its own: convert, then say what it took."""
    from robopolicy.data.convert.engine import convert as run

    report = run(path, store, format="umi", codec=codec)
    print(json.dumps({"peak_mb": peak_mb(), "cpu_s": report.cpu_s, "steps": report.steps}))


def whole(path: Path) -> None:
    """In a process of its own: whole arrays, as ``ReplayBuffer.copy_from_store`` without a store reads them."""
    import zarr

    from robopolicy.data.convert.zarr_v2 import register_image_codecs

    register_image_codecs()
    root = zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r", zarr_format=2)
    kept = {key: array[:] for key, array in root["data"].arrays()}
    print(json.dumps({"peak_mb": peak_mb(), "steps": len(kept["camera0_rgb"])}))


def child(what: str, *words: object) -> dict:
    """Run one of the two above and read what it says."""
    command = [sys.executable, __file__, "--child", what, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare(path: Path, store_path: Path) -> dict:
    """Every row of the store against an own reading of the zip: json, zipfile, imagecodecs and scipy only."""
    import zipfile

    import imagecodecs
    from scipy.spatial.transform import Rotation

    from robopolicy.data.store import EpisodeStore

    store = EpisodeStore.open(store_path)
    with zipfile.ZipFile(path) as archive:

        def column(key: str, width: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"data/{key}/0.0"), np.float32).reshape(-1, width)

        matrix = Rotation.from_rotvec(column("robot0_eef_rot_axis_angle", 3)).as_matrix()
        parts = [
            column("robot0_eef_pos", 3),
            matrix[:, :, 0],
            matrix[:, :, 1],
            column("robot0_gripper_width", 1) / 0.09,
        ]
        pose = np.concatenate(parts, axis=1)
        following = np.minimum(np.arange(len(pose)) + 1, (np.arange(len(pose)) // EPISODE_ROWS + 1) * EPISODE_ROWS - 1)
        differ = 0
        for row in range(store.num_steps):
            frame = imagecodecs.jpegxl_decode(archive.read(f"data/camera0_rgb/{row}.0.0.0"))
            differ += bool((store.images("camera0").read(row, row + 1)[0] != frame).any())
    action = store.read("action")
    return {
        "state": float(np.abs(store.read("state") - pose).max()),
        "action": float(np.abs(action - pose[following]).max()),
        "action of its own row": float(np.abs(action - pose).max()),
        "frames that differ": differ,
    }


def main() -> None:
    """Write, convert, compare, enter."""
    if sys.argv[1:2] == ["--child"]:
        {"convert": convert, "whole": whole}[sys.argv[2]](*map(Path, sys.argv[3:5]), *sys.argv[5:])
        return
    options = claim_run.arguments(__doc__.splitlines()[0], episodes=8)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    ours, theirs, rate = [], [], 0.0
    for name, episodes in (("short", options.episodes), ("long", 5 * options.episodes)):
        path, store = options.work / f"{name}.zarr.zip", options.work / f"{name}.zarr"
        write_set(path, episodes)
        done = child("convert", path, store.with_suffix(".jpeg.zarr"), "jpeg")
        ours.append(done["peak_mb"])
        theirs.append(child("whole", path)["peak_mb"])
        rate = done["steps"] / done["cpu_s"]
    child("convert", path, store, "raw")  # exact frames, to be compared
    errors = compare(path, store)
    growth, control = ours[1] - ours[0], theirs[1] - theirs[0]
    exact = max(errors["state"], errors["action"]) < 1e-5 and not errors["frames that differ"]
    failed = errors["action of its own row"] > 0.1 and control > 2 * GROWTH_MB
    result = ClaimResult(
        claim="a UMI zip converts to every number and pixel of the file, in memory that does not grow with its length",
        source="own",
        command="python tests/claims/data/umi_zip.py --work runs/umi_zip --out docs/results",
        commit=claim_run.commit(),
        target=f"largest error below 1e-5, no frame differs, at most {GROWTH_MB:g} MB more for five times the rows",
        value={**errors, "growth MB": round(growth, 1), "peak MB": round(ours[1], 1), "rows per CPU-s": round(rate, 1)},
        interval=None,
        n=5 * options.episodes * EPISODE_ROWS,
        seeds=[0],
        control={
            "what": "actions of their own row; whole arrays in memory",
            "value": {"action error": errors["action of its own row"], "growth MB": round(control, 1)},
            "failed": failed,
        },
        passed=bool(exact and growth <= GROWTH_MB and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "umi_zip")


if __name__ == "__main__":
    main()
