"""A real LeRobot v2.1 recording converts: what is missing is named, numbers are exact, frames are those of PyAV.

    python tests/claims/data/lerobot_real.py --work runs/lerobot_real --out docs/results

Budget: quick, about a minute. The recording (a Unitree G1 with Inspire hands, 26 channels, one AV1 camera; three
episodes of a hundred are there) is found through ROBOPOLICY_RECORDINGS. Every number of every row must equal the
parquet table to the bit. Every tenth frame is decoded a second time by PyAV alone, from the beginning of the file: the
stored JPEG must equal the JPEG coding of that frame byte for byte, and be within the coding's error (PSNR). One and two
processes must write the same store. The control compares with the frame after.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import av
import claim_run
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robopolicy.data.codecs import encode_jpeg
from robopolicy.data.convert.engine import convert
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult

EPISODES = {29: 221, 30: 277, 59: 280}
MISSING = "97 of 100 episodes are missing (no table and no video observation.images.cam_high: 0-28, 31-58, 60-99)"
LEAST_PSNR_DB = 42.0
"""Of JPEG at quality 95 without colour subsampling, on 640x480 frames of a real camera."""
EVERY = 10


def recording() -> Path:
    """The folder of the recording.

    Raises:
        SystemExit: it is not there.
    """
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("ROBOPOLICY_RECORDINGS") or beside) / "lerobot_v21_unitree_g1"
    if not path.is_dir():
        raise SystemExit(f"no recording at {path}; set ROBOPOLICY_RECORDINGS to the folder that holds it")
    return path


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Of the worst frame, 8 bit."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).reshape(len(a), -1).mean(axis=1)
    return float(10 * np.log10(255.0**2 / max(error.max(), 1e-12)))


def compare(source: Path, store: EpisodeStore, index: int, position: int) -> dict[str, Any]:
    """One episode against the table and against PyAV."""
    info = store.info(position)
    start, stop = info["start"], info["stop"]
    table = pq.read_table(source / f"data/chunk-000/episode_{index:06d}.parquet")
    numbers = all(
        np.array_equal(store.read(stream, start, stop), np.array(table[key].to_pylist(), np.float32))
        for stream, key in (("state", "observation.state"), ("action", "action"))
    )
    with av.open(str(source / f"videos/chunk-000/observation.images.cam_high/episode_{index:06d}.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    rows = np.arange(0, stop - start, EVERY)
    stored = np.concatenate([store.read("image/cam_high", start + int(r), start + int(r) + 1) for r in rows])
    reader: Any = store.images("cam_high")
    same = [reader.blobs(start + int(r), start + int(r) + 1)[0] == encode_jpeg(shown[int(r)]) for r in rows]
    after = [min(int(r) + 1, len(shown) - 1) for r in rows]
    return {
        "rows": stop - start,
        "frames in the file": len(shown),
        "numbers": numbers,
        "frames": len(rows),
        "equal": sum(same),
        "psnr_db": psnr_db(stored, np.stack([shown[int(r)] for r in rows])),
        "next_psnr_db": psnr_db(stored, np.stack([shown[i] for i in after])),
    }


def main() -> None:
    """Convert twice, compare, enter the result."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    shutil.rmtree(options.work, ignore_errors=True)
    source = recording()
    card = {"embodiment": "unitree_g1_inspire"}
    reports = [convert(source, options.work / f"{n}.zarr", options=card, workers=n) for n in (1, 2)]
    stores = [EpisodeStore.open(options.work / f"{n}.zarr") for n in (1, 2)]
    missing = [f.message for f in reports[0].findings if f.kind == "missing_episode"]
    found = [compare(source, stores[0], index, i) for i, index in enumerate(EPISODES)]
    frames, equal = sum(f["frames"] for f in found), sum(f["equal"] for f in found)
    worst, after = min(f["psnr_db"] for f in found), max(f["next_psnr_db"] for f in found)
    rows = [f["rows"] for f in found]
    reached = (
        rows == list(EPISODES.values())
        and missing == [MISSING]
        and all(f["numbers"] for f in found)
        and equal == frames
        and worst >= LEAST_PSNR_DB
        and stores[0].content_hash == stores[1].content_hash
    )
    result = ClaimResult(
        claim="a real LeRobot v2.1 recording converts: missing episodes named, numbers exact, frames those of PyAV",
        source="YifanTian07/G1-policy-train @ d1d3bb4, three of its hundred episodes",
        command="python tests/claims/data/lerobot_real.py --work runs/lerobot_real --out docs/results",
        commit=claim_run.commit(),
        target=f"{list(EPISODES.values())} rows; missing named; frames the JPEG of PyAV's, >= {LEAST_PSNR_DB:g} dB",
        value={
            "rows": rows,
            "missing": missing[0] if missing else "not named",
            "numbers exact": all(f["numbers"] for f in found),
            "frames equal": f"{equal} of {frames}",
            "worst PSNR dB": round(worst, 1),
            "one and two processes equal": stores[0].content_hash == stores[1].content_hash,
            "CPU s, one process": round(reports[0].cpu_s, 1),
            "frames per CPU s": round(sum(rows) / reports[0].cpu_s),
        },
        interval=None,
        n=frames,
        seeds=[],
        control={"what": "PSNR of the frame after", "value": round(after, 1), "failed": after < LEAST_PSNR_DB},
        passed=bool(reached and after < LEAST_PSNR_DB),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "lerobot_real")


if __name__ == "__main__":
    main()
