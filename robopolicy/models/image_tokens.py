"""Observations as tokens: feature maps of the cameras beside the low-dimensional features.

The encoder of :mod:`robopolicy.models.observation` ends each camera in a spatial softmax; a transformer wants the map::

    image[cam] uint8 [B, To, H, W, 3] --backbone (ResNet-18, CompactConv ...)--> map [B, To, C, h, w]
    state, environment_state --normalise--> steps [B, To, S + E]      goal, language as everywhere
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, explain
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.observation import ObservationEncoder
from robopolicy.models.vision import VisionConfig, VisualEncoder
from robopolicy.normalize import Normalizer
from robopolicy.protocols import PolicySpec

__all__ = ["FeatureMap", "TokenEncoder", "TokenFeatures", "TokenWidths", "sine_positions_1d", "sine_positions_2d"]

TEMPERATURE = 10_000.0
"""Of sinusoidal positions: the longest wave is so many times the shortest (Vaswani et al. 2017, section 3.5)."""


@dataclass(frozen=True)
class TokenWidths(FeatureWidths):
    """What a network that reads tokens is built for.

    Attributes:
        low_dim: Name and width of each low-dimensional stream, in the order in which ``steps`` holds them.
        maps: Cameras.
        channels: C of their feature maps.
    """

    low_dim: tuple[tuple[str, int], ...] = ()
    maps: int = 0
    channels: int = 0


@dataclass
class TokenFeatures(Features):
    """Of B observations; ``steps`` are the low-dimensional streams alone.

    Attributes:
        maps: f32 [B, To, C, h, w] of each camera.
    """

    maps: tuple[Tensor, ...] = ()


class FeatureMap(VisualEncoder):
    """uint8 images [N, H, W, 3] -> f32 [N, C, h, w]: the backbone of :class:`VisualEncoder` without pooling.

    ``keypoints`` and ``feature_dim`` of the config are of no use here.
    """

    def __init__(self, config: VisionConfig, height: int, width: int):
        super().__init__(config, height, width)
        self.core = self.core.backbone
        self.channels = self.map_channels

    @property
    def feature_dim(self) -> int:
        """C."""
        return self.channels


class TokenEncoder(ObservationEncoder):
    """An :class:`ObservationEncoder` that keeps the feature maps of the cameras.

    Args:
        spec, normalizer, vision, hidden, language: As there.
        shared: One backbone for all cameras, as published; False gives each its own.

    Attributes:
        widths: A :class:`TokenWidths`.

    Raises:
        ConfigError: cameras of several sizes on one backbone with no crop that makes them equal.
        DataError: a stream without statistics, or of the wrong width.
    """

    widths: TokenWidths

    def __init__(
        self,
        spec: PolicySpec,
        normalizer: Normalizer,
        vision: VisionConfig,
        hidden: int = 0,
        language: nn.Module | None = None,
        *,
        shared: bool = True,
    ):
        super().__init__(dataclasses.replace(spec, cameras=()), normalizer, vision, hidden, language)
        self.cameras = spec.cameras
        sizes = {
            name: (spec.embodiment.camera(name).height, spec.embodiment.camera(name).width) for name in self.cameras
        }
        if shared and len(set(sizes.values())) > 1:
            raise ConfigError(
                explain("one backbone for cameras of several sizes", given=sizes, mend="set shared_backbone=false")
            )
        if shared and sizes:
            self.vision["shared"] = FeatureMap(vision, *sizes[self.cameras[0]])
        else:
            self.vision.update({name: FeatureMap(vision, *size) for name, size in sizes.items()})
        self.shared = shared
        widths = {"state": len(spec.embodiment.state), "environment_state": spec.environment_state}
        self.widths = TokenWidths(
            **dataclasses.asdict(self.widths),
            low_dim=tuple((name, widths[name]) for name in self.low_dim),
            maps=len(self.cameras),
            channels=next(iter(self.vision.values())).channels if sizes else 0,  # type: ignore[arg-type]
        )

    def forward(
        self,
        state: Tensor | None,
        environment_state: Tensor | None,
        images: dict[str, Tensor],
        *,
        augment: bool = False,
        rng: torch.Generator | None = None,
        image_mask: Mapping[str, Tensor] | None = None,
        goal: Tensor | None = None,
        keep_goal: Tensor | None = None,
        language: Sequence[str] | None = None,
    ) -> TokenFeatures:
        """Shapes as above; arguments as of :meth:`ObservationEncoder.forward`."""
        maps = []
        for name in self.cameras:
            image = images[name]  # uint8 [B, To, H, W, C]
            backbone = self.vision["shared" if self.shared else name]
            encoded = backbone(image.flatten(0, 1), augment=augment, rng=rng).to(torch.float32)  # [B * To, C, h, w]
            seen = encoded.unflatten(0, image.shape[:2])
            if image_mask and name in image_mask:
                seen = seen * image_mask[name][:, None, None, None, None]
            maps.append(seen)
        given = {"state": state, "environment_state": environment_state}
        values = [affine(given[name]) for name, affine in self.low_dim.items()]
        # cameras alone: no stream tells the batch size
        steps = torch.cat(values, dim=-1) if values else maps[0].new_zeros((*maps[0].shape[:2], 0))
        extra = self.hidden(steps.flatten(1)) if self.hidden is not None else None
        words = None
        if self.language is not None:
            words = self.language([""] * len(steps) if language is None else list(language))
        return TokenFeatures(steps, extra, self._goal(goal, keep_goal, steps), words, tuple(maps))


def _waves(position: Tensor, width: int) -> Tensor:
    """[...] -> [..., width]: sine and cosine in turn, wave lengths from 2 pi in a geometric row."""
    rates = TEMPERATURE ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = position[..., None] * rates
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def sine_positions_1d(length: int, width: int) -> Tensor:
    """f32 [length, width], ``width`` even (Vaswani et al. 2017)."""
    return _waves(torch.arange(length, dtype=torch.float32), width)


def sine_positions_2d(height: int, width_px: int, width: int) -> Tensor:
    """Positions of a map, f32 [height, width_px, width], ``width`` divisible by 4 (Carion et al. 2020, appendix A.4).

    The first half of the channels tells the row and the second the column, both scaled to (0, 2 pi], so that maps of
    other sizes lie on the same picture.
    """
    row = torch.arange(1, height + 1, dtype=torch.float32) / height * 2 * math.pi
    column = torch.arange(1, width_px + 1, dtype=torch.float32) / width_px * 2 * math.pi
    rows = _waves(row, width // 2)[:, None].expand(-1, width_px, -1)
    columns = _waves(column, width // 2)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1)
