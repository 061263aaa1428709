"""Crops and colour jitter of batches of pictures, drawn from a given generator; nothing here waits for a device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["centre_crop", "colour_jitter", "random_crop"]

_GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""


def centre_crop(images: Tensor, side: int) -> Tensor:
    """The middle of [N, H, W, C], a view [N, side, side, C]."""
    height, width = images.shape[1:3]
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def random_crop(images: Tensor, side: int, rng: torch.Generator | None) -> Tensor:
    """A square of each picture, all places equally likely.

    One gather of rows for the whole batch: the pixels are seen as overlapping rows of ``side`` pixels, of which those
    of the crops are copied.

    Args:
        images: [N, H, W, C].
        side: Pixels, at most H and W.
        rng: On the device of the images.

    Returns:
        [N, side, side, C].
    """
    count, height, width, channels = images.shape
    draw = torch.rand(count, 2, generator=rng, device=images.device)
    top = (draw[:, 0] * (height - side + 1)).long()
    left = (draw[:, 1] * (width - side + 1)).long()
    images = images.contiguous()
    rows = images.as_strided((count * height * width - side + 1, side * channels), (channels, 1))
    first = (torch.arange(count, device=images.device) * height + top) * width + left
    wanted = first[:, None] + torch.arange(side, device=images.device) * width  # [N, side]
    return rows.index_select(0, wanted.flatten()).view(count, side, side, channels)


def colour_jitter(images: Tensor, strength: float, rng: torch.Generator | None) -> Tensor:
    """Brightness, then contrast, then saturation of each picture times a factor from 1 - strength to 1 + strength.

    The three are one 3 x 3 matrix and one offset per picture, so a batch costs one product.

    Args:
        images: f32 [N, H, W, 3] in [0, 1].
        strength: In [0, 1]; 0 changes nothing.
        rng: On the device of the images.

    Returns:
        f32 [N, H, W, 3] in [0, 1].
    """
    count, height, width, channels = images.shape
    draw = torch.rand(count, 3, 1, 1, generator=rng, device=images.device) * 2 - 1
    bright, contrast, saturation = (1 + strength * draw).unbind(1)  # [N, 1, 1] each
    grey = torch.tensor(_GREY, device=images.device, dtype=images.dtype)[:, None].expand(channels, channels)
    same = torch.eye(channels, device=images.device, dtype=images.dtype)
    saturate = saturation * same + (1 - saturation) * grey  # rows are input colours
    mean = (images.mean(dim=(1, 2)) @ grey[:, :1])[:, None]  # [N, 1, 1]
    offset = bright * (1 - contrast) * mean  # the same for all colours, so saturation leaves it
    flat = images.reshape(count, height * width, channels)
    return torch.baddbmm(offset, flat, bright * contrast * saturate).clamp_(0, 1).view_as(images)
