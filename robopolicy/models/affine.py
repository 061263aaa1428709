"""A stream's normaliser as a torch module: two buffers that follow the policy to its device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robopolicy.normalize import StreamNormalizer

__all__ = ["Affine"]


class Affine(nn.Module):
    """``normalised = physical * scale + offset``; the buffers stay out of the weights, JSON is their one source."""

    scale: Tensor
    offset: Tensor

    def __init__(self, stream: StreamNormalizer):
        super().__init__()
        self.register_buffer("scale", torch.tensor(stream.scale, dtype=torch.float32), persistent=False)
        self.register_buffer("offset", torch.tensor(stream.offset, dtype=torch.float32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Physical [..., n] -> normalised [..., n]."""
        return values * self.scale + self.offset
