"""The records of the episodes of a store, for tables, conditions and pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from robopolicy.data.contents import StoreContents
from robopolicy.data.tools.expression import matching, parse_expression
from robopolicy.errors import CommandError, explain

__all__ = ["check_indices", "fields_of_episode", "select", "source_id"]


def fields_of_episode(store: StoreContents, index: int) -> dict[str, Any]:
    """What a condition can ask of an episode, see :data:`robopolicy.data.tools.expression.FIELDS`."""
    info = store.info(index)
    return {
        "index": index,
        "success": bool(info["success"]),
        "language": info["language"],
        "length": info["length"],
        "duration_s": info["length"] / store.fps,
        "metadata": info["metadata"],
    }


def source_id(metadata: Mapping[str, Any]) -> str:
    """Where an episode says that it is from, or nothing."""
    source = metadata.get("source")
    return str(source.get("id", "")) if isinstance(source, Mapping) else ""


def select(store: StoreContents, condition: str) -> list[int]:
    """Indices of the episodes for which a condition holds.

    Raises:
        CommandError: the condition, with the place of the fault.
    """
    expression = parse_expression(condition)
    return matching(expression, (fields_of_episode(store, i) for i in range(store.num_episodes)))


def check_indices(store: StoreContents, episodes: Sequence[int]) -> list[int]:
    """Indices as given, each an episode of the store and named once.

    Raises:
        CommandError: out of range, negative, or repeated.
    """
    allowed = f"0 to {store.num_episodes - 1}, each once"
    wrong = [i for i in episodes if not 0 <= i < store.num_episodes]
    if wrong:
        mend = f"robopolicy data info {store.path} episodes=true lists them"
        raise CommandError(explain(f"{store.path} has no such episode", given=wrong, allowed=allowed, mend=mend))
    repeated = sorted(i for i, count in Counter(episodes).items() if count > 1)
    if repeated:
        raise CommandError(explain("an episode is named more than once", given=repeated, allowed=allowed))
    return [int(i) for i in episodes]
