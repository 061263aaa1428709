"""Split a store into new ones: by shares, by a field, by a condition, or by lists of episodes.

Exactly one of shares, by, where and lists says how. Whole episodes are copied, stored frames as they are. A split that
was stopped continues when the same command is given again.

Examples:
  robopolicy data split runs/pick.zarr out=runs/parts shares.train=0.9 shares.val=0.1 seed=0
  robopolicy data split runs/pick.zarr out=runs/by_success by=success
  robopolicy data split runs/pick.zarr out=runs/long where="length > 200"
  robopolicy data split runs/pick.zarr out=runs/two lists.a=[0,1,2] lists.b=[3,4]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robopolicy.cli.arguments import as_text, parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, explain

if TYPE_CHECKING:
    from robopolicy.data.store import EpisodeStore

__all__ = ["CONFIG", "SplitConfig", "run"]


@dataclass(frozen=True)
class SplitConfig:
    """Keys of ``robopolicy data split``."""

    store: str = setting("episode store; it is not changed")
    out: str = setting("folder of the new stores")
    shares: dict[str, Any] = setting("name of a part -> share of the episodes", default={})
    seed: int = setting("of the choice with shares", default=0)
    by: str | None = setting("field whose values make the parts: success, language, metadata.NAME", default=None)
    where: str | None = setting("condition that makes the parts yes and no", default=None)
    lists: dict[str, Any] = setting("name of a part -> episodes", default={})
    progress: bool = setting("show progress", default=True)


CONFIG = SplitConfig


def run(argv: Sequence[str]) -> int:
    """Split."""
    config = parse(SplitConfig, "data/split", as_text(argv, ["where", "by"]), positional=("store",))
    from robopolicy.cli.progress import telling
    from robopolicy.data.store import EpisodeStore
    from robopolicy.data.tools.parts import split_store

    parts, why = _parts(EpisodeStore.open(config.store), config)
    with telling("split", config.progress) as tell:
        made = split_store(config.store, config.out, parts, why=why, progress=tell)
    for copied in made.values():
        print(f"{copied.path}: {copied.episodes} episodes, {copied.steps} steps")
    return 0


def _parts(store: EpisodeStore, config: SplitConfig) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """The episodes of each part, and how they were chosen."""
    from robopolicy.data.tools.parts import by_field, by_shares
    from robopolicy.data.tools.records import select

    chosen = [name for name in ("shares", "by", "where", "lists") if getattr(config, name)]
    if len(chosen) != 1:
        ways = ("shares.train=0.9 shares.val=0.1", "by=success", "where='length > 200'", "lists.a=[0,1]")
        raise CommandError(explain("say in one way how to split", given=chosen or "none", allowed=ways))
    if config.shares:
        shares = _checked(config.shares, _is_number, "a number")
        return by_shares(store.num_episodes, shares, config.seed), {"shares": shares, "seed": config.seed}
    if config.by:
        return by_field(store, config.by), {"by": config.by}
    if config.where:
        yes = set(select(store, config.where))
        no = [i for i in range(store.num_episodes) if i not in yes]
        return {"yes": sorted(yes), "no": no}, {"where": config.where}
    lists = _checked(config.lists, lambda v: isinstance(v, (list, tuple)) and all(map(_is_whole, v)), "a list [0,1]")
    return lists, {"lists": lists}


def _checked(parts: Mapping[str, Any], right: Callable[[Any], bool], allowed: str) -> dict[str, Any]:
    wrong = {name: value for name, value in parts.items() if not right(value)}
    if wrong:
        raise CommandError(explain("unusable parts", given=wrong, allowed=f"{allowed} for every part"))
    return {str(name): value for name, value in parts.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
