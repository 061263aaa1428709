"""Optimiser and learning rate; the rate is a pure function of the step, so nothing of it needs restoring."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from robopolicy.errors import CheckpointError, explain
from robopolicy.training.recipe import OptimizerConfig

__all__ = ["learning_rate", "load_optimizer", "make_optimizer", "optimizer_tensors"]


class _DenseAdamW(torch.optim.AdamW):
    """AdamW that shows each tensor to the fused operation as one run of memory, whatever the order of its axes.

    The fused operation copies tensors that are not in the standard order, which takes five times as long as the step.
    """

    def _init_group(self, group: dict[str, Any], *lists: list[torch.Tensor]) -> bool:
        answer: bool = super()._init_group(group, *lists)  # type: ignore[arg-type]
        if group["fused"]:
            together = [tensors for tensors in lists[:4] if tensors]  # parameters, gradients, both averages
            for i, rows in enumerate(zip(*together, strict=True)):
                flat = _flattened(rows)
                for tensors, row in zip(together, flat, strict=True):
                    tensors[i] = row
        return answer


def _flattened(tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Views of one dimension, if all of them are dense and in one memory order; else the tensors themselves."""
    first = tensors[0]
    if first.is_contiguous() or any(t.stride() != first.stride() for t in tensors):
        return tensors
    order = sorted(range(first.dim()), key=lambda axis: first.stride(axis), reverse=True)
    if not first.permute(order).is_contiguous():
        return tensors
    return tuple(t.detach().permute(order).view(-1) for t in tensors)


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters."""
    fused = {p.device.type for p in module.parameters()} <= {"cpu", "cuda"}
    return _DenseAdamW(
        module.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Rate of step ``step`` (from 0) of ``steps``: linear warm-up, then half a cosine to zero, or constant."""
    warmup = min(config.warmup_steps, steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state by parameter name: ``<parameter>/<exp_avg | exp_avg_sq | step>``."""
    names: dict[Any, str] = {p: n for n, p in module.named_parameters()}
    return {
        f"{names[p]}/{key}": value if torch.is_tensor(value) else torch.tensor(value)
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Inverse of :func:`optimizer_tensors`.

    Raises:
        CheckpointError: state of parameters that the module does not have, or none for one it has.
    """
    parameters = dict(module.named_parameters())
    state: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        state.setdefault(parameter, {})[key] = value
    trained = {n for n, p in parameters.items() if p.requires_grad}
    if tensors and set(state) != trained:
        differ = sorted(set(state) ^ trained)[:3]
        raise CheckpointError(
            explain("optimiser state of other parameters", given=differ, mend="resume the same recipe")
        )
    for name, entries in state.items():
        owner = parameters[name]
        optimizer.state[owner] = {
            k: v.clone() if k == "step" else torch.empty_like(owner).copy_(v) for k, v in entries.items()
        }
