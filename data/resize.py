"""Frames at another size: colour averaged over the area that a pixel covers, depth picked, never averaged.

Plain interpolation from four neighbours drops pixels when a frame shrinks and shows policies a flicker that no camera
made. Pillow's bilinear filter widens with the scale (antialiasing). The mean of two depths lies on no surface, so depth
takes the nearest pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robopolicy.errors import ShapeError, explain

__all__ = ["check_image_size", "resize_frame"]


def check_image_size(size: Any) -> tuple[int, int] | None:
    """``size`` as (height, width) in pixels, or None.

    Raises:
        ShapeError: not two whole numbers from 1 on.
    """
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or any(not isinstance(n, (int, np.integer)) or n < 1 for n in pair):
        raise ShapeError(explain("image_size is not (height, width)", given=size, allowed="two numbers >= 1, or None"))
    return int(pair[0]), int(pair[1])


def resize_frame(frame: NDArray[Any], out: NDArray[Any]) -> None:
    """Resize one frame into ``out``.

    Args:
        frame: uint8 [H, W, 3] RGB, or another dtype [H, W, 1] (depth).
        out: Same dtype, [h, w, C].
    """
    height, width = out.shape[:2]
    if frame.dtype == np.uint8 and frame.shape[2] == 3:
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        out[...] = np.asarray(image)
        return
    rows = (np.arange(height) * 2 + 1) * frame.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * frame.shape[1] // (2 * width)
    out[...] = frame[rows[:, None], columns]
