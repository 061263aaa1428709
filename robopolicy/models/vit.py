"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), for pictures of about a hundred pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robopolicy.errors import ConfigError, explain

__all__ = ["ViTConfig", "VisionTransformer"]


@dataclass(frozen=True)
class ViTConfig:
    """Sizes.

    Attributes:
        patch: Side of a patch in pixels; the crop must be a multiple of it.
        width: Of a token.
        depth: Blocks.
        heads: Of attention; they divide the width.
    """

    patch: int = 8
    width: int = 128
    depth: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(explain("vit: sizes must be positive and heads divide the width", given=self))


class _Block(nn.Module):
    """Pre-norm self-attention and perceptron. [N, L, W] -> [N, L, W]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [N, heads, L, W / heads] each
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).reshape(count, length, width))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """[N, C, H, W] -> [N, width].

    Args:
        config: See :class:`ViTConfig`.
        channels, height, width: Of the pictures.
        pool: ``cls``, a token of its own, or ``mean`` over the patches.

    Raises:
        ConfigError: pictures that are no whole number of patches.
    """

    def __init__(self, config: ViTConfig, channels: int, height: int, width: int, pool: str = "cls"):
        super().__init__()
        patch = config.patch
        if height % patch or width % patch:
            multiple = min(height, width) // patch * patch
            raise ConfigError(
                explain(
                    "pictures that are no whole number of patches",
                    given=f"{height}x{width}",
                    allowed=f"multiples of vision.vit.patch={patch}",
                    mend=f"vision.crop={multiple}",
                )
            )
        tokens = (height // patch) * (width // patch) + (pool == "cls")
        self.pool = pool
        self.patches = nn.Conv2d(channels, config.width, patch, stride=patch)
        self.first = nn.Parameter(torch.zeros(1, 1, config.width)) if pool == "cls" else None
        self.position = nn.Parameter(torch.randn(1, tokens, config.width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # [N, L, W]
        if self.first is not None:
            tokens = torch.cat([self.first.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        seen = self.norm(self.blocks(tokens + self.position))
        return seen[:, 0] if self.pool == "cls" else seen.mean(dim=1)
