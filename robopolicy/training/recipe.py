"""Recipes: what to train, as frozen dataclasses filled from ``configs/recipe/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from robopolicy.config import setting
from robopolicy.errors import ConfigError, explain

__all__ = ["EmaConfig", "OptimizerConfig", "Recipe", "Stage", "ValidationConfig"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule (Chi et al. 2023, appendix A.4)."""

    lr: float = setting("peak learning rate", default=1e-4, gt=0)
    betas: tuple[float, float] = setting("AdamW betas", default=(0.95, 0.999), ge=0, lt=1)
    weight_decay: float = setting("AdamW decoupled weight decay", default=1e-6, ge=0)
    schedule: Literal["cosine", "constant"] = setting("shape after the warm-up", default="cosine")
    warmup_steps: int = setting("linear warm-up, optimiser steps", default=500, ge=0)
    clip_norm: float = setting("gradient norm bound, 0 for none", default=0.0, ge=0)


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average of the weights, decay ``1 - (1 + step)^-power`` capped at ``max_decay``."""

    power: float = setting("exponent of the warm-up", default=0.75, gt=0)
    max_decay: float = setting("cap of the decay", default=0.9999, ge=0, lt=1)


@dataclass(frozen=True)
class ValidationConfig:
    """Held-out episodes, and how often they are looked at."""

    fraction: float = setting("share of episodes held out", default=0.05, ge=0, lt=1)
    every: int = setting("optimiser steps between validations, 0 for never", default=500, ge=0)
    batches: int = setting("at most this many batches per validation", default=8, ge=1)
    rollout_every: int = setting("optimiser steps between validation rollouts, 0 for never", default=0, ge=0)


@dataclass(frozen=True)
class Stage:
    """One training stage: a policy, a loss (its own), data and a budget."""

    policy: str = setting("registry name of the policy", registry="policy")
    steps: int = setting("optimiser steps; at most so many where max_minutes is given", ge=1)
    parameters: dict[str, Any] = field(default_factory=dict, metadata={"help": "laid over the policy's defaults"})
    batch_size: int = setting("samples per optimiser step, over all processes", default=256, ge=1)
    accumulate: int = setting("micro-batches per optimiser step", default=1, ge=1)
    checkpoint_every: int = setting("optimiser steps between checkpoints", default=1000, ge=1)
    max_minutes: float | None = setting(
        "time for the stage; a short measurement turns it into steps before training begins", default=None, gt=0
    )
    initialize_from: str | None = setting("earlier stage whose averaged weights are the start", default=None)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


@dataclass(frozen=True)
class Recipe:
    """Stages in the order in which they run, and what they share."""

    stages: dict[str, Stage] = field(metadata={"help": "name -> stage, run in order"})
    seed: int = setting("decides initial weights, data order and noise", default=0, ge=0)
    device: Literal["auto", "cpu"] = setting("auto takes an accelerator if there is one", default="auto")
    mixed_precision: Literal["no", "bf16", "fp16"] = setting("autocast type", default="no")
    threads: int = setting("CPU threads of torch, 0 leaves its own choice", default=0, ge=0)
    workers: int = setting("loader processes, 0 loads in the training process", default=0, ge=0)
    cache_gib: float = setting("memory for decoded frames, GiB; at most half of what is free", default=4.0, ge=0)
    cache_folder: str | None = setting("folder for decoded frames that do not fit into memory", default=None)
    keep_last: int = setting("checkpoints kept besides the best", default=3, ge=1)
    log_every: int = setting("optimiser steps between log lines", default=20, ge=1)
    description: str = setting("one line for people", default="")

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(explain("a recipe needs at least one stage", mend="add stages: {policy: {...}}"))
        names = list(self.stages)
        problems = [explain("a stage name must be an identifier", given=n) for n in names if not n.isidentifier()]
        for i, (name, stage) in enumerate(self.stages.items()):
            if stage.initialize_from is not None and stage.initialize_from not in names[:i]:
                problems.append(
                    explain(
                        f"stage '{name}' starts from no earlier stage", given=stage.initialize_from, allowed=names[:i]
                    )
                )
        if problems:
            raise ConfigError(problems)
