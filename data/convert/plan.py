"""What was asked of a conversion, and what follows from it for the store; the same in every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.data.audit_checks import check_plan
from robopolicy.data.convert.prepare import Preparation
from robopolicy.data.convert.recognise import load_format, open_source
from robopolicy.data.convert.source import Source, SourceInfo
from robopolicy.data.episode import joint_streams, stream_specs
from robopolicy.embodiment import ChannelGroup, Embodiment, load_embodiment
from robopolicy.errors import EmbodimentError, explain
from robopolicy.schema import fields_of

__all__ = ["Opened", "Request", "open_conversion"]


@dataclass(frozen=True)
class Request:
    """The part of the arguments that decides what the episodes look like.

    Attributes:
        source: Path.
        format: Name, no longer ``auto``.
        options: Of the format.
        repair: Names of repairs.
        embodiment: Name or YAML of a card that replaces the source's, empty for none.
        image_size: (height, width) of all cameras, None to leave them.
        codec: Of the store.
    """

    source: str
    format: str
    options: Mapping[str, Any] = field(default_factory=dict)
    repair: tuple[str, ...] = ()
    embodiment: str = ""
    image_size: tuple[int, int] | None = None
    codec: str = "jpeg"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Request:
        """Inverse of :meth:`to_dict`."""
        size = entry["image_size"]
        given = {**entry, "repair": tuple(entry["repair"]), "image_size": tuple(size) if size else None}
        return cls(**given)


@dataclass(frozen=True)
class Opened:
    """An opened source, its description as the store will have it, and how episodes are prepared."""

    source: Source
    info: SourceInfo
    preparation: Preparation


def open_conversion(request: Request) -> Opened:
    """Open the source as ``request`` says.

    Raises:
        DataError, ConfigError, EmbodimentError: as the format says, or a card that does not fit.
    """
    options, replace = dict(request.options), bool(request.embodiment)
    if replace and "embodiment" in fields_of(load_format(request.format).options):
        options["embodiment"], replace = request.embodiment, False
    source = open_source(Path(request.source), request.format, options, request.repair)
    try:
        info = source.info
        orders: list[tuple[int, ...] | None] = [None, None]
        if replace:
            card = load_embodiment(request.embodiment)
            orders = [_order(info.embodiment, card, kind) for kind in ("state", "action")]
            info = dataclasses.replace(info, embodiment=card)
        if request.image_size is not None:
            info = dataclasses.replace(info, cameras=dict.fromkeys(info.cameras, request.image_size))
        extra = {**(joint_streams(info.embodiment) if info.joints else {}), **info.extra}
        specs = stream_specs(info.embodiment, info.environment_state, info.cameras, extra)
        plan = check_plan(info.embodiment, info.fps, specs)
        return Opened(source, info, Preparation(info.cameras, request.codec, plan, *orders))
    except BaseException:
        source.close()
        raise


def _order(mine: Embodiment, card: Embodiment, kind: str) -> tuple[int, ...] | None:
    """Where each channel of ``card`` stands in the source's vector; None when it is the same order.

    Raises:
        EmbodimentError: other names.
    """
    given: ChannelGroup = getattr(mine, kind)
    wanted: ChannelGroup = getattr(card, kind)
    if set(given.names) != set(wanted.names):
        raise EmbodimentError(
            explain(
                f"the card '{card.name}' does not fit the source: its {kind} has other channels",
                given=given.names,
                allowed=wanted.names,
                mend="use a card with these names, or an option of the format that maps them",
            )
        )
    order = tuple(given.index(name) for name in wanted.names)
    return None if order == tuple(range(len(order))) else order
