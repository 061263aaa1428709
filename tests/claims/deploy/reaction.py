"""How soon: a frozen controller, a killed real-time loop, a silent policy, and a changed plan.

    python tests/claims/deploy/reaction.py --work runs/claims/reaction --out docs/results

Budget: full (about ten minutes, a quiet machine). The daemon drives the virtual UR5e through ``ur_rtde`` at 500 Hz.

- ``dead_controller``: the box is suspended (its kernel still acknowledges); time from the last advance of the
  controller's clock to FAULT, as the loop recorded it. Control: the same without suspending it must stay RUNNING.
- ``realtime_killed``: SIGKILL of the real-time process in motion; time until the arm stands still, as the box saw it,
  and violations at the wire. Control: without the kill the arm is still moving then.
- ``policy_silent``: SIGKILL and SIGSTOP of the policy worker in motion: time to rest, violations.
- ``reaction``: on a virtual clock, from an observation that shows something new to the first changed setpoint.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import claim_run
from fault_campaign import PEERS, Bench
from gap_free import Call, ours

from robopolicy.evaluation.claims import ClaimResult

COMMAND = "python tests/claims/deploy/reaction.py --work runs/claims/reaction --out docs/results"
FROZEN_MS, KILLED_MS, STILL_RAD_S = 20.0, 120.0, 0.01
TIMEOUT_S = 0.014
"""Of the controller's clock: a tick and the state machine come on top."""


def bench(folder: Path, **robot: Any) -> Bench:
    """A bench on the virtual UR with a short timeout."""
    made = Bench("ur", folder)
    config = dataclasses.replace(made.config.robot, timeout_s=TIMEOUT_S, **robot)
    made.config = dataclasses.replace(made.config, robot=config)
    return made


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and largest."""
    return {"median": round(float(np.median(values)), 2), "largest": round(max(values), 2)}


def frozen(made: Bench, trials: int) -> tuple[list[float], int]:
    """Suspend the box again and again. -> ms from its last time stamp to FAULT, and spurious faults without it."""
    found, spurious = [], 0
    for _ in range(trials):
        made.swing()
        assert made.daemon is not None
        made.daemon.request("begin_episode")
        time.sleep(0.5)
        spurious += made.daemon.status()["state"] != "RUNNING"
        os.kill(made.box.process.pid, signal.SIGSTOP)
        try:
            made.daemon.wait(lambda s: s["state"] == "FAULT", what="FAULT", timeout_s=5.0)
            time.sleep(0.05)
            changes = made.daemon.request("episode")["episode"]["transitions"]
        finally:
            os.kill(made.box.process.pid, signal.SIGCONT)
        fault = next(c for c in changes if c["state"] == "FAULT")
        found.append((fault["t_ns"] - fault["t_robot_ns"]) / 1e6)
        time.sleep(0.5)
    return found, spurious


def still_after(made: Bench, begin: float, limit_s: float = 3.0) -> float:
    """Ms from ``begin`` until the box reports an arm at rest."""
    while time.monotonic() - begin < limit_s:
        velocity = np.abs(made.box.report()["velocity"]).max()
        if velocity < STILL_RAD_S:
            return (time.monotonic() - begin) * 1e3
        time.sleep(0.002)
    return limit_s * 1e3


def moving(made: Bench) -> None:
    """Wait until the arm is fast: in the middle of its swing."""
    until = time.monotonic() + 5.0
    while np.abs(made.box.report()["velocity"]).max() < 0.05 and time.monotonic() < until:
        time.sleep(0.005)


def killed(made: Bench, trials: int, who: str, number: int) -> tuple[list[float], int, float]:
    """Signal a process in motion. -> ms to rest, violations, and the slowest speed 120 ms later without a signal."""
    found, violations, control = [], 0, np.inf
    for trial in range(trials):
        made.swing()
        if trial == 0:
            moving(made)
            time.sleep(KILLED_MS / 1e3)
            control = float(np.abs(made.box.report()["velocity"]).max())
        moving(made)
        pid = made.pids[who]
        begin = time.monotonic()
        os.kill(pid, number)
        found.append(still_after(made, begin))
        violations += made.box.report()["violated"]
        made.end()
    return found, violations, control


def reaction(inference_s: float) -> float:
    """A plan that changes its mind at 5 s: ms from that observation to the first setpoint that differs."""
    still = np.zeros((16, 3))
    calls = [Call(t, t + inference_s, still + (0.0 if t < 5.0 else 0.05)) for t in np.arange(0.0, 8.0, 0.4)]
    same = [Call(c.t_obs_s, c.t_arrives_s, still) for c in calls]
    changed = ours(calls)
    one, two = changed["positions"], ours(same)["positions"]
    first = int(np.argmax(np.abs(one[: len(two)] - two[: len(one)]).max(axis=1) > 1e-7))
    begin = next(c.t_obs_s for c in calls if c.t_obs_s >= 5.0)
    return round(float((first - changed["begins"]) * TICK_MS - begin * 1e3), 1)


INFERENCE_S, TICK_MS, KNOT_MS = 0.1, 10.0, 100.0
"""Of the reaction on the virtual clock: 100 setpoints and ten actions a second."""


def entry(
    name: str, claim: str, target: str, value: Any, n: int, passed: bool, control: dict[str, Any], out: Any
) -> None:
    """Into the ledger."""
    result = ClaimResult(
        claim=claim,
        source="own; ur-rtde against the virtual UR5e",
        command=COMMAND,
        commit=claim_run.commit(),
        target=target,
        value=value,
        interval=None,
        n=n,
        seeds=(),
        control=control,
        passed=bool(passed and control["failed"]),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, out, "deploy", name)


def main() -> None:
    """All four."""
    options = claim_run.arguments(__doc__.splitlines()[0], trials=20)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    work, n = options.work.resolve(), options.trials
    os.environ["ROBOPOLICY_FAULT_FILE"] = str(work / "fault")
    made = bench(work)
    try:
        late, spurious = frozen(made, n)
        control = {"what": "RUNNING half a second without it, n", "value": n - spurious, "failed": spurious == 0}
        entry(
            "dead_controller",
            "a controller that freezes is found out by its clock",
            f"FAULT within {FROZEN_MS} ms of the last advance of its time stamp, every time",
            quantiles(late),
            n,
            max(late) <= FROZEN_MS,
            control,
            options.out,
        )
        ms, bad, speed = killed(made, n, "realtime", signal.SIGKILL)
        control = {
            "what": "rad/s after as long without the kill",
            "value": round(speed, 3),
            "failed": speed > STILL_RAD_S,
        }
        entry(
            "realtime_killed",
            "the arm stops when the real-time process is killed",
            f"at rest within {KILLED_MS} ms, no violation at the wire",
            {**quantiles(ms), "violations": bad},
            n,
            max(ms) <= KILLED_MS and not bad,
            control,
            options.out,
        )
        half = max(n // 2, 1)
        one, bad_one, speed = killed(made, half, "worker", signal.SIGKILL)
        two, bad_two, _ = killed(made, half, "worker", signal.SIGSTOP)
        control = {"what": "rad/s without the signal", "value": round(speed, 3), "failed": speed > STILL_RAD_S}
        entry(
            "policy_silent",
            "a policy that dies or hangs in motion: the planned stop, within all limits",
            "at rest, no violation at the wire",
            {"SIGKILL ms": quantiles(one), "SIGSTOP ms": quantiles(two), "violations": bad_one + bad_two},
            2 * half,
            not bad_one + bad_two and max(one + two) < 3000,
            control,
            options.out,
        )
    finally:
        made.close()
    seen, bound = reaction(INFERENCE_S), INFERENCE_S * 1e3 + KNOT_MS + 2 * TICK_MS
    slow = reaction(INFERENCE_S + 0.3)
    control = {"what": "ms when the chunk comes 300 ms later", "value": slow, "failed": slow > bound}
    entry(
        "reaction",
        "from an observation that shows something new to the first changed setpoint",
        "at most inference, one knot and two ticks",
        {"ms": seen, "bound_ms": bound},
        1,
        0 < seen <= bound,
        control,
        options.out,
    )


if __name__ == "__main__":
    main()
