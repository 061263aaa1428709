"""Image arrays of replay buffers as uint8 RGB: uint8 as they are, floats where their scale is known and exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.replay_buffer import ReplayBuffer
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.zarr_v2 import ArrayHeader
from robopolicy.errors import DataError, explain

__all__ = ["FLOAT_SCALES", "ImageArray", "image_arrays"]

FLOAT_SCALES = ("auto", "0..255", "0..1")
PROBES = 8
TOLERANCE = 1e-3
"""Of a grey level: how far a float may be from a whole one to count as exact."""


@dataclass(frozen=True)
class ImageArray:
    """One camera.

    Attributes:
        key: Name in the source.
        slot: Name in the store.
        height, width: Pixels.
        scale: What floats are multiplied with; 0 for uint8.
        grey: One channel, repeated to three.
        bgr: Whether channels are stored blue first.
    """

    key: str
    slot: str
    height: int
    width: int
    scale: float = 0.0
    grey: bool = False
    bgr: bool = False

    def frames(self, values: NDArray[Any], episode: str, findings: list[Finding]) -> NDArray[np.uint8]:
        """Rows of the source -> uint8 [T, H, W, 3]; inexact floats are rounded and reported.

        Raises:
            DataError: floats outside the range that their scale allows.
        """
        if self.scale:
            values = self._whole(values, episode, findings)
        if self.grey:
            values = np.repeat(values, 3, axis=-1)
        return np.ascontiguousarray(values[..., ::-1] if self.bgr else values)

    def _whole(self, values: NDArray[Any], episode: str, findings: list[Finding]) -> NDArray[np.uint8]:
        scaled = values.astype(np.float64) * self.scale
        whole = np.round(scaled)
        if not (np.isfinite(scaled).all() and whole.min() >= 0 and whole.max() <= 255):
            raise DataError(
                explain(
                    f"episode {episode}: data/{self.key} is not within 0..{255 / self.scale:g}",
                    given=f"{values.min()} to {values.max()}",
                    mend="give options.float_images the scale that the data set has",
                )
            )
        error = float(np.abs(scaled - whole).max())
        if error > TOLERANCE:
            message = f"floats of data/{self.key} are not whole grey levels; rounded, by at most {error:.3g} of 255"
            findings.append(Finding("rounded", message, "warning", episode, self.key))
        return whole.astype(np.uint8)


def image_arrays(
    buffer: ReplayBuffer, slots: Mapping[str, str], *, float_images: str, bgr: tuple[str, ...] = ()
) -> dict[str, ImageArray]:
    """The cameras of a replay buffer by key: rank 4, last axis 1 or 3, uint8 or float.

    Args:
        buffer: Open.
        slots: Key -> slot, where it is another name.
        float_images: One of :data:`FLOAT_SCALES`.
        bgr: Keys that hold blue first.

    Raises:
        DataError: the scale of a float array cannot be told, or a key of ``bgr`` is no image.
    """
    found = {}
    for key, header in buffer.arrays.items():
        if not _is_image(header):
            continue
        scale = 0.0
        if header.dtype.kind == "f":
            scale = {"0..255": 1.0, "0..1": 255.0}.get(float_images) or _float_scale(buffer, key)
        height, width, channels = header.width
        found[key] = ImageArray(key, slots.get(key, key), height, width, scale, channels == 1, key in bgr)
    unknown = sorted(set(bgr) - found.keys())
    if unknown:
        raise DataError(explain("no such image array", given=unknown, allowed=sorted(found)))
    return found


def _is_image(header: ArrayHeader) -> bool:
    return (
        len(header.shape) == 4 and header.shape[-1] in (1, 3) and (header.dtype == np.uint8 or header.dtype.kind == "f")
    )


def _float_scale(buffer: ReplayBuffer, key: str) -> float:
    """1 for grey levels 0..255, 255 for 0..1, from a few frames over the whole set; never from a single episode."""
    rows = int(buffer.ends[-1]) if len(buffer.ends) else 0
    frames = [
        buffer.group.read(f"data/{key}", r, r + 1) for r in np.unique(np.linspace(0, rows - 1, PROBES, dtype=int))
    ]
    values = np.concatenate(frames) if rows else np.empty(0)
    if values.size and values.max() > 1.0:
        return 1.0
    if values.size and (values != np.round(values)).any():
        return 255.0
    raise DataError(
        explain(
            f"{buffer.group.path}: whether the floats of data/{key} are 0..255 or 0..1 cannot be told",
            mend="options.float_images='0..255' or '0..1'",
        )
    )
