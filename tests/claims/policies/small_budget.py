"""Eight minutes on two cores: the default diffusion recipe beside LeRobot's and BC-RNN-GMM on Meta-World.

    robopolicy bench-env create metaworld
    python tests/claims/policies/small_budget.py --work runs/claims --out docs/results --peer PEER/bin/python

PEER is an environment with lerobot==0.4.4. Budget: full, about three hours on two cores. What is finished in --work is
not done again, method by method, and a training run of ours that was cut is resumed. ``--tasks`` and ``--methods`` (by
commas) do some of it; the entry is written when all is there.

What eight minutes on two cores are worth is measured first, for each method in turn, by one minute of training on both
cores of a machine that does nothing else (``budget.json`` in --work; BC-RNN-GMM with one thread and with two, the
faster counts). The runs then take that many steps, each on one core and two at a time, so that all get the same budget
whatever else the machine does meanwhile.

Per task: 100 demonstrations of the benchmark's expert, executed with Gaussian noise of 0.05 on every action channel
but the gripper while the labels stay clean; state observations (hand, objects, goal); 8 minutes of training on two
cores for each method; the last weights on the 100 first episodes of the split test, with seeds that no demonstration
has; success at any step, as the benchmark says it.

Tasks, chosen for the kind of difficulty before anything was trained on them: free motion (reach), a press in one
direction (button-press-topdown), an articulated object (door-open), pushing on the plane (push), a tool that has to
be grasped and struck with (hammer), grasping and inserting with little play (peg-insert-side). Recipes are developed
on others: pick-place, drawer-open, window-open, sweep-into (``--development 1`` runs those; it writes no entry).
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from functools import partial
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
NOISE, LEAST, MEASURED_MIN = 0.05, 0.90, 1.0
COMMAND = "python tests/claims/policies/small_budget.py --work runs/claims --out docs/results --peer PEER/bin/python"


def collect(work: Path, task: str, options: Namespace) -> Path:
    """Demonstrations; continued if cut."""
    store = work / f"{task}.zarr"
    words = (f"task=metaworld/{task}", f"episodes={options.demonstrations}", f"action_noise.share={NOISE}", "workers=1")
    claim_run.robopolicy("collect", *words, f"out={store}", log=work / f"{task}_collect.log")
    return store


def train_ours(run: Path, method: str, store: Path, seed: int, threads: int, *budget: str) -> dict:
    """One of our recipes; resumed if cut. -> its record: steps, seconds."""
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = [f"recipe={RECIPES[method]}", f"recipe.seed={seed}", f"recipe.threads={threads}", "progress=false"]
            words += [f"recipe.stages.policy.{key}" for key in budget]
            claim_run.robopolicy("train", *words, f"data={store}", f"out={run}", log=log)
    stage = next(iter(json.loads((run / "train.json").read_text())["stages"].values()))
    return {"steps": stage["steps"], "wall_s": stage["wall_s"] + stage["events_s"], "cpu_s": stage["cpu_s"]}


def budgets(work: Path, store: Path, options: Namespace) -> dict[str, dict]:
    """Method -> ``steps`` that the minutes are worth on two cores, and what that was measured from; measured once."""
    kept = work / "budget.json"
    if not kept.is_file():
        found: dict[str, dict] = {}
        for method in METHODS:
            for threads in (1, 2) if method == "bc_rnn_gmm" else (2,):
                run = work / f"budget_{method}_{threads}"
                if method == "lerobot_diffusion":
                    record = train_peer(options.peer, store, run, "--minutes", MEASURED_MIN, "--threads", threads)
                else:
                    limits = ("steps=1000000", f"max_minutes={MEASURED_MIN}")
                    record = train_ours(run, method, store, 0, threads, *limits)
                steps = round(record["steps"] * 60 * options.minutes / record["wall_s"])
                if steps > found.get(method, {"steps": 0})["steps"]:
                    seen = {"measured_steps": record["steps"], "measured_wall_s": round(record["wall_s"], 1)}
                    found[method] = {"steps": steps, "threads": threads, **seen}
        kept.write_text(json.dumps(found, indent=1))
    read: dict[str, dict] = json.loads(kept.read_text())
    return read


def ours(work: Path, task: str, method: str, store: Path, steps: int, options: Namespace) -> dict:
    """The report of one of our recipes, with seconds and steps of its training."""
    run = work / f"{task}_{method}_seed{options.seed}"
    record = train_ours(run, method, store, options.seed, 1, f"steps={steps}")
    report = evaluate(run, run / "eval", options.episodes, Path(f"{run}.log"))
    return {**report, "train_cpu_s": record["cpu_s"], "steps": record["steps"]}


def evaluate(policy: object, out: Path, episodes: int, log: Path, *words: str) -> dict:
    """The report on the unseen episodes."""
    if not (out / "report.html").is_file():
        fixed = (f"policy={policy}", f"episodes={episodes}", "workers=1", "overwrite=true", f"out={out}")
        claim_run.robopolicy("eval", *fixed, *words, log=log)
    return read_report(out)


def lerobot(work: Path, task: str, store: Path, steps: int, options: Namespace) -> dict:
    """The same of LeRobot's."""
    run = work / f"{task}_lerobot_diffusion_seed{options.seed}"
    record = train_peer(options.peer, store, run, "--steps", steps, "--seed", options.seed, "--threads", 1)
    report = evaluate_peer(options.peer, store, run, run / "eval", options.episodes)
    return {**report, "train_cpu_s": record["cpu_s"], "steps": record["steps"]}


def row(report: dict) -> dict:
    """What the ledger keeps of one method on one task."""
    median = report["latency"]["inference_ms"]["p50"]
    return {
        "success": report["success_rate"],
        "wilson_95": [round(bound, 4) for bound in report["wilson_95"]],
        "lost": len(report["lost"]),
        "chunk_ms": round(median, 2),
        "steps": report["steps"],
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


def enter(
    rows: dict[str, dict[str, dict]], idle: dict[str, float], reports: list[dict], worth: dict, options: Namespace
) -> None:
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
        value={"average": means, **rows, "worth of the minutes": worth},
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
    extra = {"tasks": "", "methods": "", "minutes": 8.0, "steps": 0, "episodes": 100, "demonstrations": 100, "seed": 0}
    more = {"peer": os.environ.get("ROBOPOLICY_PEER_LEROBOT", ""), "development": 0, "parallel": 2}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra, **more)
    tasks = tuple(filter(None, options.tasks.split(","))) or (DEVELOPMENT if options.development else TASKS)
    methods = tuple(filter(None, options.methods.split(","))) or METHODS
    if not options.peer:
        raise SystemExit("--peer PYTHON: the interpreter of an environment with lerobot==0.4.4")
    work = options.work / "small_budget"
    stores = {task: collect(work, task, options) for task in tasks}
    worth = budgets(work, stores[tasks[0]], options)
    print(json.dumps(worth, indent=1), flush=True)

    def measured(task: str, method: str) -> dict:
        steps = options.steps or worth[method]["steps"]
        if method == "lerobot_diffusion":
            report = lerobot(work, task, stores[task], steps, options)
        else:
            report = ours(work, task, method, stores[task], steps, options)
        print(f"{task} {method}: {row(report)}", flush=True)
        return report

    pairs = [(task, method) for task in tasks for method in methods]
    reports = claim_run.run_all([partial(measured, *pair) for pair in pairs], options.parallel)
    rows: dict[str, dict[str, dict]] = {}
    for (task, method), report in zip(pairs, reports, strict=True):
        rows.setdefault(task, {})[method] = row(report)
    idle = {}
    for task in tasks:
        words = (f"task=metaworld/{task}",)
        still = evaluate("null", work / f"{task}_null", options.episodes, work / "null.log", *words)
        idle[task] = still["success_rate"]
    print(table(rows, methods))
    print("null policy:", idle)
    if tasks == TASKS and methods == METHODS and not options.steps:
        enter(rows, idle, reports, worth, options)


if __name__ == "__main__":
    main()
