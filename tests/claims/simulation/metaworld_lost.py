"""Meta-World's process is killed and frozen in the middle of episodes: reported, restarted, and the rest is untouched.

    robopolicy bench-env create metaworld
    python tests/claims/simulation/metaworld_lost.py --work runs/claims --out docs/results

Budget: quick, about half a minute on one core.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import build_report
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.sim.bench.env import BenchEnv
from robopolicy.sim.bench.episode import run_bench_episode

TASK, EPISODES, STEP, DEADLINE_S = "metaworld/reach-v3", 12, 20, 5.0
ONCE = {2: signal.SIGKILL, 5: signal.SIGSTOP}
"""Episode -> what happens to the process in its first attempt."""
TWICE = {7: signal.SIGKILL, 10: signal.SIGSTOP}
"""Episode -> what happens in both attempts."""


class Saboteur:
    """The expert, until it is time to send a signal to the benchmark's process."""

    def __init__(self, env: BenchEnv):
        self.env, self.expert = env, env.task.expert(env)
        self.spec, self.calls, self.planned = self.expert.spec, 0, []

    def begin(self, signals: list[int]) -> None:
        """The signals of the attempts of the next episode."""
        self.planned, self.calls = list(signals), 0

    def act(self, observation: Any, **more: Any) -> Any:
        """The expert's action; at one step of an attempt the signal is sent first."""
        self.calls = 1 if observation.time_ns[-1] == 0 else self.calls + 1
        if self.calls == STEP and self.planned:
            os.kill(self.env.process.pid, self.planned.pop(0))
        return self.expert.act(observation, **more)


def episodes(sabotage: bool) -> list[EpisodeResult]:
    """All episodes, with or without signals."""
    env = BenchEnv(TASK)
    deadlines = dataclasses.replace(env.process.benchmark.deadline_s, step=DEADLINE_S)
    env.process.benchmark = dataclasses.replace(env.process.benchmark, deadline_s=deadlines)
    policy, results = Saboteur(env), []
    for index in range(EPISODES):
        signals = [ONCE[index]] if index in ONCE else [TWICE[index]] * 2 if index in TWICE else []
        policy.begin(signals if sabotage else [])
        results.append(run_bench_episode(env, policy, split="test", index=index))
    env.close()
    return results


def main() -> None:
    """Run both, compare, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    calm, disturbed = episodes(sabotage=False), episodes(sabotage=True)
    header = {"task": TASK, "embodiment": "metaworld_sawyer", "policy": "expert", "split": "test"}
    report = build_report(disturbed, {**header, "episodes": range(EPISODES)})
    lost = {row["index"]: row["termination"] for row in report["lost"]}
    rest = [i for i in range(EPISODES) if i not in TWICE]
    untouched = all(disturbed[i].outcome() == calm[i].outcome() for i in rest)
    attempts = {i: r.lost_attempts for i, r in enumerate(disturbed) if r.lost_attempts}
    expected = {7: "environment_crashed", 10: "environment_hung"}
    naive = sum(r.success_at_end for r in disturbed) / EPISODES
    right = lost == expected and attempts == {**dict.fromkeys(ONCE, 1), **dict.fromkeys(TWICE, 2)}
    calm_rate = sum(r.success_at_end for r in calm) / EPISODES
    result = ClaimResult(
        claim="A benchmark's process killed or frozen in 4 of 12 episodes: 2 recovered, 2 reported lost, 10 unchanged",
        source="own; metaworld 3.1.1",
        command="python tests/claims/simulation/metaworld_lost.py --work runs/claims --out docs/results",
        commit=claim_run.commit(),
        target="each loss named, each other episode equal in every field to an undisturbed run",
        value={"lost": {str(k): v for k, v in lost.items()}, "unchanged": untouched, "success": report["success_rate"]},
        interval=report["wilson_95"],
        n=report["n"],
        seeds=(),
        control={
            "what": "success rate if lost episodes were counted as failures, against the undisturbed one",
            "value": {"counted": naive, "undisturbed": calm_rate},
            "failed": naive < calm_rate,
        },
        passed=bool(right and untouched and report["success_rate"] == 1.0 and naive < calm_rate),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "simulation", "metaworld_lost")


if __name__ == "__main__":
    main()
