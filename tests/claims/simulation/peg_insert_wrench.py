"""Inserting a peg needs touch: without the wrench, the expert that searches by it fails.

    python tests/claims/simulation/peg_insert_wrench.py --work runs/claims/peg_wrench --out docs/results

Budget: about 3 CPU minutes per robot. Each robot's expert runs the same 100 episodes of the split test with the
wrist's wrench whole, frozen at what it was before the episode's first motion, and set to zero; exact McNemar tests.
Control that must not matter: the three channels of torque, which the search does not need, set to zero. What is
finished in --work is not done again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode

COMMAND = "python tests/claims/simulation/peg_insert_wrench.py --work runs/claims/peg_wrench --out docs/results"
ROBOTS = ("panda", "ur5e_2f85")
MASKS = ("whole", "frozen", "zeros", "no_torque")
EPISODES = 100
LEAST_LOSS, MOST_CONTROL_LOSS = 0.20, 0.05


class Masked:
    """A policy that is shown an altered wrench."""

    def __init__(self, inner, mask: str):
        self.inner, self.mask, self.spec, self.first = inner, mask, inner.spec, None

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        """What the policy answers to the altered observation."""
        wrench = np.array(observation.sensor["wrench"])
        if observation.time_ns[-1] == 0:
            self.first = wrench[:, -1:].copy()
        if self.mask == "frozen":
            wrench[:] = self.first
        elif self.mask == "zeros":
            wrench[:] = 0
        elif self.mask == "no_torque":
            wrench[..., 3:] = 0
        altered = dataclasses.replace(observation, sensor={**observation.sensor, "wrench": wrench})
        return self.inner.act(altered, rng=rng, prefix=prefix, goal=goal)


def measure(robot: str, mask: str, work: Path) -> dict:
    """100 episodes, read from ``work`` if they are there."""
    path = work / f"{robot}-{mask}.json"
    if path.is_file():
        return json.loads(path.read_text())
    env = Env("peg_insert", robot)
    policy = Masked(env.task.expert(env), mask)
    results = [run_episode(env, policy, split="test", index=i) for i in range(EPISODES)]
    found = {
        "solved": [bool(r.success_at_end) for r in results],
        "ended": dict(Counter(r.termination for r in results)),
        "cpu_s": sum(r.cpu_s for r in results),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(found))
    os.replace(partial, path)
    print(f"{robot} {mask}: {sum(found['solved'])}/{EPISODES} {found['ended']}", flush=True)
    return found


def compared(whole: list[bool], masked: list[bool]) -> dict:
    """What masking costs, on the same episodes."""
    pairs = list(zip(whole, masked, strict=True))
    counts = [sum(p == kind for p in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))]
    loss, lower, upper = paired_newcombe(*counts)
    return {"loss": loss, "interval": (lower, upper), "p": mcnemar_exact(counts[1], counts[2])}


def main() -> None:
    """Measure what is missing, then write one entry per robot."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    for robot in ROBOTS:
        found = {mask: measure(robot, mask, options.work) for mask in MASKS}
        whole = found["whole"]["solved"]
        against = {mask: compared(whole, found[mask]["solved"]) for mask in MASKS[1:]}
        worst = min((against[m] for m in ("frozen", "zeros")), key=lambda side: side["loss"])
        control_loss = against["no_torque"]["loss"]
        harmless = control_loss < MOST_CONTROL_LOSS
        reached = all(against[m]["loss"] >= LEAST_LOSS and against[m]["p"] < 0.05 for m in ("frozen", "zeros"))
        result = ClaimResult(
            claim=f"peg_insert on {robot}: without the wrench the searching expert loses at least 20 points",
            source="acceptance of the task: the socket's displacement is to be found by contact only",
            command=COMMAND,
            commit=claim_run.commit(),
            target=f"loss >= {LEAST_LOSS} with a frozen and a zero wrench, p < 0.05; no torque < {MOST_CONTROL_LOSS}",
            value={mask: sum(found[mask]["solved"]) / EPISODES for mask in MASKS}
            | {f"p_{mask}": against[mask]["p"] for mask in against},
            interval=worst["interval"],
            n=EPISODES,
            seeds=(0,),
            control={"what": "loss without the torque channels", "value": control_loss, "failed": harmless},
            passed=bool(reached and harmless),
            cpu_s=round(sum(side["cpu_s"] for side in found.values()), 1),
        )
        claim_run.write(result, options.out, "simulation", f"peg_insert_wrench_{robot}")


if __name__ == "__main__":
    main()
