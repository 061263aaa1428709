"""What a mixture is made of, as frozen dataclasses filled from ``configs/mixture/*.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from robopolicy.config import build, setting
from robopolicy.errors import ConfigError, explain

__all__ = ["MemberConfig", "MixtureConfig", "is_mixture", "read_mixture"]


@dataclass(frozen=True)
class MemberConfig:
    """One store of a mixture."""

    path: str = setting("episode store")
    weight: float | None = setting(
        "share of the batch, relative to the others; null: from the size", default=None, gt=0
    )
    cameras: dict[str, str] = field(
        default_factory=dict, metadata={"help": "role -> camera of the store; a role of the same name needs no entry"}
    )
    slots: dict[str, str] = field(
        default_factory=dict, metadata={"help": "channel -> slot, where the card does not tell it"}
    )
    like: str | None = setting(
        "robot of another store whose ranges its robot uses, so that both speak of the same numbers; null: its own",
        default=None,
    )
    leave_out_unknown: bool = setting("leave channels without a slot out instead of refusing them", default=False)


@dataclass(frozen=True)
class MixtureConfig:
    """Stores that are trained on together."""

    stores: tuple[MemberConfig, ...] = setting("two or more; one is allowed")
    temperature: float = setting("share ~ size ^ (1 / temperature); 1: every window alike", default=1.0, gt=0)
    rate_hz: float | None = setting("common rate; null: that of the stores, which must be the same", default=None, gt=0)
    form: Literal["absolute", "relative", "increment"] | None = setting(
        "what a chunk says; null: as the recipe's action_form", default=None
    )
    frame: Literal["base", "tool"] = setting("axes of relative poses", default="base")
    image_size: tuple[int, int] | None = setting("height, width of camera slots; null: that of the data", default=None)
    description: str = setting("one line for people", default="")

    def __post_init__(self) -> None:
        problems = []
        if not self.stores:
            problems.append(explain("a mixture needs stores", mend="stores: [{path: runs/a.zarr}, ...]"))
        weighted = [m.path for m in self.stores if m.weight is not None]
        if weighted and len(weighted) < len(self.stores):
            missing = [m.path for m in self.stores if m.weight is None]
            problems.append(explain("give a weight to every store or to none", given=f"none for {missing}"))
        if weighted and self.temperature != 1.0:
            problems.append(explain("weights and a temperature exclude each other", given=self.temperature))
        paths = [m.path for m in self.stores]
        if len(set(paths)) < len(paths):
            problems.append(explain("a store stands in the mixture twice", given=paths, mend="raise its weight"))
        if problems:
            raise ConfigError(problems)


def is_mixture(data: str | Path) -> bool:
    """Whether ``data=`` names the YAML of a mixture; anything else is a store."""
    return Path(data).suffix in (".yaml", ".yml")


def read_mixture(source: str | Path | Mapping[str, Any]) -> MixtureConfig:
    """From its YAML, or from the same as a mapping. Paths in it are relative to the working directory.

    Raises:
        ConfigError: no such file, or everything wrong with its content.
    """
    if isinstance(source, Mapping):
        return build(MixtureConfig, source, where="mixture")
    path = Path(source)
    if not path.is_file():
        raise ConfigError(explain("no such mixture", given=path, mend="check the path of the YAML"))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(explain(f"{path} is not YAML: {error}")) from error
    return build(MixtureConfig, content or {}, where=str(path))
