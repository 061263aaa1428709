"""Success of the diffusion recipes on the tasks of this project: from state on three seeds, from images on one.

    python tests/claims/policies/task_success.py --work runs/claims --out docs/results

Budget: full, at most 30 minutes of training a row and seed, on two cores (15 rows and seeds in all). What is finished
in --work is not done again, and a training run that was cut is resumed. ``--rows push_t,stack_image`` chooses; each
row writes its own entry. A row: demonstrations of the scripted expert, the recipe with ``max_minutes``, the last
checkpoint's averaged weights on the 200 first episodes of the split test, pooled over seeds; the null policy on the
same episodes is the control.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson

COMMAND = "python tests/claims/policies/task_success.py --work runs/claims --out docs/results"
MOST_IDLE = 0.05


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        task, recipe: Names.
        least: Success rate over all seeds that the row has to reach.
        embodiment: Of the demonstrations; None for the task's default.
        demonstrations: How many.
        cameras: Recorded, for recipes that see.
        seeds: Of training.
    """

    task: str
    recipe: str
    least: float
    embodiment: str | None = "panda"
    demonstrations: int = 200
    cameras: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)


SEEN = {"cameras": ("front", "wrist"), "seeds": (0,)}
ROWS = {
    "push_t": Row("push_t", "push_t/diffusion", 0.80, demonstrations=400),
    "pick_place": Row("pick_place", "pick_place/diffusion", 0.90),
    "stack": Row("stack", "stack/diffusion", 0.80),
    "bimanual_transfer": Row("bimanual_transfer", "bimanual_transfer/diffusion", 0.80, embodiment=None),
    "push_t_image": Row("push_t", "push_t/diffusion_image", 0.60, demonstrations=400, **SEEN),
    "pick_place_image": Row("pick_place", "pick_place/diffusion_image", 0.80, **SEEN),
    "stack_image": Row("stack", "stack/diffusion_image", 0.60, **SEEN),
}


def collect(work: Path, row: Row, demonstrations: int) -> Path:
    """Demonstrations, shared by the rows of a task and kind; continued if cut."""
    store = work / f"{row.task}{'_image' if row.cameras else ''}.zarr"
    words = [f"task={row.task}", f"episodes={demonstrations}", f"cameras=[{','.join(row.cameras)}]", "workers=1"]
    words += [f"embodiment={row.embodiment or default_robot(row.task)}"]
    claim_run.robopolicy("collect", *words, f"out={store}", log=store.with_suffix(".log"))
    return store


def default_robot(task: str) -> str:
    """The first robot that the task is offered on."""
    from robopolicy.sim.registration import offered_embodiments

    return next(iter(offered_embodiments(task)))


def train(work: Path, name: str, row: Row, seed: int, store: Path, options: Namespace) -> Path:
    """Folder of the run; resumed if cut."""
    run = work / f"{name}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = [f"recipe={row.recipe}", f"recipe.seed={seed}"]
            words += [f"recipe.threads={options.threads}"] if options.threads else []
            words += [f"recipe.stages.policy.steps={options.steps}"] if options.steps else []
            words += [f"recipe.stages.policy.max_minutes={options.minutes}", "progress=false"]
            claim_run.robopolicy("train", *words, f"data={store}", f"out={run}", log=log)
    return run


def evaluate(policy: object, out: Path, episodes: int, log: Path, *words: str) -> dict:
    """The report on the unseen episodes."""
    if not (out / "report.html").is_file():
        fixed = (f"policy={policy}", f"episodes={episodes}", "workers=1", "overwrite=true", f"out={out}")
        claim_run.robopolicy("eval", *fixed, *words, log=log)
    return read_report(out)


def measure(work: Path, name: str, row: Row, options: Namespace) -> ClaimResult:
    """All seeds of a row, and its control."""
    store = collect(work, row, options.demonstrations or row.demonstrations)
    seeds = row.seeds[: options.seeds]
    jobs = [partial(train, work, name, row, seed, store, options) for seed in seeds]
    runs = dict(zip(seeds, claim_run.run_all(jobs, options.parallel), strict=True))
    log = work / f"{name}.log"
    reports = {seed: evaluate(run, run / "eval", options.episodes, log) for seed, run in runs.items()}
    place = ("task=" + row.task, f"embodiment={row.embodiment or default_robot(row.task)}")
    idle = evaluate("null", work / f"{row.task}_null", options.episodes, log, *place)["success_rate"]
    trained = {seed: json.loads((run / "train.json").read_text()) for seed, run in runs.items()}
    minutes = {f"seed {s}": round((t["wall_s"] + events_s(t)) / 60, 1) for s, t in trained.items()}
    successes, n = (sum(report[key] for report in reports.values()) for key in ("successes", "n"))
    within = max(minutes.values()) <= options.minutes * 1.1
    return ClaimResult(
        claim=f"{row.recipe}, {options.demonstrations or row.demonstrations} demonstrations, last checkpoint: "
        f"unseen episodes solved after at most {options.minutes:g} minutes of training",
        source="Chi et al. 2023, arXiv 2303.04137",
        command=f"{COMMAND} --rows {name}",
        commit=claim_run.commit(),
        target=f">= {row.least} over all seeds, minutes of training kept within a tenth",
        value={
            "success": round(successes / n, 4),
            "success by seed": {f"seed {seed}": report["success_rate"] for seed, report in reports.items()},
            "minutes of training": minutes,
            "steps": {f"seed {seed}": t["steps"] for seed, t in trained.items()},
            "chunk ms": round(next(iter(reports.values()))["latency"]["inference_ms"]["p50"], 2),
        },
        interval=wilson(successes, n),
        n=n,
        seeds=tuple(runs),
        control={"what": "null policy", "value": idle, "failed": idle <= MOST_IDLE},
        passed=bool(successes / n >= row.least and within and idle <= MOST_IDLE),
        cpu_s=claim_run.recorded_cpu_s(*runs.values()),
        versions=next(iter(reports.values()))["versions"],
    )


def events_s(trained: dict) -> float:
    """Seconds of validation and checkpoints, which count as training here."""
    return sum(stage.get("events_s", 0.0) for stage in trained["stages"].values())


def main() -> None:
    """Run the rows chosen, one after another, and write the entry of each."""
    extra = {
        "rows": "",
        "minutes": 30.0,
        "steps": 0,
        "episodes": 200,
        "demonstrations": 0,
        "threads": 0,
        "seeds": 3,
        "parallel": 1,
    }
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    names = tuple(filter(None, options.rows.split(","))) or tuple(ROWS)
    if unknown := sorted(set(names) - set(ROWS)):
        raise SystemExit(f"no such rows: {unknown}; there are {list(ROWS)}")
    for name in names:
        result = measure(options.work / "task_success", name, ROWS[name], options)
        claim_run.write(result, options.out, "policies", f"task_success_{name}")


if __name__ == "__main__":
    main()
