"""Train a policy by a recipe, or go on with a run that was stopped.

Ctrl-C writes a checkpoint and says how to resume; a resumed run gives the same bits as one that was never stopped.
The keys of a recipe are set as recipe.stages.<stage>.<key>=value, those of the policy as
recipe.stages.<stage>.parameters.<key>=value. On several processes: accelerate launch -m robopolicy train ...

Options:
  --resume DIR   continue the run in DIR; only data= may be given with it, if the store has moved

Examples:
  robopolicy train recipe=pick_place/diffusion data=runs/pick.zarr out=runs/pick
  robopolicy train --resume runs/pick
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse, split_arguments
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain
from robopolicy.training.recipe import Recipe

__all__ = ["CONFIG", "TrainConfig", "run"]


@dataclass(frozen=True)
class TrainConfig:
    """Keys of ``robopolicy train``."""

    recipe: Recipe = setting("stages and what they share; robopolicy list recipes")
    data: str = setting("episode store to learn from")
    out: str = setting("run directory to make")
    progress: bool = setting("show a progress bar")
    rollout_episodes: int = setting("episodes of each validation rollout", ge=1)


CONFIG = TrainConfig


def run(argv: Sequence[str]) -> int:
    """Train, then print where the run is. Returns 130 when it was stopped by a signal, its checkpoint written."""
    named, overrides = split_arguments(argv, options=("resume",))
    config = None if "resume" in named else parse(TrainConfig, "train", overrides)
    data = _moved_store(overrides) if config is None else None
    from robopolicy.assess import ValidationRollout
    from robopolicy.training.interrupt import TrainingInterrupted
    from robopolicy.training.run import resume, train

    try:
        if config is None:
            out = named["resume"]
            summary = resume(out, data=data, rollout=ValidationRollout())
        else:
            out = config.out
            rollout = ValidationRollout(config.rollout_episodes)
            summary = train(config.recipe, config.data, out, rollout=rollout, progress=config.progress)
    except TrainingInterrupted as stop:
        print(stop.message, file=sys.stderr)
        return 130
    print(f"trained {summary['steps']} steps in {summary['wall_s']:.0f} s: {out}")
    print(f"next: robopolicy eval {out} out={out}/eval")
    return 0


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
