"""The jobs of a sweep: overrides in Hydra's grammar, multiplied out as Hydra's basic sweeper does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robopolicy.errors import ConfigError, explain

__all__ = ["SEED", "SHORT", "Job", "read_grid"]

SEED = "recipe.seed"
SHORT = {"seed": SEED}
"""Keys that may be written shorter."""
LONGEST_NAME = 120


@dataclass(frozen=True)
class Job:
    """One training run of a sweep.

    Attributes:
        name: Of its folder, from what is swept.
        overrides: Of ``robopolicy train``, all of them but ``out``.
        swept: Key -> value of what differs between jobs, as text.
    """

    name: str
    overrides: tuple[str, ...]
    swept: Mapping[str, str]

    @property
    def seed(self) -> str | None:
        """Value of ``recipe.seed`` if it is swept."""
        return self.swept.get(SEED)

    @property
    def group(self) -> tuple[tuple[str, str], ...]:
        """What is swept apart from the seed: jobs that share it are pooled."""
        return tuple((key, value) for key, value in self.swept.items() if key != SEED)


def read_grid(words: Sequence[str]) -> list[Job]:
    """Every combination of the values given, the last key varying fastest.

    Args:
        words: ``key=value``; ``key=a,b``, ``key=choice(a,b)`` and ``key=range(0,3)`` are swept.

    Raises:
        ConfigError: every word that cannot be read, and combinations that appear twice.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, problems = OverridesParser.create(), []
    fixed: list[str] = []
    sweeps: list[Any] = []
    for word in map(_long, words):
        try:
            override = parser.parse_override(word)
            if override.is_sweep_override():
                BasicSweeper.split_arguments([override], None)  # refuses what has no list of values
                sweeps.append(override)
            else:
                fixed.append(word)
        except HydraException as error:
            line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            mend = "values apart by commas without spaces, choice(a,b), or range(first,end)"
            problems.append(explain("override cannot be read", given=f"{word} ({line})", mend=mend))
    if problems:
        raise ConfigError(problems)
    rows = BasicSweeper.split_arguments(sweeps, None)[0] if sweeps else [[]]
    points = [dict(element.split("=", 1) for element in row) for row in rows]
    if len({tuple(point.items()) for point in points}) < len(points):
        raise ConfigError(explain("a value is swept twice", given=list(words), mend="give each value once"))
    names = _names([{key.lstrip("+"): value for key, value in point.items()} for point in points])
    return [
        Job(
            name=name,
            overrides=(*fixed, *(f"{key}={value}" for key, value in point.items())),
            swept={key.lstrip("+"): value for key, value in point.items()},
        )
        for name, point in zip(names, points, strict=True)
    ]


def _long(word: str) -> str:
    key, has_value, value = word.partition("=")
    return f"{SHORT.get(key, key)}{has_value}{value}"


def _names(points: Sequence[Mapping[str, str]]) -> list[str]:
    """``seed_0-lr_0.001``: the last part of each key where that tells them apart.

    Without ``=`` and commas: the folder of a run is given on command lines, where those mean something else.
    """
    keys = list(points[0])
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: (end if last.count(end) == 1 else key) for key, end in zip(keys, last, strict=True)}
    whole = ["-".join(f"{short[key]}_{value}" for key, value in point.items()) or "job" for point in points]
    names = [re.sub(r"[^A-Za-z0-9_.+-]+", "_", text) for text in whole]
    clear = len(set(names)) == len(names) and max(map(len, names)) <= LONGEST_NAME
    if clear:
        return names
    return [
        f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for name, text in zip(names, whole, strict=True)
    ]
