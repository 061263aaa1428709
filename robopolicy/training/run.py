"""``train`` and ``resume``: from a recipe and data to a run directory.

::

    runs/pick/
      config.yaml      recipe and data, resolved      train.json     what came out
      metrics.jsonl    tensorboard/                   checkpoints/   see robopolicy.checkpoint

Several processes, also on a CPU (gloo)::

    accelerate launch --multi_gpu --num_processes 2 -m robopolicy train recipe=pick_place/diffusion data=... out=...
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from robopolicy import checkpoint
from robopolicy.config import build, to_dict
from robopolicy.embodiment import Embodiment
from robopolicy.errors import CheckpointError, ConfigError, DataError, explain
from robopolicy.policies.loading import load_weights
from robopolicy.training.budget import settle_budgets
from robopolicy.training.feed import Source, open_source
from robopolicy.training.interrupt import Interruption
from robopolicy.training.log import RunLog
from robopolicy.training.recipe import Recipe, Stage
from robopolicy.training.stage_context import Rollout, StageContext, micro_batch
from robopolicy.training.trainer import Trainer

__all__ = ["resume", "train"]

CONFIG = "config.yaml"
SUMMARY = "train.json"
PACKAGES = ("torch", "numpy", "diffusers", "accelerate", "robomimic", "zarr")


def train(
    recipe: Recipe | Mapping[str, Any],
    data: str | Path,
    out: str | Path,
    *,
    rollout: Rollout | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train every stage of a recipe on one store, or on a mixture of stores.

    Args:
        recipe: A :class:`Recipe`, or the mapping of its YAML.
        data: Episode store, or the YAML of a mixture.
        out: Run directory; must not hold a run yet.
        rollout: Validation in the world, see :class:`~robopolicy.training.stage_context.Rollout`.
        progress: Show a bar.

    Returns:
        The summary that is also written to ``train.json``.

    Raises:
        ConfigError: faulty recipe, or ``out`` already holds a run.
        StoreNotFoundError, DataError: the store is absent, empty, or lacks a stream.
        NonFiniteError, StorageError, TrainingInterrupted: see :class:`~robopolicy.training.trainer.Trainer`.
    """
    built = recipe if isinstance(recipe, Recipe) else build(Recipe, recipe, where="recipe")
    out = Path(out)
    accelerator = _accelerator(built)
    if (out / CONFIG).exists() and any((out / "checkpoints").glob("*/step_*")):
        raise ConfigError(
            explain(
                "out already holds a run", given=out, mend=f"robopolicy train --resume {out}, or choose another out"
            )
        )
    source = open_source(data)
    built, measured = _settled(built, source, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_config(out, built, source, measured)
    accelerator.wait_for_everyone()
    return _run(built, source, out, accelerator, None, rollout, progress)


def resume(
    run_dir: str | Path, *, data: str | Path | None = None, rollout: Rollout | None = None, progress: bool = True
) -> dict[str, Any]:
    """Continue a run from its newest complete checkpoint, or from the start if it has none.

    Args:
        run_dir: What ``train`` wrote to.
        data: The store, if it moved; its content must be the same. A mixture's stores are where they were.
        rollout: As in :func:`train`.
        progress: Show a bar.

    Returns:
        The summary that is also written to ``train.json``.

    Raises:
        CheckpointError: no run there, or its newest checkpoint is damaged.
        DataError: the store's content changed.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(explain(f"no run to resume: {run_dir} has no {CONFIG}", mend="check the path"))
    config = yaml.safe_load((run_dir / CONFIG).read_text())
    recipe = build(Recipe, config["recipe"], where="recipe")
    accelerator = _accelerator(recipe)
    path = Path(data if data is not None else config["data"]["path"])
    source = open_source(path, config["data"])
    if source.content_hash != config["data"]["content_hash"]:
        raise DataError(
            explain(
                "the store is not the one that the run began with",
                given=f"{path} ({source.content_hash})",
                allowed=config["data"]["content_hash"],
                mend="resume on the same data, or start a new run",
            )
        )
    has_any = any((run_dir / "checkpoints").glob("*/step_*/manifest.json"))
    stored = checkpoint.load(checkpoint.latest(run_dir)) if has_any else None
    return _run(recipe, source, run_dir, accelerator, stored, rollout, progress)


def _accelerator(recipe: Recipe) -> Accelerator:
    by_launcher = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_ADDR" in os.environ
    if by_launcher and "RANK" not in os.environ:
        raise ConfigError(
            explain(
                "'accelerate launch --cpu --num_processes N' starts a single process",
                mend="use 'accelerate launch --multi_gpu --num_processes N -m robopolicy train ...', "
                "which also runs on a machine without GPU (gloo)",
            )
        )
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # accelerate keeps one process-wide state; a second run in this process may ask for another precision.
    if AcceleratorState._shared_state and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    on_cpu = recipe.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if recipe.mixed_precision == "fp16" and on_cpu:
        raise ConfigError(explain("fp16 needs a GPU", given="fp16", allowed=("no", "bf16"), mend="use bf16 on a CPU"))
    return Accelerator(cpu=on_cpu, mixed_precision=recipe.mixed_precision, step_scheduler_with_optimizer=False)


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    source: Source
    run_dir: Path
    accelerator: Accelerator
    documents: dict[str, Any]
    rollout: Rollout | None


def _run(
    recipe: Recipe,
    source: Source,
    out: Path,
    accelerator: Accelerator,
    stored: checkpoint.Checkpoint | None,
    rollout: Rollout | None,
    progress: bool,
) -> dict[str, Any]:
    entry = source.describe()
    if not source.num_episodes:
        raise DataError(explain("the store has no episodes", given=entry["path"], mend="collect some first"))
    embodiment = source.embodiment
    if stored is not None and "mixture" not in entry:
        Embodiment.from_dict(stored.document("embodiment")).require_same(
            embodiment, mine=f"the checkpoint {stored.path}", theirs=f"the store {entry['path']}"
        )
    documents = {"recipe": to_dict(recipe), "data": entry}
    job = _Job(recipe, source, out, accelerator, documents, rollout)
    first = 0 if stored is None else int(stored.document("trainer")["stage_index"])
    finished: dict[str, Any] = {}
    log = RunLog(out, active=accelerator.is_main_process, progress=progress)
    with Interruption() as interruption, log:
        for index, (name, stage) in enumerate(recipe.stages.items()):
            if index < first:
                continue
            if stored is None and stage.max_minutes is not None:
                log.say(f"stage '{name}': {stage.steps} steps in {stage.max_minutes:g} minutes")
            trainer = _trainer(job, index, name, stage, log, interruption)
            if index == first and stored is not None:
                trainer.restore(stored)
                log.say(f"resumed stage '{name}' at step {trainer.step} of {stage.steps}")
            try:
                trainer.fit()
            finally:
                trainer.context.train.close()
            finished[name] = {"steps": trainer.step, **trainer.last, **trainer.seconds}
    summary = _summary(recipe, finished, documents["data"], embodiment, accelerator)
    if accelerator.is_main_process:
        checkpoint.write_json(out / SUMMARY, summary)
    return summary


def _trainer(job: _Job, index: int, name: str, stage: Stage, log: RunLog, interruption: Interruption) -> Trainer:
    recipe, accelerator = job.recipe, job.accelerator
    feed = job.source.feed(stage, name, recipe, micro_batch(stage, accelerator.num_processes))
    policy = feed.policy
    if tiers := getattr(feed.train.dataset, "tiers", {}):
        log.say("frames: " + ", ".join(f"{name} {tier}" for name, tier in tiers.items()))
    if stage.initialize_from is not None:
        _initialize(policy, job, stage.initialize_from)
    policy.to(accelerator.device)
    context = StageContext(
        index=index,
        name=name,
        run_dir=job.run_dir,
        train=feed.train,
        train_size=feed.train_size,
        validation=feed.validation,
        validation_indices=feed.validation_indices,
        documents={
            **job.documents,
            "embodiment": policy.spec.embodiment.to_dict(),
            "normalizer": feed.normalizer.to_dict(),
        },
        rollout=job.rollout,
        order=feed.order,
    )
    return Trainer(policy, stage, recipe, context, accelerator, log, interruption)


def _initialize(policy: torch.nn.Module, job: _Job, stage: str) -> None:
    names = list(job.recipe.stages)
    folder = job.run_dir / "checkpoints" / f"{names.index(stage)}_{stage}"
    steps = sorted(p.parent for p in folder.glob("step_*/manifest.json"))
    if not steps:
        raise CheckpointError(explain(f"stage '{stage}' has no checkpoint to start from", mend="run it first"))
    stored = checkpoint.load(steps[-1])
    take_over = getattr(policy, "take_over", None)  # of a policy that is another than the one that was trained before
    if take_over is None:
        load_weights(policy, stored.tensors("ema"), steps[-1])
    else:
        take_over(stored)


def _settled(recipe: Recipe, source: Source, accelerator: Accelerator) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with budgets in steps, see :mod:`robopolicy.training.budget`."""
    if not source.num_episodes or not any(stage.max_minutes for stage in recipe.stages.values()):
        return recipe, {}

    def throwaway(index: int, name: str, stage: Stage, folder: Path) -> Trainer:
        documents = {"recipe": to_dict(recipe), "data": source.describe()}
        job = _Job(recipe, source, folder, accelerator, documents, None)
        # its weights do not matter, and the stage that it would start from has not run yet
        alone = dataclasses.replace(stage, initialize_from=None)
        return _trainer(job, index, name, alone, RunLog(folder, active=False, progress=False), Interruption())

    return settle_budgets(recipe, throwaway, accelerator)


def _write_config(out: Path, recipe: Recipe, source: Source, measured: Mapping[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"recipe": to_dict(recipe), "data": source.describe()}
    if measured:
        content["budget"] = dict(measured)
    text = f"# robopolicy train --resume {out}\n" + yaml.safe_dump(content, sort_keys=False)
    checkpoint.write_text(out / CONFIG, text)


def _summary(
    recipe: Recipe, stages: dict[str, Any], data: dict[str, Any], embodiment: Embodiment, accelerator: Accelerator
) -> dict[str, Any]:
    total = {k: sum(s[k] for s in stages.values()) for k in ("wall_s", "cpu_s", "steps")}
    return {
        "stages": stages,
        **total,
        "seed": recipe.seed,
        "data": data,
        "embodiment": {"name": embodiment.name, "hash": embodiment.hash},
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "mixed_precision": recipe.mixed_precision,
        "versions": {"python": platform.python_version(), "robopolicy": _version("robopolicy")}
        | {p: _version(p) for p in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
