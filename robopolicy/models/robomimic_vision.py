"""The only file that touches robomimic: its ``VisualCore`` as the image encoder of one camera.

``VisualCore`` is backbone, spatial softmax (Finn et al. 2016) and a linear layer (Mandlekar et al. 2021, robomimic).
Importing robomimic prints a banner, and its classes register themselves in module-level tables; both stay in here.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, ShapeError, explain

__all__ = ["BACKBONES", "CompactConv", "VisionConfig", "VisualEncoder"]

BACKBONES = ("ResNet18Conv", "ShallowConv", "CompactConv")
"""``ResNet18Conv``: published. ``ShallowConv``: robomimic's four-layer net. ``CompactConv``: ours, for CPU training."""


@dataclass(frozen=True)
class VisionConfig:
    """Image encoder of each camera; weights are separate per camera.

    Attributes:
        backbone: One of :data:`BACKBONES`.
        keypoints: Spatial-softmax keypoints.
        feature_dim: Width of the feature of one camera at one step.
        crop: Side of the square crop in pixels: random in training, centred in evaluation. 0 crops nothing.
    """

    backbone: str = "ResNet18Conv"
    keypoints: int = 32
    feature_dim: int = 64
    crop: int = 84

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ConfigError(explain("unknown backbone", given=self.backbone, allowed=BACKBONES))
        if min(self.keypoints, self.feature_dim) < 1 or self.crop < 0:
            raise ConfigError(explain("keypoints and feature_dim must be positive, crop at least 0", given=self))


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


class VisualEncoder(nn.Module):
    """uint8 images of one camera -> features.

    Args:
        config: See :class:`VisionConfig`.
        height: Pixels of the incoming image.
        width: Pixels of the incoming image.
        image_channels: 3 for RGB.

    Raises:
        ConfigError: the crop is larger than the image.
    """

    def __init__(self, config: VisionConfig, height: int, width: int, image_channels: int = 3):
        super().__init__()
        side = config.crop
        if side > min(height, width):
            raise ConfigError(explain("crop larger than the image", given=side, allowed=f"<= {min(height, width)}"))
        self.config = config
        self.image_shape = (height, width, image_channels)
        crop_shape = [image_channels, side or height, side or width]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's renamed `pretrained` argument
            self.core = _robomimic().VisualCore(
                input_shape=crop_shape,
                backbone_class=config.backbone,
                backbone_kwargs={"pretrained": False},
                pool_class="SpatialSoftmax",
                pool_kwargs={"num_kp": config.keypoints},
                feature_dimension=config.feature_dim,
            )
        batch_norm_to_group_norm(self.core)
        # VisualCore registers backbone and pool a second time beside the sequence that runs them. One weight must have
        # one name, or the average of the weights is kept under one of them and undone by the other.
        for alias in ("backbone", "pool"):
            self.core.__dict__[alias] = self.core._modules.pop(alias)

    @property
    def feature_dim(self) -> int:
        """Width of the output."""
        return self.config.feature_dim

    def forward(self, images: Tensor, *, augment: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """uint8 [N, H, W, C] -> f32 [N, feature_dim]; ``augment`` crops each image at random from ``rng``.

        Raises:
            ShapeError: images of another size than the encoder was built for, or not uint8.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.image_shape:
            raise ShapeError(
                explain(
                    "images of the wrong kind",
                    given=(images.dtype, tuple(images.shape)),
                    allowed=f"uint8 [N, {', '.join(map(str, self.image_shape))}]",
                    mend="use the camera resolution that the policy was trained with",
                )
            )
        cropped = self._crop(images, augment, rng)
        # HWC storage permuted to CHW is channels-last memory, which convolutions prefer: no copy is made here.
        return self.core(cropped.permute(0, 3, 1, 2).to(torch.float32).div_(255.0))

    def _crop(self, images: Tensor, augment: bool, rng: torch.Generator | None) -> Tensor:
        height, width, _ = self.image_shape
        side = self.config.crop
        if not side or side == height == width:
            return images
        if not augment:
            top, left = (height - side) // 2, (width - side) // 2
            return images[:, top : top + side, left : left + side]
        draw = torch.rand(len(images), 2, generator=rng, device=images.device)
        tops = (draw[:, 0] * (height - side + 1)).long().tolist()
        lefts = (draw[:, 1] * (width - side + 1)).long().tolist()
        boxes = zip(images, tops, lefts, strict=True)
        return torch.stack([im[top : top + side, left : left + side] for im, top, left in boxes])


def batch_norm_to_group_norm(module: nn.Module) -> None:
    """Replace every BatchNorm2d by GroupNorm of C/16 groups, in place: EMA weights and batch statistics do not mix."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(max(child.num_features // 16, 1), child.num_features))
        else:
            batch_norm_to_group_norm(child)
