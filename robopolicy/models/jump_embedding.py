"""The time embedding of a network that is told where to jump to."""

from __future__ import annotations

import torch
from torch import Tensor

from robopolicy.models.unet1d import StepEmbedding

__all__ = ["JumpEmbedding"]


class JumpEmbedding(StepEmbedding):
    """Embedding of two times [B, 2] -> [B, dim]; begins as that of the first, whose parameters keep their names."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.stop = StepEmbedding(dim)
        last = self.stop.mlp[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)

    def forward(self, step: Tensor) -> Tensor:
        """[B, 2] -> [B, dim]."""
        return super().forward(step[..., 0]) + self.stop(step[..., 1])
