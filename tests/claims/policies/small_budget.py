"""Eight minutes on two cores: the default diffusion recipe beside LeRobot's and BC-RNN-GMM on Meta-World.

    robopolicy bench-env create metaworld
    python tests/claims/policies/small_budget.py --work runs/claims --out docs/results --peer PEER/bin/python

PEER is an environment with lerobot==0.4.4. Budget: full, about 3 minutes of collecting, 24 of training and 10 of
evaluation per task; nothing else may run on the machine meanwhile. What is finished in --work is not done again,
method by method, and a training run of ours that was cut is resumed. ``--tasks`` and ``--methods`` (by commas) do
some of it; the entry is written when all is there.

Per task: 100 demonstrations of the benchmark's expert, executed with Gaussian noise of 0.05 on every action channel
but the gripper while the labels stay clean; state observations (hand, objects, goal); 8 minutes of training on two
cores for each method (threads as its recipe says, two for LeRobot's); the last weights on the 100 first episodes of
the split test, with seeds that no demonstration has; success at any step, as the benchmark says it.

Tasks, chosen for the kind of difficulty before anything was trained on them: free motion (reach), a press in one
direction (button-press-topdown), an articulated object (door-open), pushing on the plane (push), a tool that has to
be grasped and struck with (hammer), grasping and inserting with little play (peg-insert-side). Recipes are developed
on others: pick-place, drawer-open, window-open, sweep-into (``--development 1`` runs those; it writes no entry).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import claim_run
from lerobot_peer import evaluate_peer, train_peer

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson

TASKS = ("reach-v3", "button-press-topdown-v3", "door-open-v3", "push-v3", "hammer-v3", "peg-insert-side-v3")
DEVELOPMENT = ("pick-place-v3", "drawer-open-v3", "window-open-v3", "sweep-into-v3")
RECIPES = {"diffusion": "metaworld/diffusion", "bc_rnn_gmm": "metaworld/bc_rnn_gmm"}
METHODS = (*RECIPES, "lerobot_diffusion")
NOISE, LEAST = 0.05, 0.90
COMMAND = "python tests/claims/policies/small_budget.py --work runs/claims --out docs/results --peer PEER/bin/python"


def collect(work: Path, task: str, options: object) -> Path:
    """Demonstrations; continued if cut."""
    store = work / f"{task}.zarr"
    words = (f"task=metaworld/{task}", f"episodes={options.demonstrations}", f"action_noise.share={NOISE}", "workers=1")
    claim_run.robopolicy("collect", *words, f"out={store}", log=work / f"{task}_collect.log")
    return store


def ours(work: Path, task: str, method: str, store: Path, options: object) -> dict:
    """The report of one of our recipes, with seconds and steps of its training; resumed if cut."""
    run = work / f"{task}_{method}_seed{options.seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = [f"recipe={RECIPES[method]}", f"recipe.seed={options.seed}"]
            words += [f"recipe.threads={options.threads}"] if options.threads else []
            words += ["progress=false"]
            if options.steps:
                words += [f"recipe.stages.policy.steps={options.steps}"]
            else:
                words += ["recipe.stages.policy.steps=1000000", f"recipe.stages.policy.max_minutes={options.minutes}"]
            claim_run.robopolicy("train", *words, f"data={store}", f"out={run}", log=log)
    report = evaluate(run, run / "eval", options.episodes, log)
    stage = next(iter(json.loads((run / "train.json").read_text())["stages"].values()))
    spent = {"train_wall_s": stage["wall_s"] + stage["events_s"], "train_cpu_s": stage["cpu_s"]}
    return {**report, **spent, "steps": stage["steps"]}


def evaluate(policy: object, out: Path, episodes: int, log: Path, *words: str) -> dict:
    """The report on the unseen episodes."""
    if not (out / "report.html").is_file():
        fixed = (f"policy={policy}", f"episodes={episodes}", "workers=1", "overwrite=true", f"out={out}")
        claim_run.robopolicy("eval", *fixed, *words, log=log)
    return read_report(out)


def lerobot(work: Path, task: str, store: Path, options: object) -> dict:
    """The same of LeRobot's."""
    run = work / f"{task}_lerobot_diffusion_seed{options.seed}"
    budget = ("--steps", options.steps) if options.steps else ("--minutes", options.minutes)
    record = train_peer(options.peer, store, run, *budget, "--seed", options.seed, "--threads", options.threads or 2)
    report = evaluate_peer(options.peer, store, run, run / "eval", options.episodes)
    return {**report, "train_wall_s": record["wall_s"], "train_cpu_s": record["cpu_s"], "steps": record["steps"]}


def row(report: dict) -> dict:
    """What the ledger keeps of one method on one task."""
    median = report["latency"]["inference_ms"]["p50"]
    return {
        "success": report["success_rate"],
        "wilson_95": [round(bound, 4) for bound in report["wilson_95"]],
        "lost": len(report["lost"]),
        "chunk_ms": round(median, 2),
        "steps": report["steps"],
        "train_wall_s": round(report["train_wall_s"], 1),
        "train_cpu_s": round(report["train_cpu_s"], 1),
    }


def table(rows: dict[str, dict[str, dict]], methods: tuple[str, ...]) -> str:
    """Markdown: a line per task, the averages last."""
    lines = ["| task | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for task, found in rows.items():
        bounds = {m: "{:.2f} to {:.2f}".format(*found[m]["wilson_95"]) for m in methods}
        shown = [f"{found[m]['success']:.2f} ({bounds[m]})" for m in methods]
        lines.append(f"| {task} | " + " | ".join(shown) + " |")
    means = [f"{average(rows, m):.3f}" for m in methods]
    return "\n".join([*lines, "| average | " + " | ".join(means) + " |"])


def average(rows: dict[str, dict[str, dict]], method: str) -> float:
    """Over tasks, each weighing the same."""
    return sum(found[method]["success"] for found in rows.values()) / len(rows)


def enter(rows: dict[str, dict[str, dict]], idle: dict[str, float], reports: list[dict], options: object) -> None:
    """The entry of the ledger."""
    means = {method: round(average(rows, method), 4) for method in METHODS}
    best = max(means[method] for method in METHODS if method != "diffusion")
    counts = [round(found["diffusion"]["success"] * options.episodes) for found in rows.values()]
    still = max(idle.values())
    lost = sum(cell["lost"] for found in rows.values() for cell in found.values())
    result = ClaimResult(
        claim=f"{len(rows)} Meta-World tasks, 100 demonstrations, {options.minutes:g} minutes on two cores, one recipe",
        source="Yu et al., CoRL 2019; LeRobot 0.4.4; Mandlekar et al., CoRL 2021 (BC-RNN-GMM)",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"average of diffusion >= {LEAST} and >= the better average of the two others, no episode lost",
        value={"average": means, **rows},
        interval=wilson(sum(counts), options.episodes * len(rows)),
        n=options.episodes * len(rows),
        seeds=(options.seed,),
        control={"what": "null policy, highest success of any task", "value": still, "failed": still <= 0.05},
        passed=bool(means["diffusion"] >= max(LEAST, best) and still <= 0.05 and not lost),
        cpu_s=round(sum(report.get("cpu_s", 0.0) + report["train_cpu_s"] for report in reports), 1),
        versions={**reports[0]["versions"], "lerobot": "0.4.4"},
    )
    claim_run.write(result, options.out, "policies", "small_budget")


def main() -> None:
    """Run what is missing, print the table, write the entry if it is whole."""
    extra = {
        "tasks": "",
        "methods": "",
        "minutes": 8.0,
        "steps": 0,
        "episodes": 100,
        "demonstrations": 100,
        "seed": 0,
        "threads": 0,
    }
    more = {"peer": os.environ.get("ROBOPOLICY_PEER_LEROBOT", ""), "development": 0}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra, **more)
    tasks = tuple(filter(None, options.tasks.split(","))) or (DEVELOPMENT if options.development else TASKS)
    methods = tuple(filter(None, options.methods.split(","))) or METHODS
    if "lerobot_diffusion" in methods and not options.peer:
        raise SystemExit("--peer PYTHON: the interpreter of an environment with lerobot==0.4.4")
    work = options.work / "small_budget"
    rows: dict[str, dict[str, dict]] = {}
    reports, idle = [], {}
    for task in tasks:
        store = collect(work, task, options)
        for method in methods:
            peer = method == "lerobot_diffusion"
            report = lerobot(work, task, store, options) if peer else ours(work, task, method, store, options)
            reports.append(report)
            rows.setdefault(task, {})[method] = row(report)
            print(f"{task} {method}: {rows[task][method]}", flush=True)
        words = (f"task=metaworld/{task}",)
        idle[task] = evaluate("null", work / f"{task}_null", options.episodes, work / "null.log", *words)[
            "success_rate"
        ]
    print(table(rows, methods))
    print("null policy:", idle)
    if tasks == TASKS and methods == METHODS:
        enter(rows, idle, reports, options)


if __name__ == "__main__":
    main()
