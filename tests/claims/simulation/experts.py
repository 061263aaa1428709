"""Every task on every robot it is offered on: the expert solves it, doing nothing or anything does not, actions replay.

    python tests/claims/simulation/experts.py --work runs/claims/experts --out docs/results

Budget: about 15 CPU minutes, two workers. One pair of task and robot at a time; what is finished in --work is not done
again. ``--only stack-panda`` does one pair and writes no entry. Per pair, on indices of the split ``test`` from 0 on:

- 50 episodes of the expert (at least 0.95 solved, 0.80 where the hand turns an object);
- the actions that it gave in the first 20 of them, played back blindly: as the same setpoints (at least 0.95 of those
  that were solved), and as a store keeps them, without what the expert looked ahead to (told, not asked for);
- 20 episodes each of the policies ``null`` and ``random`` (at most 0.05 solved);
- control: 10 episodes of the expert that repeats its action from half a second on (at most 0.05 solved). With a jaw,
  also 10 of the expert whose jaw is kept open; told, and not asked for, because not every task needs the jaw.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
from sim_expert_runs import ActionsAgain, Changed, Chunks, ChunksAgain, Held, jaw_open

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.statistics import wilson
from robopolicy.registry import registry
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.registration import offered_embodiments
from robopolicy.sim.workers import map_episodes
from robopolicy.subject import BaselinePolicy

COMMAND = "python tests/claims/simulation/experts.py --work runs/claims/experts --out docs/results"
EXPERT, REPLAYED, BASELINE, CONTROL = 50, 20, 20, 10
LEAST, LEAST_IN_HAND, LEAST_REPLAY, MOST = 0.95, 0.80, 0.95, 0.05
HELD_AFTER_S = 0.5
COUNTS = {"expert": EXPERT, "null": BASELINE, "random": BASELINE, "held": CONTROL, "open": CONTROL}
STRIDE = 1000
"""Index of a job = kind * STRIDE + index of the episode."""


def pairs() -> list[tuple[str, str]]:
    """All that the registry offers."""
    return [(task, robot) for task in registry("task").names() for robot in offered_embodiments(task)]


@dataclass(frozen=True)
class Job:
    """Built once in each worker; runs one episode of one kind."""

    task: str
    robot: str

    def __call__(self) -> Callable[[int], dict]:
        env = Env(self.task, self.robot, split="test")
        expert = env.task.expert(env)
        jaw = any(arm.gripper for arm in env.embodiment.arms)
        policies = {
            "expert": expert,
            "null": BaselinePolicy("null")(env),
            "random": BaselinePolicy("random")(env),
            "held": Held(expert, HELD_AFTER_S),
            "open": Changed(expert, jaw_open) if jaw else None,
        }

        def run(job: int) -> dict:
            kind, index = list(COUNTS)[job // STRIDE], job % STRIDE
            if policies[kind] is None:
                return {}
            recorder = Chunks() if kind == "expert" and index < REPLAYED else None
            result = run_episode(env, policies[kind], split="test", index=index, record=recorder)
            found = {"solved": result.success_at_end, "length": result.length, "cpu_s": result.cpu_s}
            found["termination"], found["peak_force_n"] = result.termination, result.peak_force_n
            if recorder is not None and result.success_at_end:
                for name, again in (("replayed", ChunksAgain), ("replayed_stored", ActionsAgain)):
                    blind = again(env.embodiment, recorder.chunks)
                    found[name] = run_episode(env, blind, split="test", index=index).success_once
            return found

        return run


def measure(task: str, robot: str, work: Path, workers: int) -> dict:
    """The episodes of one pair, read from ``work`` if they are there."""
    path = work / f"{task}-{robot}.json"
    if path.is_file():
        return json.loads(path.read_text())
    begin, episodes = time.time(), {kind: {} for kind in COUNTS}
    jobs = [kind * STRIDE + i for kind, count in enumerate(COUNTS.values()) for i in range(count)]
    for job, found in map_episodes(Job(task, robot), jobs, workers):
        if found:
            episodes[list(COUNTS)[job // STRIDE]][job % STRIDE] = found
    record = {"task": task, "robot": robot, "wall_s": round(time.time() - begin, 1), "episodes": episodes}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record))
    os.replace(partial, path)
    return record


def judge(record: dict) -> dict:
    """Rates of a pair, and whether they are what is claimed."""
    episodes = record["episodes"]
    rate = {k: sum(e["solved"] for e in v.values()) / len(v) if v else None for k, v in episodes.items()}
    for kind, name in (("replay", "replayed"), ("stored", "replayed_stored")):
        replayed = [e[name] for e in episodes["expert"].values() if name in e]
        rate[kind] = sum(replayed) / len(replayed) if replayed else 0.0
    rate["length"] = sum(e["length"] for e in episodes["expert"].values()) / len(episodes["expert"])
    least = LEAST_IN_HAND if record["task"] == "in_hand_rotate" else LEAST
    rate["failed_indices"] = sorted(int(i) for i, e in episodes["expert"].items() if not e["solved"])
    asked = {"expert": rate["expert"] >= least, "replay": rate["replay"] >= LEAST_REPLAY}
    asked |= {kind: rate[kind] <= MOST for kind in ("null", "random")}
    rate["missed"] = [kind for kind, reached in asked.items() if not reached]
    return rate


def text(rate: dict) -> str:
    """One pair of the table."""
    jaw = "" if rate["open"] is None else f", jaw open {rate['open']:.2f}"
    row = f"expert {rate['expert']:.2f} in {rate['length']:.0f} steps"
    row += "".join(f", {kind} {rate[kind]:.2f}" for kind in ("replay", "stored", "null", "random", "held"))
    return row + jaw + (" MISSED" if rate["missed"] else "")


def main() -> None:
    """Measure what is missing, then write one entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], workers=2, only="")
    wanted = [pair for pair in pairs() if options.only in ("", "-".join(pair))]
    rates = {}
    for task, robot in wanted:
        rates[f"{task}-{robot}"] = rate = judge(measure(task, robot, options.work, min(2, options.workers)))
        print(f"{task}-{robot}: {text(rate)}", flush=True)
    if options.only:
        return
    solved = round(sum(rate["expert"] for rate in rates.values()) * EXPERT)
    held = max(rate["held"] for rate in rates.values())
    records = [measure(task, robot, options.work, 1) for task, robot in wanted]
    spent = sum(e["cpu_s"] for r in records for kind in r["episodes"].values() for e in kind.values())
    result = ClaimResult(
        claim=f"each of {len(rates)} pairs of task and robot is solved by its expert, not by null or random policies, "
        "and by the expert's recorded actions",
        source="reference tasks: robomimic, Diffusion Policy, ACT, OGBench",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"expert >= {LEAST} (in_hand_rotate {LEAST_IN_HAND}), replay >= {LEAST_REPLAY}, null, random <= {MOST}",
        value={name: text(rate) for name, rate in rates.items()},
        interval=wilson(solved, EXPERT * len(rates)),
        n=EXPERT * len(rates),
        seeds=(0,),
        control={
            "what": f"expert that repeats its action from {HELD_AFTER_S:g} s on, largest rate",
            "value": held,
            "failed": held <= MOST,
        },
        passed=not any(rate["missed"] for rate in rates.values()) and held <= MOST,
        cpu_s=round(spent, 1),
    )
    claim_run.write(result, options.out, "simulation", "experts")


if __name__ == "__main__":
    main()
