"""Pictures of several cameras in one size: the same resize in training and in action."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_frames"]


def resize_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize with a triangle filter that widens when shrinking (Pillow's bilinear).

    The aspect ratio is not kept: a slot has one size, and the network sees the same distortion in training and action.

    Args:
        frames: uint8 [..., H, W, 3].
        size: (height, width).

    Returns:
        uint8 [..., height, width, 3]; ``frames`` itself where the size is right already.
    """
    height, width = size
    if frames.shape[-3:-1] == (height, width):
        return frames
    from PIL import Image

    flat = frames.reshape(-1, *frames.shape[-3:])
    out = np.empty((len(flat), height, width, 3), np.uint8)
    for i, frame in enumerate(flat):
        out[i] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    return out.reshape(*frames.shape[:-3], height, width, 3)
