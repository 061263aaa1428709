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
from torch import Tensor

from robopolicy.errors import ConfigError, explain
from robopolicy.models.features import Features, FeatureWidths
from robopolicy.models.language import SentenceLanguage, TableLanguage
from robopolicy.models.observation import ObservationEncoder
from robopolicy.models.vision import VisionConfig, VisualEncoder
from robopolicy.normalize import Normalizer
from robopolicy.protocols import PolicySpec

__all__ = ["TokenEncoder", "TokenFeatures", "TokenWidths", "sine_positions_1d", "sine_positions_2d"]

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


class TokenEncoder(ObservationEncoder):
    """An :class:`ObservationEncoder` that keeps the feature maps of the cameras: backbones without their pools.

    Args:
        spec, normalizer, vision, hidden, language: As there; ``keypoints``, ``feature_dim`` and ``pool`` of ``vision``
            are of no use here.

    Attributes:
        widths: A :class:`TokenWidths`.

    Raises:
        ConfigError: a backbone that has no map; and as there.
        DataError: a stream without statistics, or of the wrong width.
    """

    widths: TokenWidths

    def __init__(
        self,
        spec: PolicySpec,
        normalizer: Normalizer,
        vision: VisionConfig,
        hidden: int = 0,
        language: TableLanguage | SentenceLanguage | None = None,
    ):
        if spec.goal_cameras:
            raise ConfigError(
                explain(
                    "a network that reads feature maps takes no picture of its goal",
                    given=f"goal.cameras={list(spec.goal_cameras)}",
                    mend="use goal.names alone, or a policy with network unet, dit or gpt",
                )
            )
        super().__init__(spec, normalizer, vision, hidden, language)
        channels = 0
        for encoder in self.vision.values():
            assert isinstance(encoder, VisualEncoder)
            channels = encoder.map_channels
            if not channels:
                raise ConfigError(
                    explain("the backbone has no feature map", given=vision.backbone, mend="vision.backbone=resnet18")
                )
            encoder.core = encoder.core.backbone  # type: ignore[assignment]
        widths = {"state": len(spec.embodiment.state), "environment_state": spec.environment_state}
        low_dim = tuple((name, widths[name]) for name in self.low_dim)
        given = {**dataclasses.asdict(self.widths), "step": sum(width for _, width in low_dim)}
        self.widths = TokenWidths(**given, low_dim=low_dim, maps=len(spec.cameras), channels=channels)

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
        goal_images: Mapping[str, Tensor] | None = None,
        keep_goal: Tensor | None = None,
        language: Sequence[str] | None = None,
    ) -> TokenFeatures:
        """Shapes as above; arguments as of :meth:`ObservationEncoder.forward`."""
        maps = []
        for name, seen in self.vision(images, augment=augment, rng=rng).items():  # f32 [B, To, C, h, w]
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
        return TokenFeatures(
            steps, extra, self._goal(goal, {}, keep_goal, steps, environment_state), words, tuple(maps)
        )


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
