"""Train a policy by a recipe, or go on with a run that was stopped.

Ctrl-C writes a checkpoint and says how to resume; a resumed run gives the same bits as one that was never stopped.
The keys of a recipe are set as recipe.stages.<stage>.<key>=value, those of the policy as
recipe.stages.<stage>.parameters.<key>=value. On several processes, with or without GPUs:
accelerate launch --multi_gpu --num_processes N -m robopolicy train ...

Options:
  --resume DIR   continue the run in DIR; only data= may be given with it, if the store has moved

Examples:
  robopolicy train recipe=pick_place/diffusion data=runs/pick.zarr out=runs/pick
  robopolicy train recipe=pick_place/diffusion data=configs/mixture/arms.yaml out=runs/arms
  robopolicy train --resume runs/pick
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from robopolicy.cli.arguments import parse, split_arguments
from robopolicy.config import build, setting
from robopolicy.errors import CommandError, explain
from robopolicy.registry import benchmark_task, registry
from robopolicy.training.recipe import Recipe

if TYPE_CHECKING:
    from robopolicy.assess import ValidationRollout

__all__ = ["CONFIG", "TrainConfig", "run"]


DEFAULT_ROLLOUT_EPISODES = 20
"""Of a resumed run, which has no key for it."""


@dataclass(frozen=True)
class TrainConfig:
    """Keys of ``robopolicy train``."""

    recipe: Recipe = setting("stages and what they share; robopolicy list recipes")
    data: str = setting("episode store to learn from, or the YAML of a mixture of stores")
    out: str = setting("run directory to make")
    progress: bool = setting("show a progress bar")
    rollout_episodes: int = setting("episodes of each validation rollout", ge=1)


CONFIG = TrainConfig


def run(argv: Sequence[str]) -> int:
    """Train, then print where the run is. Returns 130 when it was stopped by a signal, its checkpoint written."""
    named, overrides = split_arguments(argv, options=("resume",))
    config = None if "resume" in named else parse(TrainConfig, "train", overrides)
    data = _moved_store(overrides) if config is None else None
    from robopolicy.training.interrupt import TrainingInterrupted
    from robopolicy.training.run import resume, train

    try:
        if config is None:
            out = named["resume"]
            summary = resume(out, data=data, rollout=_rollout_of_run(out, data))
        else:
            out = config.out
            rollout = _rollout(config.recipe, config.data, config.rollout_episodes)
            summary = train(config.recipe, config.data, out, rollout=rollout, progress=config.progress)
    except TrainingInterrupted as stop:
        print(stop.message, file=sys.stderr)
        return 130
    if os.environ.get("RANK", "0") == "0":  # under a launcher every process comes here
        print(f"trained {summary['steps']} steps in {summary['wall_s']:.0f} s: {out}")
        cards = [entry["embodiment"]["name"] for entry in summary["data"].get("stores", ())]
        which = f"embodiment={cards[0]} " if cards else ""  # a policy of several robots has to be told
        print(f"next: robopolicy eval {out} {which}out={out}/eval")
    return 0


def _rollout(recipe: Recipe, data: str, episodes: int) -> ValidationRollout | None:
    """What the trainer calls for validation in the world; None if no stage asks for it."""
    if not any(stage.validation.rollout_every for stage in recipe.stages.values()):
        return None
    from robopolicy.assess import ValidationRollout

    task = _task_of(data)
    benchmark_task(task)  # refuses what is not known
    return ValidationRollout(task, episodes)


def _task_of(data: str) -> str:
    """Task of the store; of a mixture, the first that can be simulated."""
    from robopolicy.data.mixture_config import is_mixture, read_mixture
    from robopolicy.data.store import EpisodeStore

    paths = [member.path for member in read_mixture(data).stores] if is_mixture(data) else [data]
    tasks = []
    for path in paths:
        with EpisodeStore.open(path) as store:
            tasks.append(store.task)
    known, benchmarks = registry("task").names(), registry("benchmark").names()
    return next((task for task in tasks if task in known or task.partition("/")[0] in benchmarks), tasks[0])


def _rollout_of_run(run_dir: str, data: str | None) -> ValidationRollout | None:
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        return None  # resume() says what is wrong with that folder
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe = build(Recipe, stored["recipe"], where="recipe")
    return _rollout(recipe, data or stored["data"]["path"], DEFAULT_ROLLOUT_EPISODES)


def _moved_store(overrides: Sequence[str]) -> str | None:
    for override in overrides:
        if not override.startswith("data="):
            raise CommandError(
                explain(
                    "a resumed run keeps its configuration",
                    given=override,
                    allowed="data=PATH, if the store has moved",
                    mend="start a new run to change it",
                )
            )
    return overrides[-1].removeprefix("data=") if overrides else None
