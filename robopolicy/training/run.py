"""``train`` and ``resume``: from a recipe and a store to a run directory.

::

    runs/pick/
      config.yaml      recipe and data, resolved      train.json     what came out
      metrics.jsonl    tensorboard/                   checkpoints/   see robopolicy.checkpoint

Several processes, also on a CPU (gloo)::

    accelerate launch --multi_gpu --num_processes 2 -m robopolicy train recipe=pick_place/diffusion data=... out=...
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from robopolicy import checkpoint
from robopolicy.config import build, to_dict
from robopolicy.data.loader import Loader
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import CheckpointError, ConfigError, DataError, explain
from robopolicy.normalize import Normalizer
from robopolicy.policies.loading import build_policy, derived_ranges, load_weights
from robopolicy.protocols import PolicySpec
from robopolicy.seeding import generator
from robopolicy.training.interrupt import Interruption
from robopolicy.training.log import RunLog
from robopolicy.training.recipe import Recipe, Stage
from robopolicy.training.trainer import Rollout, StageContext, Trainer, micro_batch

__all__ = ["resume", "train"]

CONFIG = "config.yaml"
SUMMARY = "train.json"
MOST_RANGE_WINDOWS = 200_000
PACKAGES = ("torch", "numpy", "diffusers", "accelerate", "robomimic", "zarr")


def train(
    recipe: Recipe | Mapping[str, Any],
    data: str | Path,
    out: str | Path,
    *,
    rollout: Rollout | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train every stage of a recipe on one store.

    Args:
        recipe: A :class:`Recipe`, or the mapping of its YAML.
        data: Episode store.
        out: Run directory; must not hold a run yet.
        rollout: Validation in the world, see :class:`~robopolicy.training.trainer.Rollout`.
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
    store = EpisodeStore.open(Path(data))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_config(out, built, Path(data), store)
    accelerator.wait_for_everyone()
    return _run(built, store, Path(data), out, accelerator, None, rollout, progress)


def resume(
    run_dir: str | Path, *, data: str | Path | None = None, rollout: Rollout | None = None, progress: bool = True
) -> dict[str, Any]:
    """Continue a run from its newest complete checkpoint, or from the start if it has none.

    Args:
        run_dir: What ``train`` wrote to.
        data: The store, if it moved; its content must be the same.
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
    store = EpisodeStore.open(path)
    if store.content_hash != config["data"]["content_hash"]:
        raise DataError(
            explain(
                "the store is not the one that the run began with",
                given=f"{path} ({store.content_hash})",
                allowed=config["data"]["content_hash"],
                mend="resume on the same store, or start a new run",
            )
        )
    has_any = any((run_dir / "checkpoints").glob("*/step_*/manifest.json"))
    stored = checkpoint.load(checkpoint.latest(run_dir)) if has_any else None
    return _run(recipe, store, path, run_dir, accelerator, stored, rollout, progress)


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
    store: Any
    run_dir: Path
    accelerator: Accelerator
    documents: dict[str, Any]
    rollout: Rollout | None


def _run(
    recipe: Recipe,
    store: Any,
    data: Path,
    out: Path,
    accelerator: Accelerator,
    stored: checkpoint.Checkpoint | None,
    rollout: Rollout | None,
    progress: bool,
) -> dict[str, Any]:
    if not store.num_episodes:
        raise DataError(explain("the store has no episodes", given=data, mend="collect some first"))
    embodiment: Embodiment = store.embodiment
    if stored is not None:
        Embodiment.from_dict(stored.document("embodiment")).require_same(
            embodiment, mine=f"the checkpoint {stored.path}", theirs=f"the store {data}"
        )
    documents = {
        "embodiment": embodiment.to_dict(),
        "recipe": to_dict(recipe),
        "data": _data_entry(data, store),
    }
    job = _Job(recipe, store, out, accelerator, documents, rollout)
    first = 0 if stored is None else int(stored.document("trainer")["stage_index"])
    finished: dict[str, Any] = {}
    log = RunLog(out, active=accelerator.is_main_process, progress=progress)
    with Interruption() as interruption, log:
        for index, (name, stage) in enumerate(recipe.stages.items()):
            if index < first:
                continue
            trainer = _trainer(job, index, name, stage, log, interruption)
            if index == first and stored is not None:
                trainer.restore(stored)
                log.say(f"resumed stage '{name}' at step {trainer.step} of {stage.steps}")
            trainer.fit()
            finished[name] = {"steps": trainer.step, **trainer.last, **trainer.seconds}
    summary = _summary(recipe, finished, documents["data"], embodiment, accelerator)
    if accelerator.is_main_process:
        checkpoint.write_json(out / SUMMARY, summary)
    return summary


def _trainer(job: _Job, index: int, name: str, stage: Stage, log: RunLog, interruption: Interruption) -> Trainer:
    recipe, store, accelerator = job.recipe, job.store, job.accelerator
    micro = micro_batch(stage, accelerator.num_processes)
    training, held_out = train_val_episodes(store.num_episodes, stage.validation.fraction, recipe.seed)
    normalizer = _normalizer(store, stage, training)
    torch.manual_seed(int(generator("weights", recipe.seed, name).integers(2**63)))
    policy = build_policy(
        stage.policy,
        stage.parameters,
        embodiment=store.embodiment,
        normalizer=normalizer,
        environment_state=len(store.environment_state_names),
    )
    if not isinstance(policy, torch.nn.Module) or not hasattr(policy, "loss"):
        raise ConfigError(explain(f"policy '{stage.policy}' of stage '{name}' cannot be trained", allowed="diffusion"))
    if stage.initialize_from is not None:
        _initialize(policy, job, stage.initialize_from)
    policy.to(accelerator.device)
    spec = _window_spec(cast(PolicySpec, policy.spec), store)
    windows = WindowDataset(store, spec, episodes=training)
    validation, indices = _validation(store, spec, held_out, stage, recipe.seed)
    context = StageContext(
        index=index,
        name=name,
        run_dir=job.run_dir,
        train=Loader(windows, micro, workers=recipe.workers),
        train_size=len(windows),
        validation=validation,
        validation_indices=indices,
        documents={**job.documents, "normalizer": normalizer.to_dict()},
        rollout=job.rollout,
    )
    return Trainer(policy, stage, recipe, context, accelerator, log, interruption)


def _validation(store: Any, spec: WindowSpec, held_out: Any, stage: Stage, seed: int) -> tuple[Any, np.ndarray]:
    """A loader over the held-out windows, and which of them are looked at: spread evenly, the same every time."""
    if not len(held_out):
        return None, np.zeros(0, np.int64)
    windows = WindowDataset(store, spec, episodes=held_out)
    size = min(stage.batch_size, len(windows))
    count = min(len(windows) // size, stage.validation.batches) * size
    chosen = generator("validation", seed).permutation(len(windows))[:count]
    return Loader(windows, size), np.sort(chosen).astype(np.int64)


def _initialize(policy: torch.nn.Module, job: _Job, stage: str) -> None:
    names = list(job.recipe.stages)
    folder = job.run_dir / "checkpoints" / f"{names.index(stage)}_{stage}"
    steps = sorted(p.parent for p in folder.glob("step_*/manifest.json"))
    if not steps:
        raise CheckpointError(explain(f"stage '{stage}' has no checkpoint to start from", mend="run it first"))
    load_weights(policy, checkpoint.load(steps[-1]).tensors("ema"), steps[-1])


def _window_spec(spec: PolicySpec, store: Any) -> WindowSpec:
    absent = [c for c in spec.cameras if c not in store.cameras]
    if absent:
        raise DataError(
            explain(
                f"the recipe reads cameras {absent} that the store does not hold",
                allowed=list(store.cameras),
                mend="collect with these cameras, or change the policy's cameras",
            )
        )
    return WindowSpec(
        observation_horizon=spec.observation_horizon,
        prediction_horizon=spec.prediction_horizon,
        state=True,
        environment_state=bool(spec.environment_state),
        cameras=spec.cameras,
    )


def _normalizer(store: Any, stage: Stage, episodes: Any) -> Normalizer:
    """Ranges from the store's statistics, and those that the policy asks for from the training windows."""

    def windows(observation_horizon: int, prediction_horizon: int) -> dict[str, Any]:
        spec = WindowSpec(observation_horizon, prediction_horizon, environment_state=False)
        dataset = WindowDataset(store, spec, episodes=episodes)
        # Evenly spread windows are enough for a range, and bound the memory.
        return dataset.gather(np.unique(np.linspace(0, len(dataset) - 1, MOST_RANGE_WINDOWS).astype(np.int64)))

    names = ["state", "action", *(["environment_state"] if len(store.environment_state_names) else [])]
    statistics = {n: store.statistics(n) for n in names}
    statistics |= derived_ranges(stage.policy, stage.parameters, store.embodiment, windows)
    return Normalizer.from_statistics(statistics, store.embodiment)


def _data_entry(path: Path, store: Any) -> dict[str, Any]:
    return {
        "path": str(path.absolute()),
        "content_hash": store.content_hash,
        "task": store.task,
        "episodes": int(store.num_episodes),
        "steps": int(store.num_steps),
        "embodiment": {"name": store.embodiment.name, "hash": store.embodiment.hash},
    }


def _write_config(out: Path, recipe: Recipe, data: Path, store: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = {"recipe": to_dict(recipe), "data": _data_entry(data, store)}
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
