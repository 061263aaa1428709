"""gym-pusht through the adapter: an episode is a function of its index, whatever ran before, in whichever process.

    robopolicy bench-env create gym_pusht
    python tests/claims/simulation/pusht_runs.py --work runs/claims --out docs/results

Budget: quick, about a minute on one core. What is finished in --work is not done again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report

EPISODES = 20


def evaluate(name: str, work: Path, *words: str) -> dict:
    """The report of uniform random actions."""
    out = work / "pusht" / name
    if not (out / "report.html").is_file():
        fixed = ("policy=random", "task=gym_pusht/pusht-v0", f"out={out}")
        claim_run.robopolicy("eval", *fixed, *words, log=work / "pusht.log")
    return read_report(out)


def outcomes(report: dict) -> list[dict]:
    """What has to be equal."""
    return [episode.outcome() | {"split": ""} for episode in episodes_of(report)]


def main() -> None:
    """Run what is missing, then write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    alone = evaluate("alone", options.work, f"episodes={EPISODES}", "workers=1")
    late = outcomes(evaluate("late", options.work, f"episodes={EPISODES // 2}:{EPISODES}", "workers=1"))
    two = evaluate("two", options.work, f"episodes={EPISODES}", "workers=2")
    other = evaluate("other_split", options.work, f"episodes={EPISODES}", "workers=1", "split=val")
    mine = outcomes(alone)
    equal = mine == outcomes(two) and mine[EPISODES // 2 :] == late
    coverage = [episode.metrics["max coverage"] for episode in episodes_of(alone)]
    strangers = sum(a == b for a, b in zip(mine, outcomes(other), strict=True))
    result = ClaimResult(
        claim="gym-pusht: episodes are the same for one and two workers and without those before them",
        source="Florence et al., CoRL 2021; Chi et al. 2023, arXiv 2303.04137; gym-pusht 0.1.8",
        command="python tests/claims/simulation/pusht_runs.py --work runs/claims --out docs/results",
        commit=claim_run.commit(),
        target="all fields equal, no episode lost",
        value={"equal": equal, "lost": len(alone["lost"]), "mean of largest coverage": sum(coverage) / len(coverage)},
        interval=None,
        n=EPISODES,
        seeds=(),
        control={"what": "equal episodes in another split", "value": strangers, "failed": strangers == 0},
        passed=bool(equal and not alone["lost"] and strangers == 0),
        cpu_s=claim_run.recorded_cpu_s(options.work / "pusht"),
        versions=alone["versions"],
    )
    claim_run.write(result, options.out, "simulation", "pusht_runs")


if __name__ == "__main__":
    main()
