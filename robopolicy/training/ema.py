"""Moving average of a policy's weights on diffusers' ``EMAModel``, with names, so that a checkpoint can hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from robopolicy.errors import CheckpointError, explain
from robopolicy.training.recipe import EmaConfig

__all__ = ["Ema"]


class Ema:
    """Shadow weights of one module; its step counter, which decides the decay, is part of the state."""

    def __init__(self, module: nn.Module, config: EmaConfig):
        self.module = module
        self.names = [n for n, _ in module.named_parameters()]
        self.model = EMAModel(
            module.parameters(),
            decay=config.max_decay,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=config.power,
            foreach=True,
        )

    def step(self) -> None:
        """After every optimiser step."""
        model = self.model
        model.optimization_step += 1
        decay = float(model.get_decay(model.optimization_step))
        model.cur_decay_value = decay  # type: ignore[assignment]
        # one pass over the weights; the library's own step makes three
        averaged = [
            (shadow, p.detach()) for shadow, p in zip(model.shadow_params, self.module.parameters(), strict=True)
        ]
        trained = [p.requires_grad for p in self.module.parameters()]
        moving = [pair for pair, moves in zip(averaged, trained, strict=True) if moves]
        if moving:
            torch._foreach_lerp_([s for s, _ in moving], [p for _, p in moving], 1.0 - decay)
        for (shadow, weight), moves in zip(averaged, trained, strict=True):
            if not moves:
                shadow.copy_(weight)

    def tensors(self) -> dict[str, torch.Tensor]:
        """State dict of the module with the averaged weights in place of the raw ones."""
        averaged = dict(zip(self.names, self.model.shadow_params, strict=True))
        return {**self.module.state_dict(), **averaged}

    def state(self) -> dict[str, Any]:
        """Everything but the tensors, JSON-able."""
        return {k: v for k, v in self.model.state_dict().items() if k != "shadow_params"}

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`tensors` and :meth:`state`.

        Raises:
            CheckpointError: an averaged weight is missing.
        """
        missing = [n for n in self.names if n not in tensors]
        if missing:
            raise CheckpointError(explain("moving average lacks weights", given=missing[:3]))
        # in the memory order of the parameters, as the fused operations want them
        shadow = [torch.empty_like(p).copy_(tensors[n]).detach() for n, p in self.module.named_parameters()]
        self.model.load_state_dict({**state, "shadow_params": shadow})

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The module with averaged weights in evaluation mode; the raw ones come back on exit."""
        training = self.module.training
        self.model.store(self.module.parameters())
        self.model.copy_to(self.module.parameters())
        self.module.eval()
        try:
            yield self.module
        finally:
            self.model.restore(self.module.parameters())
            self.module.train(training)
