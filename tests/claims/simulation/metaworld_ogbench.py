"""Two benchmarks from the command line: demonstrations collected, a diffusion policy trained, episodes evaluated.

    robopolicy bench-env create metaworld
    robopolicy bench-env create ogbench
    python tests/claims/simulation/metaworld_ogbench.py --work runs/claims --out docs/results

Budget: full, about twenty minutes on two cores. What is finished in --work is not done again; ``--only metaworld`` or
``--only ogbench`` does one of them. OGBench is learned from random goals and evaluated on the benchmark's five.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson

DEMONSTRATIONS, EPISODES = 100, 100


@dataclass(frozen=True)
class Case:
    """One benchmark's claim: what is learned by which recipe, and the success rate to reach."""

    task: str
    recipe: str
    least: float
    source: str


CASES = {
    "metaworld": Case("metaworld/pick-place-v3", "metaworld/diffusion", 0.80, "Yu et al., CoRL 2019; metaworld 3.1.1"),
    "ogbench": Case("ogbench/cube-single-v0", "ogbench/diffusion", 0.50, "Park et al., ICLR 2025; ogbench 1.2.2"),
}


def measure(work: Path, benchmark: str, case: Case) -> dict[str, dict]:
    """Collect, train, evaluate what is missing; the reports of the policy, the expert and the null policy."""
    name, task = f"{benchmark}_learned", case.task
    log = work / f"{name}.log"
    store, run = work / f"{name}.zarr", work / name
    claim_run.robopolicy("collect", f"task={task}", f"episodes={DEMONSTRATIONS}", "workers=1", f"out={store}", log=log)
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = (f"recipe={case.recipe}", "recipe.threads=1", "progress=false", f"data={store}", f"out={run}")
            claim_run.robopolicy("train", *words, log=log)
    reports = {}
    for policy, place in ((run, run / "eval"), ("expert", work / f"{name}_expert"), ("null", work / f"{name}_null")):
        if not (place / "report.html").is_file():
            words = (f"policy={policy}", f"task={task}", f"episodes={EPISODES}", "workers=1", f"out={place}")
            claim_run.robopolicy("eval", *words, log=log)
        reports[place.name] = read_report(place)
    return reports


def enter(reports: dict[str, dict], work: Path, out: Path | None, benchmark: str, case: Case) -> None:
    """Write the entry of one benchmark."""
    name = f"{benchmark}_learned"
    learned, expert, idle = reports.values()
    lost = sum(len(report["lost"]) for report in reports.values())
    result = ClaimResult(
        claim=f"{case.recipe} on {case.task}, {DEMONSTRATIONS} demonstrations of its expert: last checkpoint",
        source=f"{case.source}; Chi et al. 2023, arXiv 2303.04137",
        command="python tests/claims/simulation/metaworld_ogbench.py --work runs/claims --out docs/results",
        commit=claim_run.commit(),
        target=f">= {case.least}, no episode lost",
        value={"success": learned["success_rate"], "expert": expert["success_rate"], "lost": lost},
        interval=wilson(learned["successes"], learned["n"]),
        n=learned["n"],
        seeds=tuple(learned["header"]["seeds"].values()),
        control={"what": "null policy", "value": idle["success_rate"], "failed": idle["success_rate"] <= 0.05},
        passed=bool(learned["success_rate"] >= case.least and not lost and idle["success_rate"] <= 0.05),
        cpu_s=claim_run.recorded_cpu_s(*(work / f"{name}{suffix}" for suffix in ("", "_expert", "_null"))),
        versions=learned["versions"],
    )
    claim_run.write(result, out, "simulation", name)


def main() -> None:
    """Run what is missing, then write the entries."""
    options = claim_run.arguments(__doc__.splitlines()[0], only="", parallel=2)
    cases = {name: case for name, case in CASES.items() if options.only in ("", name)}
    jobs = [partial(measure, options.work, name, case) for name, case in cases.items()]
    found = claim_run.run_all(jobs, options.parallel)
    for (name, case), reports in zip(cases.items(), found, strict=True):
        enter(reports, options.work, options.out, name, case)


if __name__ == "__main__":
    main()
