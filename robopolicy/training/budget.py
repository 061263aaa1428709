"""A stage's budget in minutes, turned into a number of steps before training begins.

The learning rate, the order of samples and the end of a stage are functions of the step, so a run that is resumed has
to have the same number of steps as one that was not stopped. A clock that ends training would break that. So the clock
is read first: a throwaway copy of the stage takes a few steps on its own data, and what they took divides what is left
of the minutes. The number found goes into config.yaml, and resuming reads it from there::

    | warm-up | measured steps | one validation, one checkpoint |  steps = what is left / s per step  |
    '--------------------------------------- max_minutes -------------------------------------------'
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from robopolicy.training.recipe import Recipe, Stage
from robopolicy.training.trainer import Trainer

__all__ = ["Measured", "measure_stage", "settle_budgets", "steps_within"]

WARM_UP_STEPS = 5
"""Not counted: the first steps allocate memory and may compile."""
MEASURED_SHARE = 0.02
"""Of the budget that measuring may take."""
LEAST_STEPS = 5


@dataclass(frozen=True)
class Measured:
    """What one stage takes on this machine, as it is loaded now.

    Attributes:
        step_s: One optimiser step, with its batch.
        validation_s, checkpoint_s: One of each; 0 where the stage has none.
        warm_up_s: The first steps of a run, beyond what steps take later on.
        used_s: What measuring took.
        measured_steps: Steps behind ``step_s``.
    """

    step_s: float
    validation_s: float
    checkpoint_s: float
    warm_up_s: float
    used_s: float
    measured_steps: int


def steps_within(budget_s: float, measured: Measured, stage: Stage) -> int:
    """Steps of ``stage`` that fit into ``budget_s``, at least one and at most ``stage.steps``."""
    every = stage.validation.every
    step_s = measured.step_s + measured.checkpoint_s / stage.checkpoint_every
    if every:
        step_s += measured.validation_s / every
    # the end of a stage validates and saves, whatever the step
    ends_s = measured.validation_s + measured.checkpoint_s
    left_s = budget_s - measured.used_s - measured.warm_up_s - ends_s
    return max(1, min(stage.steps, int(left_s / max(step_s, 1e-9))))


def settle_budgets(
    recipe: Recipe, make: Callable[[int, str, Stage, Path], Trainer], accelerator: Accelerator
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with the steps of every stage that has ``max_minutes``, and what was measured for it.

    Args:
        recipe: As the user gave it.
        make: (index, name, stage, folder) -> a trainer of that stage that nobody else uses, on the folder.
        accelerator: All processes measure; the first one's figures count.

    Returns:
        The recipe to train, and by stage ``max_minutes``, ``steps``, ``at_most`` and the fields of :class:`Measured`.
    """
    stages, report = dict(recipe.stages), {}
    for index, (name, stage) in enumerate(recipe.stages.items()):
        if stage.max_minutes is None:
            continue
        budget_s = 60.0 * stage.max_minutes
        measured = measure_stage(lambda folder, i=index, n=name, s=stage: make(i, n, s, folder), budget_s)  # type: ignore[misc]
        told = [steps_within(budget_s, measured, stage)]
        if accelerator.num_processes > 1:
            broadcast_object_list(told)
        stages[name] = dataclasses.replace(stage, steps=told[0])
        report[name] = {"max_minutes": stage.max_minutes, "steps": told[0], "at_most": stage.steps}
        report[name] |= dataclasses.asdict(measured)
    return (dataclasses.replace(recipe, stages=stages) if report else recipe), report


def measure_stage(make: Callable[[Path], Trainer], budget_s: float) -> Measured:
    """Time a few steps, a validation and a checkpoint of a throwaway trainer.

    Args:
        make: Folder -> trainer. Building it and its data is not counted: every run does that, whatever its budget.
        budget_s: Of the stage, seconds.
    """
    with tempfile.TemporaryDirectory(prefix="robopolicy-budget-") as folder:
        trainer = make(Path(folder))
        try:
            return _measure(trainer, budget_s)
        finally:
            trainer.context.train.close()
            trainer.accelerator.free_memory()


def _measure(trainer: Trainer, budget_s: float) -> Measured:
    clock = time.monotonic
    begin = clock()
    batches = trainer.batches()
    warm = min(WARM_UP_STEPS, max(trainer.stage.steps - 1, 0))
    for _ in range(warm):
        trainer.advance(batches)
    warmed = clock()
    steps = 0
    while trainer.step < trainer.stage.steps:
        trainer.advance(batches)
        steps += 1
        if clock() - warmed > MEASURED_SHARE * budget_s and steps >= LEAST_STEPS:
            break
    stepped = clock()
    if trainer.stage.validation.every:
        trainer.validate()
    validated = clock()
    trainer.save()
    end = clock()
    step_s = (stepped - warmed) / max(steps, 1)
    return Measured(
        step_s=step_s,
        validation_s=validated - stepped,
        checkpoint_s=end - validated,
        warm_up_s=max(warmed - begin - warm * step_s, 0.0),
        used_s=end - begin,
        measured_steps=steps,
    )
