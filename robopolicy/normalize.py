"""Per-stream normalisation to [-1, 1] from the statistics of a store. Imports numpy only.

Min/max scaling and the treatment of rotations and near-constant channels follow Diffusion Policy (Chi et al. 2023,
appendix A.1). The one source of the numbers is the JSON in the checkpoint; torch modules hold copies as buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain

__all__ = ["NEAR_CONSTANT", "Normalizer", "StreamNormalizer"]

NEAR_CONSTANT = 1e-4
"""A channel whose range is below this (in its own unit) is only shifted: scaling would amplify noise."""
UNSCALED_UNITS = ("rotation_6d",)
"""Units left as they are: a 6-D rotation already lies in [-1, 1], and its columns must keep their common scale."""


@dataclass(frozen=True)
class StreamNormalizer:
    """``normalised = physical * scale + offset``, one pair per channel.

    Attributes:
        scale: f64 [n], strictly positive.
        offset: f64 [n].
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __post_init__(self) -> None:
        scale, offset = np.asarray(self.scale, np.float64), np.asarray(self.offset, np.float64)
        if scale.ndim != 1 or scale.shape != offset.shape:
            raise DataError(explain("scale and offset must both be [n]", given=(scale.shape, offset.shape)))
        if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
            raise DataError(
                explain("normaliser is not finite and positive", given=scale.tolist(), mend="recompute the statistics")
            )
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "offset", offset)

    @property
    def width(self) -> int:
        """Number of channels n."""
        return len(self.scale)

    def normalize(self, values: Any) -> NDArray[np.float64]:
        """Physical [..., n] -> normalised [..., n].

        Raises:
            DataError: wrong width.
        """
        return self._checked(values) * self.scale + self.offset

    def denormalize(self, values: Any) -> NDArray[np.float64]:
        """Normalised [..., n] -> physical [..., n].

        Raises:
            DataError: wrong width.
        """
        return (self._checked(values) - self.offset) / self.scale

    def _checked(self, values: Any) -> NDArray[np.float64]:
        array = np.asarray(values, np.float64)
        if array.ndim == 0 or array.shape[-1] != self.width:
            raise DataError(
                explain(
                    "array of another width than the normaliser",
                    given=array.shape,
                    allowed=f"[..., {self.width}]",
                    mend="use the data that the normaliser was made from",
                )
            )
        return array


def _fit(name: str, minimum: Any, maximum: Any, units: Sequence[str] | None) -> StreamNormalizer:
    low, high = np.asarray(minimum, np.float64), np.asarray(maximum, np.float64)
    if low.ndim != 1 or low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise DataError(
            explain(
                f"statistics of stream '{name}' are not finite [n] arrays",
                given=(low.tolist(), high.tolist()),
                mend="append at least one episode to the store and read its statistics again",
            )
        )
    if units is not None and len(units) != len(low):
        raise DataError(
            explain(f"stream '{name}' has {len(low)} channels, the embodiment card names {len(units)}", allowed=units)
        )
    span = high - low
    constant = span < NEAR_CONSTANT
    scale = np.where(constant, 1.0, 2.0 / np.where(constant, 1.0, span))
    offset = -scale * (high + low) / 2.0
    if units is not None:
        unscaled = np.isin(np.asarray(units), UNSCALED_UNITS)
        scale, offset = np.where(unscaled, 1.0, scale), np.where(unscaled, 0.0, offset)
    return StreamNormalizer(scale, offset)


@dataclass(frozen=True)
class Normalizer:
    """The normalisers of every low-dimensional stream a policy reads or writes.

    Attributes:
        streams: Stream name (``state``, ``environment_state``, ``action``) -> its normaliser.
    """

    streams: Mapping[str, StreamNormalizer]

    @classmethod
    def from_statistics(cls, statistics: Mapping[str, Any], embodiment: Embodiment) -> Normalizer:
        """Fit from ranges.

        Args:
            statistics: Stream -> object with ``min`` and ``max`` arrays [n] (attributes or keys).
            embodiment: Its card names the units of ``state`` and ``action`` channels.

        Raises:
            DataError: a range is missing, not finite, or of another width than the card.
        """
        units = {
            "state": [c.unit for c in embodiment.state.channels],
            "action": [c.unit for c in embodiment.action.channels],
        }
        fitted = {}
        for name, entry in statistics.items():
            low, high = _entry(name, entry, "min"), _entry(name, entry, "max")
            fitted[name] = _fit(name, low, high, units.get(name))
        return cls(fitted)

    def stream(self, name: str) -> StreamNormalizer:
        """The normaliser of one stream.

        Raises:
            DataError: there are no statistics of it.
        """
        if name not in self.streams:
            raise DataError(
                explain(
                    f"no statistics of stream '{name}'",
                    allowed=sorted(self.streams),
                    mend="train on a store that holds this stream, or leave it out of the policy's inputs",
                )
            )
        return self.streams[name]

    def require_width(self, name: str, width: int) -> StreamNormalizer:
        """The normaliser of ``name``, refused unless it has ``width`` channels.

        Raises:
            DataError: missing, or of another width.
        """
        found = self.stream(name)
        if found.width != width:
            raise DataError(
                explain(
                    f"normaliser of stream '{name}' has the wrong width",
                    given=found.width,
                    allowed=width,
                    mend="use the normaliser that belongs to this policy and embodiment",
                )
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain lists; floats survive JSON exactly."""
        return {k: {"scale": s.scale.tolist(), "offset": s.offset.tolist()} for k, s in self.streams.items()}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Normalizer:
        """Inverse of :meth:`to_dict`.

        Raises:
            DataError: an entry without scale or offset.
        """
        try:
            return cls({k: StreamNormalizer(np.array(v["scale"]), np.array(v["offset"])) for k, v in mapping.items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(explain("not a normaliser", given=mapping, allowed="{stream: {scale, offset}}")) from error


def _entry(name: str, entry: Any, key: str) -> Any:
    found = entry.get(key) if isinstance(entry, Mapping) else getattr(entry, key, None)
    if found is None:
        raise DataError(
            explain(f"statistics of stream '{name}' have no '{key}'", mend="recompute the statistics of the store")
        )
    return found
