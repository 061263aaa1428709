"""One recipe, two arms, three seeds: success of the last checkpoint on 100 unseen episodes.

    python tests/claims/foundation/pick_place_state.py --work runs/claims --out docs/results

Budget: full, about 45 minutes on two cores. What is finished in --work is not done again.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson

RECIPE = "pick_place/diffusion"
TARGETS = {"panda": (0.90, 0.82), "ur5e_2f85": (0.85, 0.0)}
"""Least success rate of each seed, and least lower bound of its Wilson interval."""
SEEDS = (0, 1, 2)
DEMONSTRATIONS, EPISODES = 200, 100


def collect(work: Path, embodiment: str) -> None:
    """Demonstrations; continued if cut."""
    words = ("task=pick_place", f"embodiment={embodiment}", f"episodes={DEMONSTRATIONS}", "workers=1")
    claim_run.robopolicy("collect", *words, f"out={work / embodiment}.zarr", log=work / "collect.log")


def train_and_evaluate(work: Path, embodiment: str, seed: int) -> dict:
    """The report of one seed."""
    run = work / f"{embodiment}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = (f"recipe={RECIPE}", f"recipe.seed={seed}", "recipe.threads=1", "progress=false")
            claim_run.robopolicy("train", *words, f"data={work / embodiment}.zarr", f"out={run}", log=log)
    return evaluate(run, log, run / "eval")


def evaluate(policy: object, log: Path, out: Path, *words: str) -> dict:
    """The report on the unseen episodes."""
    if not (out / "report.html").is_file():
        claim_run.robopolicy(
            "eval", f"policy={policy}", f"episodes={EPISODES}", "workers=1", f"out={out}", *words, log=log
        )
    return read_report(out)


def main() -> None:
    """Run what is missing, then write one entry per arm."""
    options = claim_run.arguments(__doc__.splitlines()[0], parallel=2)
    work = options.work
    claim_run.run_all([partial(collect, work, e) for e in TARGETS], options.parallel)
    jobs = {(e, s): partial(train_and_evaluate, work, e, s) for s in SEEDS for e in TARGETS}
    reports = dict(zip(jobs, claim_run.run_all(list(jobs.values()), options.parallel), strict=True))
    for embodiment, (least, least_lower) in TARGETS.items():
        words = ("task=pick_place", f"embodiment={embodiment}")
        control = evaluate("null", work / "null.log", work / f"null_{embodiment}", *words)
        counts = [reports[embodiment, seed]["successes"] for seed in SEEDS]
        bounds = [wilson(k, EPISODES) for k in counts]
        reached = all(k / EPISODES >= least and b[0] >= least_lower for k, b in zip(counts, bounds, strict=True))
        failed = control["success_rate"] <= 0.02
        result = ClaimResult(
            claim=f"{RECIPE} on {embodiment}, {DEMONSTRATIONS} demonstrations, last checkpoint: unseen episodes solved",
            source="Chi et al. 2023, arXiv 2303.04137",
            command="python tests/claims/foundation/pick_place_state.py --work runs/claims --out docs/results",
            commit=claim_run.commit(),
            target=f">= {least} for every seed" + (f", Wilson lower bound >= {least_lower}" if least_lower else ""),
            value={f"seed {seed}": k / EPISODES for seed, k in zip(SEEDS, counts, strict=True)},
            interval=wilson(sum(counts), EPISODES * len(SEEDS)),
            n=EPISODES * len(SEEDS),
            seeds=SEEDS,
            control={"what": "null policy", "value": control["success_rate"], "failed": failed},
            passed=bool(reached and failed),
            cpu_s=claim_run.recorded_cpu_s(
                *(work / f"{embodiment}_seed{seed}" for seed in SEEDS), work / f"null_{embodiment}"
            ),
        )
        claim_run.write(result, options.out, "foundation", f"pick_place_state_{embodiment}")


if __name__ == "__main__":
    main()
