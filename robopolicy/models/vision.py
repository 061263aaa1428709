"""From pictures to features: which backbones there are, one encoder, and the encoders of all cameras.

::

    uint8 [N, H, W, C] --crop--> [colour jitter] --scale--> backbone --pool--> linear --> f32 [N, feature_dim]

HWC storage seen as CHW is channels-last memory, which convolutions prefer: no copy is made to turn it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, ShapeError, explain, suggest
from robopolicy.models.image_augmentation import centre_crop, colour_jitter, random_crop
from robopolicy.models.robomimic_vision import ROBOMIMIC, build_visual_core
from robopolicy.models.torchvision_backbones import IMAGENET_MEAN, IMAGENET_STD, STORED, TORCHVISION, build_backbone
from robopolicy.models.vision_layers import MeanPool, SpatialSoftmax
from robopolicy.models.vit import VisionTransformer, ViTConfig

__all__ = ["BACKBONES", "POOLS", "SHARED", "CameraEncoders", "VisionConfig", "VisualEncoder"]

BACKBONES = (*ROBOMIMIC, *TORCHVISION, "vit")
"""robomimic's (``ResNet18Conv``: published, ``CompactConv``: for CPU training), torchvision's, a small ViT."""
SHARED = "shared"
"""Name of the one encoder of all cameras."""
POOLS = {
    **dict.fromkeys(ROBOMIMIC, ("keypoints",)),
    **dict.fromkeys(TORCHVISION, ("keypoints", "mean")),
    "vit": ("cls", "mean"),
}
"""Backbone -> the pools that it can have, its usual one first."""


@dataclass(frozen=True)
class VisionConfig:
    """How pictures become features.

    Attributes:
        backbone: One of :data:`BACKBONES`.
        keypoints: Spatial-softmax keypoints.
        feature_dim: Width of the feature of one camera at one step.
        crop: Side of the square crop in pixels: random in training, centred in evaluation. 0 crops nothing.
        pool: ``keypoints`` (spatial softmax), ``mean``, ``cls``; ``auto`` takes the backbone's usual one.
        weights: Of a torchvision backbone: null (from scratch), a local file, or ``auto`` (the file in torchvision's
            cache folder). With weights, pictures are scaled by ImageNet's mean and deviation and BatchNorm is frozen,
            see :mod:`robopolicy.models.torchvision_backbones`. In a checkpoint: ``stored``.
        shared: One encoder for all cameras, which then have one size and are encoded in one batch.
        jitter: Strength of colour jitter in training, 0 for none; see
            :func:`robopolicy.models.image_augmentation.colour_jitter`.
        vit: Sizes of backbone ``vit``.
    """

    backbone: str = "ResNet18Conv"
    keypoints: int = 32
    feature_dim: int = 64
    crop: int = 84
    pool: str = "auto"
    weights: str | None = None
    shared: bool = False
    jitter: float = 0.0
    vit: ViTConfig = field(default_factory=ViTConfig)

    def __post_init__(self) -> None:
        problems = []
        if self.backbone not in BACKBONES:
            mend = suggest(self.backbone, BACKBONES)
            problems.append(explain("unknown backbone", given=self.backbone, allowed=BACKBONES, mend=mend))
        elif self.pool not in ("auto", *POOLS[self.backbone]):
            allowed = ("auto", *POOLS[self.backbone])
            problems.append(explain(f"no such pool of {self.backbone}", given=self.pool, allowed=allowed))
        if min(self.keypoints, self.feature_dim) < 1 or self.crop < 0:
            problems.append(explain("keypoints and feature_dim must be positive, crop at least 0", given=self))
        if not 0 <= self.jitter <= 1:
            problems.append(explain("jitter out of range", given=self.jitter, allowed="0 <= jitter <= 1"))
        if self.weights is not None and self.backbone not in TORCHVISION:
            problems.append(
                explain(
                    f"backbone {self.backbone} is trained from scratch",
                    given=f"weights={self.weights}",
                    allowed=f"weights with {', '.join(TORCHVISION)}",
                    mend="vision.weights=null, or one of these backbones",
                )
            )
        if problems:
            raise ConfigError(problems)

    def stored(self) -> VisionConfig:
        """As a checkpoint keeps it: no file is needed again, the weights come with the rest."""
        return self if self.weights is None else replace(self, weights=STORED)


class VisualEncoder(nn.Module):
    """uint8 images of one size -> features.

    Args:
        config: See :class:`VisionConfig`.
        height: Pixels of the incoming image.
        width: Pixels of the incoming image.
        image_channels: 3 for RGB; other numbers only for robomimic's backbones.

    Attributes:
        map_channels: C of the map of ``core.backbone``, [N, 3, H, W] -> [N, C, h, w]; 0 where it has none (ViT).

    Raises:
        ConfigError: the crop is larger than the image or does not suit the backbone, or the weights do not.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: VisionConfig, height: int, width: int, image_channels: int = 3):
        super().__init__()
        side = config.crop
        if side > min(height, width):
            raise ConfigError(
                explain(
                    "crop larger than the image",
                    given=side,
                    allowed=f"<= {min(height, width)}",
                    mend=f"vision.crop={min(height, width)}",
                )
            )
        self.config = config
        self.image_shape = (height, width, image_channels)
        self.core, self.map_channels = _core(config, (image_channels, side or height, side or width))
        if config.weights is not None:
            deviation = torch.tensor(IMAGENET_STD)
            self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
            self.register_buffer("shift", -torch.tensor(IMAGENET_MEAN) / deviation, persistent=False)

    @property
    def feature_dim(self) -> int:
        """Width of the output."""
        return self.config.feature_dim

    def forward(self, images: Tensor, *, augment: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """uint8 [N, H, W, C] -> f32 [N, feature_dim]; ``augment`` crops and colours each at random from ``rng``.

        Raises:
            ShapeError: images of another size than the encoder was built for, or not uint8.
        """
        return self.encode(self.crop(images, augment=augment, rng=rng), augment=augment, rng=rng)

    def crop(self, images: Tensor, *, augment: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """uint8 [N, H, W, C] -> uint8 [N, side, side, C], in the middle or at random.

        Raises:
            ShapeError: as :meth:`forward`.
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
        height, width, _ = self.image_shape
        side = self.config.crop
        if not side or side == height == width:
            return images
        return random_crop(images, side, rng) if augment else centre_crop(images, side)

    def encode(self, crops: Tensor, *, augment: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Result of :meth:`crop` -> f32 [N, feature_dim]."""
        jitter = augment and self.config.jitter > 0
        pictures = crops.permute(0, 3, 1, 2).to(torch.float32)  # still HWC in memory
        if jitter:
            coloured = colour_jitter(pictures.permute(0, 2, 3, 1).div_(255.0), self.config.jitter, rng)
            pictures = coloured.permute(0, 3, 1, 2)
        if self.config.weights is not None:
            scale = self.scale[:, None, None] * (255.0 if jitter else 1.0)
            pictures = pictures.mul_(scale).add_(self.shift[:, None, None])
        elif not jitter:
            pictures = pictures.div_(255.0)
        features: Tensor = self.core(pictures)
        return features


def _core(config: VisionConfig, shape: tuple[int, int, int]) -> tuple[nn.Module, int]:
    """[N, *shape] -> [N, feature_dim], and the channels of the backbone's map."""
    if config.backbone in ROBOMIMIC:
        core = build_visual_core(config.backbone, shape, config.keypoints, config.feature_dim)
        return core, int(core.backbone.output_shape(list(shape))[0])
    if shape[0] != 3:
        raise ConfigError(explain(f"backbone {config.backbone} sees colour pictures", given=shape, allowed=[3]))
    pool = POOLS[config.backbone][0] if config.pool == "auto" else config.pool
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if config.backbone == "vit":
        parts["backbone"] = VisionTransformer(config.vit, *shape, pool=pool)
        wide, channels = config.vit.width, 0
    else:
        parts["backbone"], channels = build_backbone(config.backbone, config.weights)
        parts["pool"] = MeanPool() if pool == "mean" else SpatialSoftmax(channels, config.keypoints)
        wide = channels if pool == "mean" else 2 * config.keypoints
    parts["head"] = nn.Linear(wide, config.feature_dim)
    return nn.Sequential(parts), channels


class CameraEncoders(nn.ModuleDict):
    """Pictures of all cameras -> features of each, by an encoder per camera or by one for all.

    Args:
        config: See :class:`VisionConfig`.
        sizes: Camera -> (height, width) in pixels.

    Raises:
        ConfigError: as :class:`VisualEncoder`; one encoder for cameras of different sizes.
    """

    def __init__(self, config: VisionConfig, sizes: Mapping[str, tuple[int, int]]):
        if config.shared and len(set(sizes.values())) > 1:
            raise ConfigError(
                explain(
                    "one encoder for cameras of different sizes",
                    given=", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items()),
                    allowed="one size",
                    mend="vision.shared=false, or record the cameras in one size",
                )
            )
        super().__init__()
        self.cameras, self.config = tuple(sizes), config
        for name, (height, width) in sizes.items():
            if config.shared:
                name = SHARED
            if name not in self:
                self[name] = VisualEncoder(config, height, width)

    def forward(
        self,
        images: Mapping[str, Tensor],
        *,
        augment: bool = False,
        rng: torch.Generator | None = None,
        cameras: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Camera -> uint8 [B, To, H, W, C]  to  camera -> f32 [B, To, feature_dim].

        Args:
            images: Pictures; To may differ between cameras.
            augment, rng: See :meth:`VisualEncoder.forward`.
            cameras: Which are looked at; all by default.

        Raises:
            ShapeError: a camera is missing, or its pictures have the wrong size.
        """
        wanted = self.cameras if cameras is None else tuple(cameras)
        absent = [name for name in wanted if name not in images]
        if absent:
            raise ShapeError(
                explain(
                    f"pictures of cameras {absent} are missing",
                    given=sorted(images),
                    allowed=wanted,
                    mend="record these cameras, or train a policy without them",
                )
            )
        if not wanted:
            return {}
        lead = [images[name].shape[:2] for name in wanted]
        flat = [images[name].flatten(0, 1) for name in wanted]
        if self.config.shared:
            encoder = cast(VisualEncoder, self[SHARED])
            crops = torch.cat([encoder.crop(each, augment=augment, rng=rng) for each in flat])
            encoded = encoder.encode(crops, augment=augment, rng=rng).split([len(each) for each in flat])
        else:
            pairs = zip(wanted, flat, strict=True)
            encoded = tuple(self[name](each, augment=augment, rng=rng) for name, each in pairs)
        rows = zip(wanted, encoded, lead, strict=True)
        return {name: own.unflatten(0, shape).to(torch.float32) for name, own, shape in rows}
