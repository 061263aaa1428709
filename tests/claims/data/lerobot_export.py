"""Export to LeRobot v3.0 opens in lerobot 0.4.4 with equal values; what lerobot's own writer makes converts exactly.

    python tests/claims/data/lerobot_export.py --work runs/lerobot --out docs/results --peer-python PY

Budget: full, about 3 minutes. ``--peer-python`` is the interpreter of an environment with lerobot 0.4.4, and the real
recording of a humanoid is found through ROBOPOLICY_RECORDINGS. Every low-dimensional value of every row must be equal
to the bit in both directions; frames must be those of the same row within the error of the video codec (PSNR) and, for
images in tables, equal. The control compares each row with the next one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np
from lerobot_real import psnr_db, recording

from robopolicy.data.convert.engine import convert
from robopolicy.data.export.engine import export
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult

LEAST_PSNR_DB = 30.0
"""AV1 with crf 30, lerobot's own setting, on 240x320 frames of a real camera."""
EVERY = 10
PEER = Path(__file__).with_name("lerobot_peer.py")


def peer(python: str, *words: object, log: Path) -> None:
    """Run the other side."""
    with log.open("ab") as stream:
        command = [python, str(PEER), *map(str, words)]
        code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}; log: {log}")


def exported(store_path: Path, work: Path, python: str, log: Path) -> dict[str, Any]:
    """Export a store, read it with lerobot, compare."""
    root, dump = work / "exported", work / "exported.npz"
    export(store_path, root, format="lerobot_v30")
    peer(python, "read", root, dump, EVERY, log=log)
    store = EpisodeStore.open(store_path)
    with np.load(dump) as theirs:
        rows = {key.removeprefix("row/"): theirs[key] for key in theirs.files if key.startswith("row/")}
        frames = theirs["frame/observation.images.cam_high"]
        tasks = theirs["tasks"].tolist()
    episode = np.repeat(np.arange(store.num_episodes), np.diff([0, *store.episode_ends]))
    within = np.concatenate([np.arange(n) for n in np.diff([0, *store.episode_ends])])
    expected = {
        "observation.state": store.read("state"),
        "action": store.read("action"),
        "episode_index": episode,
        "frame_index": within,
        "index": np.arange(store.num_steps),
        "timestamp": (within / store.fps).astype(np.float32),
    }
    equal = {key: bool(np.array_equal(rows[key], value)) for key, value in expected.items()}
    taken = np.arange(0, store.num_steps, EVERY)
    ours = np.concatenate([store.read("image/cam_high", int(i), int(i) + 1) for i in taken])
    return {
        "equal": all(equal.values()),
        "unequal": [key for key, same in equal.items() if not same],
        "values": int(sum(value.size for value in expected.values())),
        "tasks equal": tasks == [store.info(int(episode[i]))["language"] for i in taken],
        "frames": len(frames),
        "psnr_db": psnr_db(frames, ours),
        "next_row_equal": bool(np.array_equal(rows["action"][:-1], expected["action"][1:])),
    }


def written(kind: str, work: Path, python: str, log: Path) -> dict[str, Any]:
    """Let lerobot record a data set, convert it, compare with what lerobot was given."""
    root, dump, out = work / f"written_{kind}", work / f"written_{kind}.npz", work / f"written_{kind}.zarr"
    peer(python, "write", root, dump, kind, log=log)
    convert(root, out, codec="raw")
    store = EpisodeStore.open(out)
    with np.load(dump) as given:
        pairs = {"state": "observation.state", "action": "action", "source/observation.force": "observation.force"}
        equal = all(np.array_equal(store.read(ours), given[theirs]) for ours, theirs in pairs.items())
        equal &= np.diff([0, *store.episode_ends]).tolist() == given["lengths"].tolist()
        frames = given["observation.images.top"]
    stored = store.read("image/top")
    return {
        "equal": bool(equal),
        "images equal": bool(np.array_equal(stored, frames)),
        "psnr_db": psnr_db(stored, frames),
        "next_frame_psnr_db": psnr_db(stored[:-1], frames[1:]),
    }


def main() -> None:
    """Both directions."""
    options = claim_run.arguments(__doc__.splitlines()[0], **{"peer-python": sys.executable})
    work, python = options.work, options.peer_python
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / "log.txt"
    version = subprocess.run([python, str(PEER), "version"], capture_output=True, text=True, check=True).stdout.strip()
    card = {"embodiment": "unitree_g1_inspire"}
    convert(recording(), work / "g1.zarr", options=card, image_size=(240, 320))
    out = exported(work / "g1.zarr", work, python, log)
    back = {kind: written(kind, work, python, log) for kind in ("video", "image")}
    reached = (
        out["equal"]
        and out["tasks equal"]
        and out["psnr_db"] >= LEAST_PSNR_DB
        and all(found["equal"] for found in back.values())
        and back["image"]["images equal"]
        and back["video"]["psnr_db"] >= LEAST_PSNR_DB
    )
    control = {
        "what": "each row compared with the next: values equal, PSNR of lerobot's video",
        "value": [out["next_row_equal"], round(back["video"]["next_frame_psnr_db"], 1)],
        "failed": not out["next_row_equal"] and back["video"]["next_frame_psnr_db"] < LEAST_PSNR_DB,
    }
    result = ClaimResult(
        claim="an export to LeRobot v3.0 opens in lerobot with equal values, and its own files convert to equal ones",
        source=f"lerobot {version}, LeRobotDataset with the pyav backend",
        command="python tests/claims/data/lerobot_export.py --work runs/lerobot --out docs/results --peer-python PY",
        commit=claim_run.commit(),
        target=f"every low-dimensional value equal; images equal; frames of video PSNR >= {LEAST_PSNR_DB:g} dB",
        value={
            "values equal": f"{out['values']} of {out['values']}" if out["equal"] else f"unequal: {out['unequal']}",
            "exported frames PSNR dB": round(out["psnr_db"], 1),
            "lerobot's video PSNR dB": round(back["video"]["psnr_db"], 1),
            "lerobot's values equal": all(found["equal"] for found in back.values()),
            "lerobot's images equal": back["image"]["images equal"],
        },
        interval=None,
        n=out["values"],
        seeds=[0],
        control=control,
        passed=bool(reached and control["failed"]),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "lerobot_export")


if __name__ == "__main__":
    main()
