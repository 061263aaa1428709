"""Channels of a LeRobot recording -> channels of an embodiment card, by name and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from robopolicy.data.convert.lerobot_features import Feature
from robopolicy.embodiment import ChannelGroup, Embodiment
from robopolicy.errors import EmbodimentError, explain
from robopolicy.registry import config_roots

__all__ = ["ChannelMap", "known_names", "map_channels"]

FOLDER = "data/lerobot_names"
"""Below every configuration root: ``<card>.yaml``, name in the source -> channel, or -> {channel, scale, offset} where
the source counts otherwise (a gripper in percent): stored = source * scale + offset."""


@dataclass(frozen=True)
class ChannelMap:
    """Where each channel of the store stands in the source's vector.

    Attributes:
        order: Position in the source of every channel.
        angles: Whether the channel is an angle in the card's unit rad.
        scale, offset: Of every channel, applied after degrees have become radians; () for none.
    """

    order: tuple[int, ...]
    angles: tuple[bool, ...]
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    @classmethod
    def same(cls, width: int) -> ChannelMap:
        """The source's own order."""
        return cls(tuple(range(width)), (False,) * width)

    def apply(self, values: NDArray[np.floating], unit: str) -> NDArray[np.float32]:
        """[T, n] of the source -> f32 [T, C] of the store; ``unit`` of the source's angles, ``rad`` or ``deg``."""
        out = np.asarray(values)[:, list(self.order)]
        if unit == "deg":
            out = np.where(self.angles, np.deg2rad(out.astype(np.float64)), out)
        if any(s != 1.0 for s in self.scale) or any(self.offset):
            out = out.astype(np.float64) * self.scale + self.offset
        return out.astype(np.float32)


@dataclass(frozen=True)
class _Entry:
    channel: str
    scale: float = 1.0
    offset: float = 0.0


def known_names(card: str) -> dict[str, Any]:
    """The table of names for a card, empty when there is none."""
    for root in config_roots():
        path = root / FOLDER / f"{card}.yaml"
        if path.is_file():
            return {str(k): v for k, v in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items()}
    return {}


def map_channels(card: Embodiment, role: str, feature: Feature, given: Mapping[str, str]) -> ChannelMap:
    """Find every channel of the card among the names of a feature.

    A name is looked up in ``given``, then in the card's table, then taken as it is.

    Raises:
        EmbodimentError: a channel that no name leads to, a name that leads to none, or two that lead to the same.
    """
    group: ChannelGroup = getattr(card, role)
    table = {name: _entry(name, value) for name, value in {**known_names(card.name), **given}.items()}
    entries = [table.get(name, _Entry(name)) for name in feature.names]
    named = [entry.channel for entry in entries]
    missing = [n for n in group.names if n not in named]
    unknown = [source for source, n in zip(feature.names, named, strict=True) if n not in group.names]
    twice = sorted({n for n in named if named.count(n) > 1})
    if missing or unknown or twice:
        raise EmbodimentError(
            explain(
                f"'{feature.key}' does not fit the {role} of the card '{card.name}': "
                f"no name leads to {missing}, {unknown} lead nowhere" + (f", twice {twice}" if twice else ""),
                given=feature.names,
                allowed=group.names,
                mend="map them: options.channels={<name in the source>: <channel>}, or leave embodiment empty",
            )
        )
    order = tuple(named.index(n) for n in group.names)
    angles = tuple(c.unit == "rad" for c in group.channels)
    return ChannelMap(order, angles, tuple(entries[i].scale for i in order), tuple(entries[i].offset for i in order))


def _entry(name: str, value: Any) -> _Entry:
    if isinstance(value, str):
        return _Entry(value)
    try:
        return _Entry(str(value["channel"]), float(value.get("scale", 1.0)), float(value.get("offset", 0.0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EmbodimentError(
            explain(f"the name '{name}' leads nowhere", given=value, allowed="<channel> or {channel, scale, offset}")
        ) from error
