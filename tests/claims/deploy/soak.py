"""Ten minutes of swinging through the virtual UR5e: no drift, no growth, no deadline missed beyond a bare loop's own.

    python tests/claims/deploy/soak.py --work runs/claims/soak --out docs/results

Budget: full (ten minutes, a quiet machine). The daemon with all its processes drives the virtual controller at 500 Hz
while a bare C loop of the same rate and priority runs beside it and counts how often *it* is later than a tick.
Wanted: RUNNING from beginning to end, no violation at the wire, memory of each process after the first minute within
8 MB of that at the end, ticks per second within 0.1 % of 500, and no more late ticks than the bare loop's and one in
a thousand. Control: the memory bound sees a worker that leaks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import claim_run
from fault_campaign import PEERS, Bench
from realtime_loop import Loop

from robopolicy.errors import DeployError
from robopolicy.evaluation.claims import ClaimResult

COMMAND = "python tests/claims/deploy/soak.py --work runs/claims/soak --out docs/results"
RATE_HZ, MOST_MB, DRIFT, SHARE = 500, 8.0, 1e-3, 1e-3


def resident_mb(pid: int) -> float:
    """Resident memory of a process without what it shares with others, MB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def watch(made: Bench, seconds: float, every_s: float) -> dict[str, Any]:
    """Let it run. -> memory by process over time, states seen."""
    assert made.daemon is not None
    pids, seen = made.pids, {"states": set(), "memory": {}}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(every_s)
        seen["states"].add(made.daemon.status()["state"])
        for name, pid in pids.items():
            seen["memory"].setdefault(name, []).append(resident_mb(pid))
    return seen


def growth(memory: dict[str, list[float]], skip: int) -> dict[str, float]:
    """MB gained by each process from sample ``skip`` on: medians of the first and last three samples after it."""
    found = {}
    for name, samples in memory.items():
        kept = samples[min(skip, len(samples) // 2) :]
        found[name] = round(float(np.median(kept[-3:]) - np.median(kept[:3])), 2)
    return found


def leaking(made: Bench) -> float:
    """MB that a leaking worker gains in three seconds, or until it dies of it."""
    assert made.daemon is not None
    made.fault_file.write_text("leaks")
    with contextlib.suppress(DeployError):
        samples = []
        for _ in range(10):
            time.sleep(0.3)
            samples.append(resident_mb(made.pids["worker"]))
            if samples[-1] - samples[0] > 4 * MOST_MB:
                break
        return round(max(samples) - samples[0], 1)
    return 0.0


def main() -> None:
    """The soak; the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], minutes=10.0)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ["ROBOPOLICY_FAULT_FILE"] = str(work / "fault")
    bare = work / "bare_loop"
    subprocess.run(["cc", "-O2", str(PEERS / "bare_loop.c"), "-o", str(bare)], check=True)
    made, seconds = Bench("ur", work), options.minutes * 60
    try:
        made.swing()
        assert made.daemon is not None
        made.daemon.request("begin_episode")
        loop = Loop(bare, round(1e9 / RATE_HZ), 80, greets=False)
        try:
            loop.send(round(seconds * RATE_HZ))
            seen = watch(made, seconds, max(seconds / 60, 0.5))
            late_c = int((loop.receive() > 1e6 / RATE_HZ).sum())
        finally:
            loop.close()
        counted = made.daemon.request("episode")["episode"]
        status = made.daemon.status()
        report = made.box.report()
        leak = leaking(made)
    finally:
        made.close()
    late = np.array(counted["late_ms"])
    late_ours = int((late > 1e3 / RATE_HZ).sum()) + int(status["overruns"])
    gained = growth(seen["memory"], 6)
    value = {
        "minutes": options.minutes,
        "states": sorted(seen["states"]),
        "ticks": counted["ticks"],
        "ticks per second": round(counted["tick_hz"], 4),
        "later than a tick": {"ours": late_ours, "bare loop": late_c},
        "MB gained": gained,
        "violations at the wire": report["violated"],
        "chunks": counted["chunks"],
    }
    most_late = late_c + SHARE * seconds * RATE_HZ
    good = seen["states"] == {"RUNNING"} and not report["violated"] and max(gained.values()) <= MOST_MB
    steady = abs(counted["tick_hz"] / RATE_HZ - 1) <= DRIFT + late_ours / max(counted["ticks"], 1)
    result = ClaimResult(
        claim="ten minutes at 500 Hz: no drift, no growth, hardly a late tick",
        source="own; ur-rtde against the virtual UR5e",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"always RUNNING, 0 violations, <= {MOST_MB} MB gained, late ticks <= bare loop's and {SHARE:.1%}",
        value=value,
        interval=None,
        n=counted["ticks"],
        seeds=(),
        control={"what": "MB that a leaking worker gains", "value": leak, "failed": leak > MOST_MB},
        passed=bool(good and steady and late_ours <= most_late and leak > MOST_MB),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "soak")


if __name__ == "__main__":
    main()
