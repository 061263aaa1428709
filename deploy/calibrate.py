"""Names and measures every delay between what the sensors see and what the arm does.

::

    sensors --age--> worker --inference--> mailbox --pickup--> setpoint sent --lead--> to be reached --lag--> measured
            1               2                      3                         4                        5

1 to 3 come from a dry run of the policy on live observations, 5 from a small slow turn of the tool, which the executor
and the limiter carry out like any other motion, and needs consent on hardware. 4 is configured (``lookahead_ticks``).
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.blackbox_log import BlackBoxLog, sessions
from robopolicy.deploy.config import DaemonConfig
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.replay_diff import compare_motion
from robopolicy.errors import DeployError, explain

__all__ = ["MOTION", "USES", "calibrate", "decision_latencies", "motion_lag", "require_consent", "summary"]

MOTION = "robopolicy.deploy.calibrate_motion:turn"
TOPICS = ("/binary/tape", "/binary/state", "/binary/chunk", "/binary/frame")
FILE = "latency.json"
SAMPLES = 200
LEAST_CORRELATION = 0.95

USES = {
    "sensor_to_worker_ms": "age of the newest frame when the policy is asked; the card's control_hz bounds it",
    "inference_ms": "deploy.worker_timeout_s and the action horizon: Ta / control_hz must be longer than its p99",
    "chunk_to_setpoint_ms": "waiting for the next tick; a p99 of several ticks is a loop that is late",
    "setpoint_lead_ms": "deploy.lookahead_ticks: how early setpoints are sent, so how late the loop may be",
    "setpoint_to_motion_ms": "deploy.watch.following_window_s must be longer, or a healthy servo is a fault",
    "observation_to_setpoint_ms": "robopolicy eval latency_ms=...: latency_ms of this file is its distribution",
}
"""Figure -> where it is used."""


def calibrate(config: DaemonConfig, out: Path, *, seconds: float, move: bool, motion_s: float = 8.0) -> dict[str, Any]:
    """Measure, and write ``latency.json`` into ``out``.

    Args:
        config: As for a run in earnest.
        out: Folder; the two runs are recorded below it.
        seconds: Length of the dry run.
        move: Also turn the tool; see :func:`require_consent`.
        motion_s: Length of that motion.

    Returns:
        Figures by name, each with its quantiles in ms; ``latency_ms`` for ``robopolicy eval``; what each is for.

    Raises:
        DeployError: the policy made no chunk, or nothing moved.
    """
    deploy = dataclasses.replace(config.deploy, blackbox=True)
    dry = dataclasses.replace(config, deploy=dataclasses.replace(deploy, dry_run=True, guardian=False))
    figures = decision_latencies(_recorded(dry, out / "dry", seconds))
    found: dict[str, Any] = {name: summary(samples) for name, samples in figures.items()}
    found["setpoint_to_motion_ms"] = None
    if move:
        turning = dataclasses.replace(config, deploy=deploy, policy=MOTION, cameras=())
        found["setpoint_to_motion_ms"] = motion_lag(_recorded(turning, out / "motion", motion_s))
    samples = figures["observation_to_setpoint_ms"]
    kept = np.quantile(samples, np.linspace(0, 1, min(len(samples), SAMPLES)))
    found["latency_ms"] = {"kind": "empirical", "samples_ms": [round(float(x), 3) for x in kept]}
    found |= {"policy": config.policy, "robot": config.robot.embodiment, "used_by": USES}
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(json.dumps(found, indent=1) + "\n")
    return found


def require_consent(config: DaemonConfig, move: bool | None) -> bool:
    """Whether the tool may be turned: on a simulated robot unless forbidden, on hardware only when allowed.

    Raises:
        DeployError: hardware, and nobody said.
    """
    if move is None and not config.robot.process:
        raise DeployError(
            explain(
                "calibration turns the tool by three degrees to and fro, and this is a real robot",
                given="move: not given",
                allowed="move=true with the workspace clear and a hand on the emergency stop; move=false",
                mend="move=false measures everything but the lag of the motion",
            )
        )
    return move is not False


def decision_latencies(log: BlackBoxLog) -> dict[str, NDArray[np.float64]]:
    """Samples in ms of every delay up to the setpoint.

    Raises:
        DeployError: no chunk became motion.
    """
    chunks = log.topics.get("/binary/chunk")
    tape, states = log.records("/binary/tape"), log.records("/binary/state")
    if chunks is None or not len(tape) or not len(states):
        raise DeployError(
            explain("the policy made no chunk", given=sorted(log.topics), mend="read worker.log of the run")
        )
    records, numbers = chunks.records(), chunks.unique_numbers()
    began_ns = records["t_made_ns"] - records["inference_ns"]
    accepted = set(states["tick"][states["accepted"] > 0].tolist())
    found = dict(zip(numbers.tolist(), records, strict=True))
    pickup, whole, lead = [], [], []
    for tick in tape[(tape["chunk"] > 0) & (tape["calls"] & 1 > 0)]:
        chunk = found.get(int(tick["chunk"]))
        if chunk is None or int(tick["tick"]) not in accepted:
            continue
        pickup.append(int(tick["t_sent_ns"]) - int(chunk["t_made_ns"]))
        whole.append(int(tick["t_sent_ns"]) - int(chunk["t_obs_ns"]))
        lead.append(int(tick["t_setpoint_ns"]) - int(tick["t_sent_ns"]))
    if not pickup:
        raise DeployError(
            explain(
                "no chunk became motion", given=f"{len(records)} chunks", mend="robopolicy deploy diff, status message"
            )
        )
    return {
        "sensor_to_worker_ms": (began_ns - records["t_obs_ns"]) / 1e6,
        "inference_ms": records["inference_ns"] / 1e6,
        "chunk_to_setpoint_ms": np.array(pickup) / 1e6,
        "setpoint_lead_ms": np.array(lead) / 1e6,
        "observation_to_setpoint_ms": np.array(whole) / 1e6,
    }


def motion_lag(log: BlackBoxLog) -> dict[str, Any]:
    """By how much the arm follows the time at which a setpoint was to be reached: per joint, and the slowest.

    Raises:
        DeployError: nothing moved enough to tell.
    """
    joints = [j for j in compare_motion(log) if j.lag_ms is not None and (j.correlation or 0) > LEAST_CORRELATION]
    if not joints:
        raise DeployError(
            explain(
                "nothing moved enough to see a lag",
                mend="read the messages of the run; was the motion refused?",
            )
        )
    lags = {j.joint: round(float(j.lag_ms or 0.0), 3) for j in joints}
    return {"joints": lags, "n": len(joints), "max": max(lags.values())}


def summary(samples: NDArray[np.float64]) -> dict[str, float]:
    """Count and quantiles."""
    p50, p95, p99 = (round(float(x), 3) for x in np.percentile(samples, (50, 95, 99)))
    return {"n": len(samples), "p50": p50, "p95": p95, "p99": p99, "max": round(float(np.max(samples)), 3)}


def _recorded(config: DaemonConfig, out: Path, seconds: float) -> BlackBoxLog:
    """Run the daemon for a while. -> its black box."""
    with Daemon(out, config) as daemon:
        daemon.up()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state = daemon.status()["state"]
            if state == "HOLD":
                # a dry run does not move what the policy sees, and may come to an end of what it can do
                daemon.request("start")
            elif state in ("FAULT", "ESTOP", "OFFLINE"):
                raise DeployError(explain("the arm faulted while being calibrated", given=daemon.status()["message"]))
            time.sleep(0.1)
        if daemon.status()["state"] in ("ALIGNING", "RUNNING"):
            daemon.send("stop", "HOLD")
    return BlackBoxLog(sessions(out)[-1], TOPICS)
