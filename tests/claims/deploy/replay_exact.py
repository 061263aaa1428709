"""A live run of the daemon is recomputed from its black box: every setpoint comes out bit for bit.

    python tests/claims/deploy/replay_exact.py --work runs/claims/replay_exact --out docs/results

Budget: about three minutes of wall time. Real processes, real clock, the simulated Panda with the pick_place scene: the
scripted sine with pauses, stops and an emergency stop in between, then the task's expert over episodes. Every measured
state, chunk, event and time of the recordings goes through the same arm on a virtual clock.

Target: 0 ticks differ, of at least 10,000. Control: with the acceleration limit one per cent lower some do.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.deploy.config import DaemonConfig, DeployConfig, robot_config
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.episodes import set_scene
from robopolicy.deploy.replay import logs_of, recompute
from robopolicy.evaluation.claims import ClaimResult

COMMAND = "python tests/claims/deploy/replay_exact.py --work runs/claims/replay_exact --out docs/results"
TOPICS = ("/binary/tape", "/binary/state", "/binary/chunk", "/event")
LEAST_TICKS = 10_000
LOWER = 0.99


def record(folder: Path, policy: str, seconds: float, seed: int) -> None:
    """Run a policy with interruptions at random times."""
    # patient, so that a busy machine gives late ticks and not only stops: both have to be recomputed
    deploy = DeployConfig(lookahead_ticks=10, robot_timeout_s=1.0, robot_watchdog_s=0.5, first_chunk_timeout_s=60.0)
    rng = np.random.default_rng(seed)
    with Daemon(folder, DaemonConfig(policy, robot_config("sim_panda"), deploy)) as daemon:
        daemon.up()
        until, scene = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            state = daemon.status()["state"]
            if state in ("FAULT", "ESTOP"):
                daemon.send("arm", "ARMED")
            if state in ("FAULT", "ESTOP", "ARMED") or (policy == "expert" and state == "HOLD"):
                set_scene(daemon, "test", scene)
                scene += 1
            if daemon.status()["state"] == "HOLD":
                daemon.request("start")
            elif state == "PAUSED":
                daemon.request("resume")
            time.sleep(float(rng.uniform(1.0, 6.0)))
            daemon.request(str(rng.choice(["pause", "stop", "estop", "start", "start"])))
            time.sleep(1.0)


def main() -> None:
    """Record, recompute, then write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], seconds=60.0, seed=0)
    runs = {"sweep": "robopolicy.deploy.scripted:sweep", "expert": "expert"}
    found, reports, changed = {}, [], 0
    for name, policy in runs.items():
        folder = options.work / f"{name}-{os.getpid()}"
        record(folder, policy, options.seconds, options.seed)
        for log in logs_of(folder, TOPICS):
            report = recompute(log)
            reports.append(report)
            limit = log.run["config"]["control"].get("acceleration_scale", 0.7)
            changed += recompute(log, control={"acceleration_scale": limit * LOWER}).different
            states = log.records("/binary/state")
            found[name] = {
                "ticks": report.replayed,
                "setpoints": report.setpoints,
                "seams": int(states["seam"].sum()),
                "clipped": int(states["clipped"].sum()),
                "states": len(np.unique(states["state"])),
                "first_difference": str(report.first) if report.first else None,
            }
    ticks, different = sum(r.replayed for r in reports), sum(r.different for r in reports)
    whole = all(r.replayed == r.recorded for r in reports)
    control = {
        "what": "ticks that differ with the acceleration limit one per cent lower",
        "value": changed,
        "failed": changed > 0,
    }
    result = ClaimResult(
        claim="replay of a recorded run reproduces every setpoint bit for bit on the virtual clock",
        source="goal 12 of the daemon: recomputation from the black box",
        target=f"0 of at least {LEAST_TICKS} ticks differ",
        value={"different": different, "ticks": ticks, "runs": found},
        interval=None,
        n=ticks,
        control=control,
        passed=bool(different == 0 and whole and ticks >= LEAST_TICKS and control["failed"]),
        command=COMMAND,
        commit=claim_run.commit(),
        seeds=(options.seed,),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "replay_exact")


if __name__ == "__main__":
    main()
