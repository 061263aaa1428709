"""The only file that touches robomimic: its ``VisualCore`` as an image encoder.

``VisualCore`` is backbone, spatial softmax (Finn et al. 2016) and a linear layer (Mandlekar et al. 2021, robomimic).
Importing robomimic prints a banner, and its classes register themselves in module-level tables; both stay in here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.models.vision_layers import group_norm

__all__ = ["ROBOMIMIC", "CompactConv", "build_visual_core"]

ROBOMIMIC = ("ResNet18Conv", "ShallowConv", "CompactConv")
"""``ResNet18Conv``: published. ``ShallowConv``: robomimic's four-layer net. ``CompactConv``: ours, for CPU training."""


class _Residual(nn.Module):
    """conv-norm-relu, conv-norm, residual, relu; stride 2."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(outputs // 8, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(outputs // 8, outputs),
        )
        self.short = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


@cache
def _robomimic() -> Any:
    """robomimic's ``obs_core`` module, imported silently, with :class:`CompactConv` known to it by name."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import robomimic.models.base_nets as base_nets
        import robomimic.models.obs_core as obs_core

    class CompactConvBase(base_nets.ConvBase):
        def __init__(self, input_channel: int = 3):
            super().__init__()
            self.nets = CompactConv(input_channel)

        def output_shape(self, input_shape: list[int]) -> list[int]:
            return [CompactConv.WIDTHS[-1], *(-(-side // 8) for side in input_shape[1:])]

    # VisualCore finds its backbone by evaluating the class name in its own module.
    obs_core.CompactConv = CompactConvBase
    return obs_core


class CompactConv(nn.Sequential):
    """A stem and two residual stages, stride 8: about a sixth of ResNet-18's work and a finer keypoint map.

    [B, C, H, W] -> [B, 64, ceil(H/8), ceil(W/8)].
    """

    WIDTHS = (24, 48, 64)

    def __init__(self, input_channel: int = 3):
        first, second, third = self.WIDTHS
        super().__init__(
            nn.Conv2d(input_channel, first, 5, stride=2, padding=2, bias=False),
            nn.GroupNorm(first // 8, first),
            nn.ReLU(),
            _Residual(first, second),
            _Residual(second, third),
        )


def build_visual_core(backbone: str, shape: Sequence[int], keypoints: int, feature_dim: int) -> Any:
    """``VisualCore`` with GroupNorm for BatchNorm: [N, C, H, W] -> [N, feature_dim].

    Args:
        backbone: One of :data:`ROBOMIMIC`.
        shape: [C, H, W] of what it is given.
        keypoints: Of the spatial softmax.
        feature_dim: Width of the output.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's renamed `pretrained` argument
        core = _robomimic().VisualCore(
            input_shape=list(shape),
            backbone_class=backbone,
            backbone_kwargs={"pretrained": False},
            pool_class="SpatialSoftmax",
            pool_kwargs={"num_kp": keypoints},
            feature_dimension=feature_dim,
        )
    _batch_norm_to_group_norm(core)
    # VisualCore registers backbone and pool a second time beside the sequence that runs them. One weight must have
    # one name, or the average of the weights is kept under one of them and undone by the other.
    for alias in ("backbone", "pool"):
        core.__dict__[alias] = core._modules.pop(alias)
    return core


def _batch_norm_to_group_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, group_norm(child.num_features))
        else:
            _batch_norm_to_group_norm(child)
