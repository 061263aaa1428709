"""Time from the start of training to 90 % success on pick_place, beside LeRobot's DiffusionPolicy on the same data.

    python tests/claims/policies/time_to_success.py --work runs/claims --out docs/results --peer PEER/bin/python

PEER is an environment with lerobot==0.4.4. Budget: full, up to an hour and a half on two cores; nothing else may run
on the machine meanwhile. What is finished in --work is not done again; a training run of ours that was cut is
resumed.

Both learn from the same 200 demonstrations. Checkpoints are kept at growing times (each 1.25 times the one before).
They are looked at in that order on 50 episodes of the split val; the first with 90 % there is asked to confirm it on
100 episodes of the split test, and the search goes on if it does not. Its time is the clock of training up to it,
validation and checkpoints included, evaluation excluded; for LeRobot, which has to be told the length of its
learning-rate schedule, the earliest over several lengths (--peer-minutes).
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import claim_run
from lerobot_peer import evaluate_peer, train_peer

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report

RECIPE, LEVEL, GROWTH, MOST_RATIO = "pick_place/diffusion", 0.90, 1.25, 0.5
COMMAND = "python tests/claims/policies/time_to_success.py --work runs/claims --out docs/results --peer PEER/bin/python"


def collect(work: Path, demonstrations: int) -> Path:
    """Demonstrations; continued if cut."""
    store = work / "pick_place.zarr"
    words = ("task=pick_place", "embodiment=panda", f"episodes={demonstrations}", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def train(work: Path, store: Path, options: Namespace) -> list[tuple[Path, dict]]:
    """Our checkpoints in order, each with ``wall_s``, ``cpu_s``, ``step``."""
    run = work / f"ours_seed{options.seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = [f"recipe={RECIPE}", f"recipe.seed={options.seed}", f"recipe.threads={options.threads}"]
            words += [f"recipe.stages.policy.steps={options.steps}"] if options.steps else []
            words += [f"recipe.stages.policy.checkpoint_every={options.every}", "recipe.keep_last=100000"]
            claim_run.robopolicy("train", *words, "progress=false", f"data={store}", f"out={run}", log=log)
    found = []
    for path in sorted(run.glob("checkpoints/*/step_*/trainer.json")):
        trainer = json.loads(path.read_text())
        seconds = trainer["seconds"]
        record = {"step": trainer["step"], "wall_s": seconds["wall_s"] + seconds["events_s"]}
        found.append((path.parent, {**record, "cpu_s": seconds["cpu_s"]}))
    return found


def spread(snapshots: list[tuple[Path, dict]]) -> list[tuple[Path, dict]]:
    """Those at growing times, and the last."""
    chosen: list[tuple[Path, dict]] = []
    for snapshot in snapshots:
        if not chosen or snapshot[1]["wall_s"] >= GROWTH * chosen[-1][1]["wall_s"] or snapshot is snapshots[-1]:
            chosen.append(snapshot)
    return chosen


def first_success(
    snapshots: list[tuple[Path, dict]], rate: Callable[[Path, str, int], float], options: Namespace
) -> dict:
    """The first checkpoint that reaches the level on val and confirms it on test; ``reached`` False if none does."""
    looked = []
    for path, record in snapshots:
        seen = rate(path, "val", options.episodes)
        entry = {**record, "val": seen}
        looked.append(entry)
        print(f"{path}: {entry}", flush=True)
        if seen >= LEVEL:
            entry["test"] = rate(path, "test", options.confirm)
            if entry["test"] >= LEVEL:
                return {"reached": True, **entry, "looked_at": looked}
    return {"reached": False, **looked[-1], "looked_at": looked}


def of_peer(work: Path, store: Path, minutes: float, options: Namespace) -> dict:
    """The same for one length of LeRobot's schedule."""
    run = work / f"lerobot_{minutes:g}min_seed{options.seed}"
    words: list[object] = ["--steps", options.steps] if options.steps else ["--minutes", minutes]
    words += ["--seed", options.seed, "--threads", options.threads, "--growth", GROWTH]
    train_peer(options.peer, store, run, *words, "--first-snapshot-s", options.first)
    snapshots = []
    for path in sorted(run.glob("step_*/record.json")):
        record = json.loads(path.read_text())
        snapshots.append((path.parent, {key: record[key] for key in ("step", "wall_s", "cpu_s")}))

    def rate(path: Path, split: str, episodes: int) -> float:
        return evaluate_peer(options.peer, store, path, path / f"eval_{split}", episodes, split)["success_rate"]

    return {"schedule_minutes": minutes, **first_success(snapshots, rate, options)}


def of_ours(work: Path, store: Path, options: Namespace) -> dict:
    """Ours."""

    def rate(path: Path, split: str, episodes: int) -> float:
        out = work / "ours_eval" / f"seed{options.seed}_{path.name}_{split}"
        if not (out / "report.html").is_file():
            words = (f"episodes={episodes}", f"split={split}", "workers=1", "overwrite=true", f"out={out}")
            claim_run.robopolicy("eval", path, *words, log=work / "ours_eval.log")
        return read_report(out)["success_rate"]

    return first_success(spread(train(work, store, options)), rate, options)


def null_rate(work: Path, options: Namespace) -> float:
    """Success of doing nothing."""
    out = work / "null"
    if not (out / "report.html").is_file():
        words = ("policy=null", "task=pick_place", "embodiment=panda", f"episodes={options.episodes}", "split=val")
        claim_run.robopolicy("eval", *words, "workers=1", f"out={out}", log=work / "null.log")
    return read_report(out)["success_rate"]


def main() -> None:
    """Run what is missing, then write the entry."""
    extra = {"episodes": 50, "confirm": 100, "demonstrations": 200, "seed": 0, "threads": 2, "every": 100, "steps": 0}
    peer = {"peer": os.environ.get("ROBOPOLICY_PEER_LEROBOT", ""), "peer-minutes": "15,40", "first": 30.0}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra, **peer)
    if not options.peer:
        raise SystemExit("--peer PYTHON: the interpreter of an environment with lerobot==0.4.4")
    work = options.work / "time_to_success"
    store = collect(work, options.demonstrations)
    ours = of_ours(work, store, options)
    lengths = [float(minutes) for minutes in options.peer_minutes.split(",")]
    theirs = [of_peer(work, store, minutes, options) for minutes in lengths]
    reached = [found for found in theirs if found["reached"]]
    # one that never gets there took at least as long as it was given
    best = min(reached, key=lambda f: f["wall_s"]) if reached else max(theirs, key=lambda f: f["wall_s"])
    ratio = ours["wall_s"] / best["wall_s"]
    still = null_rate(work, options)
    result = ClaimResult(
        claim=f"{RECIPE}: time from start of training to {LEVEL:.0%} success, against LeRobot's DiffusionPolicy",
        source="Chi et al. 2023, arXiv 2303.04137; LeRobot 0.4.4",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"reached, in at most {MOST_RATIO} of its time",
        value={
            "ratio": round(ratio, 3),
            "ratio of CPU seconds": round(ours["cpu_s"] / best["cpu_s"], 3),
            "seconds": round(ours["wall_s"], 1),
            "LeRobot's seconds": round(best["wall_s"], 1),
            "LeRobot reached it": bool(reached),
            "ours": ours,
            "LeRobot": theirs,
        },
        interval=None,
        n=options.confirm,
        seeds=(options.seed,),
        control={"what": "null policy", "value": still, "failed": still < LEVEL / 2},
        passed=bool(ours["reached"] and ratio <= MOST_RATIO and still < LEVEL / 2),
        cpu_s=round(ours["cpu_s"] + sum(found["cpu_s"] for found in theirs), 1),
    )
    claim_run.write(result, options.out, "policies", "time_to_success")


if __name__ == "__main__":
    main()
