"""Named scalars in a fixed order: the only translator between names and positions in a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import EmbodimentError, explain, suggest

__all__ = ["Channel", "ChannelGroup"]


@dataclass(frozen=True)
class Channel:
    """One named scalar.

    Attributes:
        name: Unique within its group.
        unit: ``rad``, ``m``, ``normalised`` ...
        lower, upper: Admissible range in ``unit``.
        max_velocity: ``unit``/s.
        max_acceleration: ``unit``/s^2.
        max_jerk: ``unit``/s^3.
    """

    name: str
    unit: str
    lower: float
    upper: float
    max_velocity: float = float("inf")
    max_acceleration: float = float("inf")
    max_jerk: float = float("inf")

    def __post_init__(self) -> None:
        if not (np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper):
            raise EmbodimentError(explain(f"channel '{self.name}' needs lower < upper", given=(self.lower, self.upper)))
        for limit in ("max_velocity", "max_acceleration", "max_jerk"):
            if not getattr(self, limit) > 0:
                raise EmbodimentError(explain(f"channel '{self.name}' needs {limit} > 0", given=getattr(self, limit)))


@dataclass(frozen=True)
class ChannelGroup:
    """An ordered set of channels; the only translator between names and positions in a vector."""

    channels: tuple[Channel, ...]

    def __len__(self) -> int:
        return len(self.channels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Channel names in vector order."""
        return tuple(c.name for c in self.channels)

    @cached_property
    def lower(self) -> NDArray[np.float64]:
        """[n] lower bounds."""
        return np.array([c.lower for c in self.channels])

    @cached_property
    def upper(self) -> NDArray[np.float64]:
        """[n] upper bounds."""
        return np.array([c.upper for c in self.channels])

    def limit(self, kind: str) -> NDArray[np.float64]:
        """[n] of ``max_velocity``, ``max_acceleration`` or ``max_jerk``."""
        return np.array([getattr(c, kind) for c in self.channels], dtype=float)

    def index(self, name: str) -> int:
        """Position of ``name``.

        Raises:
            EmbodimentError: no such channel.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise EmbodimentError(
                explain("no such channel", given=repr(name), allowed=self.names, mend=suggest(name, self.names))
            ) from None

    def select(self, prefix: str) -> NDArray[np.intp]:
        """Positions of all channels named ``prefix`` or ``prefix.*``, in vector order."""
        found = [i for i, n in enumerate(self.names) if n == prefix or n.startswith(prefix + ".")]
        if not found:
            raise EmbodimentError(explain("no channel with that prefix", given=repr(prefix), allowed=self.names))
        return np.array(found)

    def pack(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Named scalars (or arrays of one shape ``[...]``) -> ``[..., n]``, in any order of the mapping.

        Raises:
            EmbodimentError: a channel is missing or unknown.
        """
        missing, unknown = set(self.names) - set(values), set(values) - set(self.names)
        if missing or unknown:
            raise EmbodimentError(
                explain(
                    f"cannot pack: missing {sorted(missing)}, unknown {sorted(unknown)}",
                    allowed=self.names,
                    mend="; ".join(filter(None, (suggest(n, self.names) for n in sorted(unknown)))) or None,
                )
            )
        if not self.channels:
            return np.zeros(0)
        return np.stack([np.asarray(values[n], dtype=float) for n in self.names], axis=-1)

    def unpack(self, vector: Any) -> dict[str, NDArray[np.float64]]:
        """``[..., n]`` -> named arrays ``[...]``.

        Raises:
            EmbodimentError: wrong width.
        """
        vector = np.asarray(vector, dtype=float)
        if vector.ndim == 0 or vector.shape[-1] != len(self):
            raise EmbodimentError(
                explain("vector of the wrong width", given=vector.shape, allowed=f"[..., {len(self)}]: {self.names}")
            )
        return {n: vector[..., i] for i, n in enumerate(self.names)}
