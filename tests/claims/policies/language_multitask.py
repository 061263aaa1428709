"""Two tasks that only the instruction tells apart, one policy: told rightly it does both, told wrongly it does not.

    robopolicy bench-env create metaworld
    python tests/claims/policies/language_multitask.py --work runs/claims/language --out docs/results

Budget: full; two training runs of at most half an hour on a core, five evaluations. What is finished in --work is not
done again. Meta-World's ``reach-v3`` and ``pick-place-v3`` draw hand, puck and goal from the same ranges and show the
same streams; reaching moves the hand to the goal, picking brings the puck there. Demonstrations of both go into one
store (``robopolicy data merge``), recipe ``metaworld/diffusion_multitask`` learns a vector per instruction. On unseen
episodes of both tasks:

- ``told``: the task's own instruction;
- ``swapped`` (control, must fail): ``pick-place-v3`` with the instruction of ``reach-v3``. The other way round is no
  control, because a hand that carries the puck to the goal has reached it;
- ``withheld``: the same recipe without language, on the same store.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.assess import evaluate
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import mcnemar_exact, wilson
from robopolicy.policies import load_policy
from robopolicy.types import ActionChunk, Observation

TASKS = {"reach": "metaworld/reach-v3", "pick place": "metaworld/pick-place-v3"}
"""Instruction -> task."""
HARD = "pick place"
LEAST, MOST_SWAPPED = 0.8, 0.1
RECIPE = "metaworld/diffusion_multitask"
KINDS = {"told": "table", "withheld": "none"}


class Told:
    """A policy that hears ``instruction`` whatever is said."""

    def __init__(self, policy: Any, instruction: str):
        self.policy, self.instruction, self.spec = policy, instruction, policy.spec

    def act(self, observation: Observation, **given: Any) -> ActionChunk:
        """As the policy."""
        chunk: ActionChunk = self.policy.act(replace(observation, language=self.instruction), **given)
        return chunk


def collect(work: Path, demonstrations: int) -> Path:
    """One store of both tasks; continued if cut."""
    log, parts = work / "collect.log", []
    for instruction, task in TASKS.items():
        parts.append(work / f"{instruction.replace(' ', '_')}.zarr")
        words = (f"task={task}", f"episodes={demonstrations}", "workers=1", f"out={parts[-1]}")
        claim_run.robopolicy("collect", *words, log=log)
    both = work / "both.zarr"
    claim_run.robopolicy("data", "merge", *parts, f"out={both}", "progress=false", log=log)
    return both


def train(work: Path, store: Path, kind: str, steps: int, seed: int) -> Path:
    """Folder of the run; resumed if cut."""
    run = work / f"{kind}_{steps}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            stage = "recipe.stages.policy"
            words = (f"recipe={RECIPE}", f"{stage}.steps={steps}", f"{stage}.parameters.language.kind={KINDS[kind]}")
            fixed = (f"recipe.seed={seed}", "recipe.threads=1", "progress=false", f"data={store}", f"out={run}")
            claim_run.robopolicy("train", *words, *fixed, log=log)
    return run


def report_of(run: Path, instruction: str, episodes: int) -> dict:
    """On the unseen episodes of the instruction's task."""
    out = run / f"eval_{instruction.replace(' ', '_')}_{episodes}"
    if not (out / "report.html").is_file():
        words = (f"task={TASKS[instruction]}", f"episodes={episodes}", "split=test", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", run, *words, log=Path(f"{run}.log"))
    return read_report(out)


def swapped(run: Path, episodes: int) -> dict:
    """The hard task with the other task's instruction."""
    out = run / f"eval_swapped_{episodes}"
    if not (out / "report.html").is_file():
        other = next(instruction for instruction in TASKS if instruction != HARD)
        policy = Told(load_policy(run, device="cpu"), other)
        evaluate(policy, TASKS[HARD], episodes=range(episodes), split="test", out=out, overwrite=True)
    return read_report(out)


def main() -> None:
    """Run what is missing, then write the entry."""
    extra = {"steps": 12000, "seed": 0, "demonstrations": 100, "episodes": 100, "parallel": 1}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work, episodes = options.work, options.episodes
    store = collect(work, options.demonstrations)
    jobs = [partial(train, work, store, kind, options.steps, options.seed) for kind in KINDS]
    runs = dict(zip(KINDS, claim_run.run_all(jobs, options.parallel), strict=True))
    cases = [(kind, instruction) for kind in KINDS for instruction in TASKS]
    jobs = [partial(report_of, runs[kind], instruction, episodes) for kind, instruction in cases]
    reports = dict(zip(cases, claim_run.run_all(jobs, options.parallel), strict=True))
    control = swapped(runs["told"], episodes)
    rates = {kind: {t: reports[kind, t]["success_rate"] for t in TASKS} for kind in KINDS}
    won = {kind: {e.index: e.success_at_end for e in episodes_of(reports[kind, HARD])} for kind in KINDS}
    better = sum(won["told"][i] and not won["withheld"][i] for i in won["told"])
    worse = sum(won["withheld"][i] and not won["told"][i] for i in won["told"])
    lowest = min((reports["told", t] for t in TASKS), key=lambda report: report["success_rate"])
    failed = control["success_rate"] <= MOST_SWAPPED
    result = ClaimResult(
        claim=f"{RECIPE}: one policy does {' and '.join(TASKS.values())}, told by the instruction alone",
        source="Yu et al., CoRL 2019; metaworld 3.1.1; Chi et al. 2023, arXiv 2303.04137",
        command="python tests/claims/policies/language_multitask.py --work runs/claims/language --out docs/results",
        commit=claim_run.commit(),
        target=f"success >= {LEAST} on each task, <= {MOST_SWAPPED} with the other task's instruction",
        value={**rates, "swapped": control["success_rate"], "p_mcnemar_withheld": mcnemar_exact(better, worse)},
        interval=wilson(lowest["successes"], lowest["n"]),
        n=episodes * len(TASKS),
        seeds=(options.seed,),
        control={
            "what": f"success on {TASKS[HARD]} with the instruction of the other task",
            "value": control["success_rate"],
            "failed": failed,
        },
        passed=bool(min(rates["told"].values()) >= LEAST and failed),
        cpu_s=claim_run.recorded_cpu_s(*runs.values()),
        versions=lowest["versions"],
    )
    claim_run.write(result, options.out, "policies", "language_multitask")


if __name__ == "__main__":
    main()
