"""Train one recipe with many settings and seeds, evaluate each, and put all in one table.

Every key of robopolicy train may be given several values, in Hydra's grammar: seed=0,1,2 (short for recipe.seed),
key=choice(a,b), key=range(0,5). All combinations are run, each in a folder named after them. Given again, what is
finished is kept, what was cut is resumed, and what failed is tried again; one failure does not stop the others.
sweep.md and sweep.json in the folder are written after every job: validation loss, success with its Wilson interval,
CPU seconds, and seeds pooled. Settings are chosen on the split val; evaluate the one that you choose on test.

Examples:
  robopolicy sweep recipe=pick_place/diffusion data=runs/pick.zarr out=runs/seeds seed=0,1,2 eval.episodes=50
  robopolicy sweep data=runs/pick.zarr out=runs/lr seed=0,1 recipe.stages.policy.optimizer.lr=1e-3,3e-3 workers=2
  robopolicy sweep recipe=push_t/diffusion,push_t/behaviour_cloning data=runs/push_t.zarr out=runs/both
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.cli.arguments import parse, split_arguments
from robopolicy.config import setting
from robopolicy.schema import fields_of

__all__ = ["CONFIG", "SweepConfig", "SweepEval", "run"]


@dataclass(frozen=True)
class SweepEval:
    """Rollouts after each training run."""

    episodes: int = setting("how many, 0 for none", ge=0)
    task: str | None = setting("null: the one of the data", registry="task")
    embodiment: str | None = setting("of a policy of several robots")
    split: Literal["val", "test", "train"] = setting("val to choose settings by")
    workers: int = setting("processes that simulate", ge=1)


@dataclass(frozen=True)
class SweepConfig:
    """Keys of ``robopolicy sweep``; all others are those of ``robopolicy train``."""

    out: str = setting("folder of the jobs and of the table")
    eval: SweepEval = setting("rollouts after training, for example eval.episodes=50")
    backend: Literal["local", "ray"] = setting("processes on this machine, or tasks of Ray")
    workers: int = setting("jobs at a time", ge=1)
    threads: int | None = setting("CPU threads of a job; null: see configs/sweep.yaml", ge=1)


CONFIG = SweepConfig


def run(argv: Sequence[str]) -> int:
    """Run what is missing. Returns 1 if a job failed, 130 if a signal stopped the sweep."""
    from robopolicy.cli.sweep_grid import read_grid
    from robopolicy.cli.sweep_job import INTERRUPTED, last_line, read_outcome
    from robopolicy.cli.sweep_run import carry_out, specs_of
    from robopolicy.cli.sweep_table import write_table

    _, words = split_arguments(argv)
    own = [word for word in words if word.lstrip("+~").partition("=")[0].partition(".")[0] in fields_of(SweepConfig)]
    config = parse(SweepConfig, "sweep", own)
    jobs = read_grid([word for word in words if word not in own])
    specs = specs_of(jobs, config)
    command, out = shlex.join(["robopolicy", "sweep", *argv]), Path(config.out)
    outcomes: list[dict[str, Any]] = [read_outcome(spec) for spec in specs]
    left = [number for number, outcome in enumerate(outcomes) if outcome["status"] != "finished"]
    _say(f"{len(jobs)} jobs, {len(jobs) - len(left)} finished before")
    text = write_table(out, jobs, outcomes, command)

    def done(place: int, code: int) -> None:
        nonlocal text
        number = left[place]
        outcomes[number] = read_outcome(specs[number])
        if code not in (0, INTERRUPTED):
            outcomes[number] |= {"status": "failed", "why": f"exit code {code}: {last_line(specs[number])}"}
        text = write_table(out, jobs, outcomes, command)
        _say(f"{jobs[number].name}: {outcomes[number]['status']}")

    whole = carry_out([specs[number] for number in left], config, done)
    print(text)
    print(f"table: {out / 'sweep.md'}")
    for job, spec, outcome in zip(jobs, specs, outcomes, strict=True):
        if outcome["status"] == "failed":
            _say(f"failed: {job.name}: {outcome['why']}; log: {spec.folder}/job.log")
    if not whole:
        _say("stopped; the same command goes on")
        return INTERRUPTED
    return int(any(outcome["status"] != "finished" for outcome in outcomes))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
