"""Meta-World through the adapter: its ten MT10 experts succeed as with the benchmark alone.

    robopolicy bench-env create metaworld
    python tests/claims/simulation/metaworld_experts.py --work runs/claims --out docs/results

Budget: quick, about two minutes on one core. What is finished in --work is not done again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson

MT10 = (
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3"),
    *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3"),
)
EPISODES, LEAST = 20, 0.95


def evaluate(policy: str, task: str, work: Path) -> dict:
    """The report of one baseline on one task."""
    out = work / f"metaworld_{policy}" / task
    if not (out / "report.html").is_file():
        words = (f"policy={policy}", f"task=metaworld/{task}", f"episodes={EPISODES}", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", *words, log=work / "metaworld_experts.log")
    return read_report(out)


def main() -> None:
    """Run what is missing, then write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0])
    reports = {task: evaluate("expert", task, options.work) for task in MT10}
    control = {task: evaluate("null", task, options.work) for task in MT10}
    solved, n = (sum(report[key] for report in reports.values()) for key in ("successes", "n"))
    idle = sum(report["successes"] for report in control.values()) / sum(report["n"] for report in control.values())
    lost = sum(len(report["lost"]) for report in (*reports.values(), *control.values()))
    mean = sum(report["success_rate"] for report in reports.values()) / len(reports)
    result = ClaimResult(
        claim=f"Meta-World's own experts through the adapter, MT10, {EPISODES} episodes per task: mean success",
        source="Yu et al., CoRL 2019; McLean et al. 2025, arXiv 2505.11289; metaworld 3.1.1 with mujoco 3.3.0",
        command="python tests/claims/simulation/metaworld_experts.py --work runs/claims --out docs/results",
        commit=claim_run.commit(),
        target=f">= {LEAST}, no episode lost",
        value={"mean": mean, **{task: report["success_rate"] for task, report in reports.items()}, "lost": lost},
        interval=wilson(solved, n),
        n=n,
        seeds=(),
        control={"what": "null policy", "value": idle, "failed": idle <= 0.05},
        passed=bool(mean >= LEAST and not lost and idle <= 0.05),
        cpu_s=claim_run.recorded_cpu_s(options.work / "metaworld_expert", options.work / "metaworld_null"),
        versions=reports[MT10[0]]["versions"],
    )
    claim_run.write(result, options.out, "simulation", "metaworld_experts")


if __name__ == "__main__":
    main()
