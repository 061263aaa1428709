"""Layers that image encoders share: group norm in the place of batch norm, spatial softmax, pools."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MeanPool", "SpatialSoftmax", "group_norm"]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm of ``channels`` / 16 groups, or of the next smaller number that divides them.

    It stands where a published network has BatchNorm: averaged weights and batch statistics do not go together
    (Chi et al. 2023, section 5).
    """
    groups = max(channels // 16, 1)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


class SpatialSoftmax(nn.Module):
    """Where each of K feature maps is brightest on average, in [-1, 1] (Finn et al. 2016, arXiv 1509.06113).

    [N, C, h, w] -> [N, 2 K], x then y of each keypoint.

    Args:
        channels: C.
        keypoints: K.
    """

    def __init__(self, channels: int, keypoints: int):
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = self.maps(x)
        height, width = maps.shape[-2:]
        share = maps.flatten(2).softmax(dim=-1).unflatten(-1, (height, width))  # [N, K, h, w]
        down = torch.linspace(-1, 1, height, device=x.device, dtype=share.dtype)
        right = torch.linspace(-1, 1, width, device=x.device, dtype=share.dtype)
        return torch.stack([share.sum(2) @ right, share.sum(3) @ down], dim=-1).flatten(1)


class MeanPool(nn.Module):
    """[N, C, h, w] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean(dim=(2, 3))
