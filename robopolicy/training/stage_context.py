"""What the training loop is handed for one stage, by whoever knows of data and of worlds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robopolicy.errors import ConfigError, explain
from robopolicy.protocols import Policy
from robopolicy.training.order import Order
from robopolicy.training.recipe import Stage
from robopolicy.types import Batch

__all__ = ["BatchSource", "Rollout", "StageContext", "micro_batch"]


class BatchSource(Protocol):
    """What the trainer asks of a loader; :class:`robopolicy.data.loader.Loader` is one."""

    def batches(self, indices: np.ndarray) -> Iterator[Batch]:
        """Batches of the loader's batch size over ``indices`` [n], in order."""
        ...

    def close(self) -> None:
        """End the loader's processes, if it has any."""
        ...


class Rollout(Protocol):
    """Validation in the world, handed in by whoever knows one; returns named scalars for the log."""

    def __call__(self, policy: Policy, step: int) -> Mapping[str, float]:
        """Run a few episodes with the policy as it is now (averaged weights, evaluation mode)."""
        ...


@dataclass(frozen=True)
class StageContext:
    """Where a stage stands and what it is fed.

    Attributes:
        index, name: Of the stage within the recipe.
        run_dir: Of the run.
        train: Source of training batches, batch size ``micro_batch(...)``.
        train_size: Windows in it.
        validation: Batches of the held-out windows, the same at every call; empty for none.
        documents: Further JSON documents of every checkpoint (embodiment, normaliser, recipe, data).
        rollout: See :class:`Rollout`.
        order: Of the training windows; None for epochs of all of them.
    """

    index: int
    name: str
    run_dir: Path
    train: BatchSource
    train_size: int
    validation: BatchSource | None
    validation_indices: np.ndarray
    documents: Mapping[str, Any]
    rollout: Rollout | None = None
    order: Order | None = None


def micro_batch(stage: Stage, processes: int) -> int:
    """Samples of one forward pass on one process.

    Raises:
        ConfigError: the global batch does not divide.
    """
    size, rest = divmod(stage.batch_size, stage.accumulate * processes)
    if rest or not size:
        raise ConfigError(
            explain(
                "batch_size must be divisible by accumulate x processes",
                given=f"{stage.batch_size} / ({stage.accumulate} x {processes})",
                mend=f"use batch_size={max(size, 1) * stage.accumulate * processes}",
            )
        )
    return size
