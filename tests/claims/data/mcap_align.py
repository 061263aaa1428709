"""Rows made of asynchronous topics use no sample from the future and none older than needed, whatever the jitter.

    python tests/claims/data/mcap_align.py --work runs/mcap_align --out docs/results

Budget: quick, about a minute. Recordings of four topics at 97, 41, 30 and 20 Hz with jitter, dropouts, messages out of
order and a 30 ms delay to the log. Every message carries its own time in its numbers, so that what stands in a row
tells by itself which sample it came from. Controls: the nearest sample, and an action held from before the row.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import numpy as np
from data_mcap import START_NS, pose_message, position, rotation, times, write_map, write_ros2
from data_replay import open_source

from robopolicy.data.convert.mcap_log import FORMAT
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.rotations import geodesic_distance, rotation_6d_to_matrix

RATE_HZ, SECONDS = 20.0, 20.0
RATES_HZ = {"/tcp": 97.0, "/held": 41.0, "/other": 30.0, "/cmd": 20.0}
JITTER_S = {"/tcp": 0.003, "/held": 0.008, "/other": 0.01, "/cmd": 0.004}


def recording(path: Path, seed: int) -> dict[str, np.ndarray]:
    """Write one; -> the stamps of every topic. ``z`` of a position is 0.3 times the time at which it was taken."""
    rng, samples, stamps = np.random.default_rng(seed), [], {}
    for topic, rate in RATES_HZ.items():
        stamps[topic] = times(rate, SECONDS, rng, JITTER_S[topic], 0.0 if topic == "/cmd" else 0.1)
        late = rng.random(len(stamps[topic])) < 0.05
        for stamp, slow in zip(stamps[topic].tolist(), late, strict=True):
            log = stamp + 30_000_000 + (60_000_000 if slow else 0)
            samples.append((log, topic, pose_message(stamp), stamp))
    write_ros2(path, dict.fromkeys(RATES_HZ, "geometry_msgs/msg/PoseStamped"), samples, chunk_size=65_536)
    return stamps


def taken_ns(z: np.ndarray) -> np.ndarray:
    """Time at which a sample was taken, from its height."""
    return START_NS + np.round(z / 0.3 * 1e9).astype(np.int64)


def judge(work: Path, seed: int) -> dict[str, np.ndarray]:
    """Convert one recording; -> per row what was wrong with it."""
    path = work / f"{seed}.mcap"
    stamps = recording(path, seed)
    chart = write_map(
        work / "map.yaml",
        rate_hz=RATE_HZ,
        max_age_s=0.5,
        state=[{"topic": "/tcp", "pose": "pose", "rule": "interpolate"}],
        action=[{"topic": "/cmd", "pose": "pose"}],
        extra={"held": {"parts": [{"topic": t, "pose": "pose", "prefix": f"{t[1:]}."} for t in ("/held", "/other")]}},
    )
    streams = open_source(FORMAT, path, map=str(chart)).read(str(seed)).episode.streams
    rows, step, slack = streams["time_ns"], round(1e9 / RATE_HZ), 2_000
    found: dict[str, np.ndarray] = {"age_s": np.empty(0)}
    future, stale, nearest = [], [], []
    for column, topic, ahead in ((2, "/held", 0), (11, "/other", 0), (2, "/cmd", step)):
        values = streams["action" if ahead else "held"]
        used = taken_ns(values[:, column].astype(np.float64))
        times_ns, look = stamps[topic], rows + ahead
        newest = times_ns[np.searchsorted(times_ns, look, side="right") - 1]
        future.append(used > look + slack)
        stale.append(used < newest - slack)
        found["age_s"] = np.append(found["age_s"], (look - newest) / 1e9)
        closest = times_ns[np.abs(times_ns[None] - look[:, None]).argmin(axis=1)]
        nearest.append(closest > look)
    answered = taken_ns(streams["action"][:, 2].astype(np.float64)) > rows
    before = stamps["/cmd"][np.searchsorted(stamps["/cmd"], rows, side="right") - 1] > rows
    t = (rows - START_NS) / 1e9
    truth = np.stack([position(x) for x in t])
    matrices = np.stack([rotation(x).as_matrix() for x in t])
    found |= {
        "future": np.concatenate(future),
        "stale": np.concatenate(stale),
        "nearest from the future": np.concatenate(nearest),
        "command before the row": ~answered,
        "control: command before the row": ~before,
        "position_m": np.abs(streams["state"][:, :3] - truth).max(axis=1),
        "rotation_rad": geodesic_distance(rotation_6d_to_matrix(streams["state"][:, 3:9].astype(np.float64)), matrices),
    }
    path.unlink()
    return found


def main() -> None:
    """All seeds, then the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], seeds=20)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    every = [judge(options.work, seed) for seed in range(options.seeds)]
    all_of = {key: np.concatenate([one[key] for one in every]) for key in every[0]}
    value = {
        "rows from the future": int(all_of["future"].sum()),
        "rows older than needed": int(all_of["stale"].sum()),
        "commands from before their row": round(float(all_of["command before the row"].mean()), 4),
        "interpolated position, largest error m": float(f"{all_of['position_m'].max():.2g}"),
        "interpolated rotation, largest error rad": float(f"{all_of['rotation_rad'].max():.2g}"),
        "age of held samples s, 99 %": round(float(np.quantile(all_of["age_s"], 0.99)), 4),
    }
    control = {
        "nearest sample lies in the future": round(float(all_of["nearest from the future"].mean()), 4),
        "held commands from before their row": round(float(all_of["control: command before the row"].mean()), 4),
    }
    failed = control["nearest sample lies in the future"] > 0.2 and control["held commands from before their row"] > 0.9
    exact = not value["rows from the future"] and not value["rows older than needed"]
    close = all_of["position_m"].max() < 2e-3 and all_of["rotation_rad"].max() < 1e-5
    result = ClaimResult(
        claim="rows of asynchronous topics hold the newest sample that is not from the future, and poses in between",
        source="own",
        command="python tests/claims/data/mcap_align.py --work runs/mcap_align --out docs/results",
        commit=claim_run.commit(),
        target="no row from the future or older than needed; interpolated poses within 2 mm and 1e-5 rad of the truth",
        value=value,
        interval=None,
        n=len(all_of["future"]),
        seeds=list(range(options.seeds)),
        control={"what": "nearest sample; commands held from before the row", "value": control, "failed": failed},
        passed=bool(exact and close and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "mcap_align")


if __name__ == "__main__":
    main()
