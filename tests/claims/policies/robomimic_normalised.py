"""robomimic's BC-RNN-GMM behind the adapter learns a Meta-World task; on raw observations, its own way, it does not.

    robopolicy bench-env create metaworld
    python tests/claims/policies/robomimic_normalised.py --work runs/claims/robomimic_normalised --out docs/results

Budget: full; 100 demonstrations of the benchmark's expert, two training runs of a minute and a half on one core (recipe
metaworld/bc_rnn_gmm, ``normalize`` true and false, all else equal), 100 episodes of each, about half an hour in
all. What is finished in --work is not done again, and a cut training run is resumed. ``--demonstrations STORE``
takes a store of that task that exists. The control is the policy on raw observations: robomimic's own normalisation
refuses sequences longer than one step, so this is what its trainer gives to a recurrent policy. A third measurement,
the null policy, says what doing nothing is worth.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe, wilson

TASK, DEMONSTRATIONS = "metaworld/pick-place-v3", 100
LEAST, MOST_OF_CONTROL = 0.8, 0.5
COMMAND = (
    "python tests/claims/policies/robomimic_normalised.py --work runs/claims/robomimic_normalised --out docs/results"
)


def collect(work: Path, existing: str, task: str) -> Path:
    """Demonstrations of the benchmark's expert; continued if cut."""
    if existing:
        return Path(existing)
    store = work / f"{task.replace('/', '_')}.zarr"
    words = (f"task={task}", f"episodes={DEMONSTRATIONS}", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def train(work: Path, store: Path, normalize: bool, steps: int, seed: int) -> Path:
    """Folder of the run; resumed if cut."""
    run = work / f"{'normalised' if normalize else 'raw'}_{steps}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = ("recipe=metaworld/bc_rnn_gmm", f"recipe.stages.policy.steps={steps}", f"recipe.seed={seed}")
            own = (f"recipe.stages.policy.parameters.normalize={str(normalize).lower()}", "recipe.threads=1")
            claim_run.robopolicy("train", *words, *own, "progress=false", f"data={store}", f"out={run}", log=log)
    return run


def evaluate(policy: object, out: Path, episodes: int, task: str) -> dict:
    """Report on the unseen episodes."""
    if not (out / "report.html").is_file():
        words = (f"policy={policy}", f"task={task}", f"episodes={episodes}", "split=test", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", *words, log=Path(f"{out}.log"))
    return read_report(out)


def main() -> None:
    """Run what is missing, then write the entry."""
    extra = {"steps": 3000, "seed": 0, "episodes": 100, "parallel": 1, "demonstrations": "", "task": TASK}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work, episodes, task = options.work, options.episodes, options.task
    store = collect(work, options.demonstrations, task)
    jobs = [partial(train, work, store, normalize, options.steps, options.seed) for normalize in (True, False)]
    runs = claim_run.run_all(jobs, options.parallel)
    jobs = [partial(evaluate, run, work / f"{run.name}_eval_{episodes}", episodes, task) for run in runs]
    jobs.append(partial(evaluate, "null", work / f"null_eval_{episodes}", episodes, task))
    own, raw, idle = claim_run.run_all(jobs, options.parallel)
    won = [{e.index: e.success_once for e in episodes_of(report)} for report in (own, raw)]
    pairs = [(won[0][i], won[1][i]) for i in sorted(won[0].keys() & won[1].keys())]
    counts = [sum(p == kind for p in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))]
    gain, lower, upper = paired_newcombe(*counts)
    lost = sum(len(report["lost"]) for report in (own, raw))
    failed = raw["success_rate"] <= MOST_OF_CONTROL and mcnemar_exact(counts[1], counts[2]) < 0.05
    result = ClaimResult(
        claim=f"BC-RNN-GMM of robomimic on {task}: observations through our normaliser, {options.steps} steps",
        source="Mandlekar et al. 2021, arXiv 2108.03298; robomimic 0.3",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f">= {LEAST}, no episode lost, on raw observations <= {MOST_OF_CONTROL}",
        value={
            "success": own["success_rate"],
            "raw observations": raw["success_rate"],
            "gain": [round(value, 3) for value in (gain, lower, upper)],
            "null": idle["success_rate"],
            "lost": lost,
        },
        interval=wilson(own["successes"], own["n"]),
        n=own["n"],
        seeds=(options.seed,),
        control={
            "what": "the same network, data and steps on raw observations",
            "value": raw["success_rate"],
            "failed": bool(failed),
        },
        passed=bool(own["success_rate"] >= LEAST and failed and not lost),
        cpu_s=claim_run.recorded_cpu_s(work),
        versions=own["versions"],
    )
    claim_run.write(result, options.out, "policies", "robomimic_normalised")


if __name__ == "__main__":
    main()
