"""Every error of the project: one root, and each also the builtin that a caller expects.

A message has four parts, made by :func:`explain`: what was wrong, what was given, what is allowed, how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "CommandError",
    "ConfigError",
    "DataError",
    "DeployError",
    "EmbodimentError",
    "EmbodimentMismatchError",
    "MissingDependencyError",
    "NonFiniteError",
    "RobopolicyError",
    "SafetyFaultError",
    "ShapeError",
    "SimulationError",
    "StorageError",
    "StoreNotFoundError",
    "UnknownNameError",
    "explain",
    "suggest",
]


class RobopolicyError(Exception):
    """Root of all errors that the project raises on purpose."""


class ConfigError(RobopolicyError, ValueError):
    """A configuration that cannot be used; ``problems`` lists every fault found, not the first."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems in the configuration:\n  - "
        super().__init__(head + "\n  - ".join(self.problems))


class UnknownNameError(RobopolicyError, LookupError):
    """A name that no registry, folder or card knows."""


class EmbodimentError(RobopolicyError, ValueError):
    """An embodiment card that contradicts itself, or a channel that a card does not have."""


class EmbodimentMismatchError(RobopolicyError, ValueError):
    """Data, checkpoint or robot made for another embodiment."""


class DataError(RobopolicyError, ValueError):
    """Data that the store refuses: missing stream, wrong width, broken file."""


class NonFiniteError(DataError):
    """A NaN or an infinity where a finite number is required."""


class ShapeError(DataError):
    """An array of the wrong shape or dtype."""


class StoreNotFoundError(RobopolicyError, FileNotFoundError):
    """No episode store at the path given."""


class StorageError(RobopolicyError, OSError):
    """The disk refused: full, read-only, or gone. What was committed before is intact."""


class CheckpointError(RobopolicyError, ValueError):
    """A checkpoint that is cut, altered, incomplete or of another kind."""


class SimulationError(RobopolicyError, RuntimeError):
    """A simulation that cannot be built or went unstable."""


class SafetyFaultError(RobopolicyError, RuntimeError):
    """A latched safety fault; the arm holds and a person has to arm it again."""


class DeployError(RobopolicyError, RuntimeError):
    """The deploy daemon or a process of it failed."""


class CommandError(RobopolicyError, ValueError):
    """A command line that cannot be carried out."""


class MissingDependencyError(RobopolicyError, ImportError):
    """A package or a system library that is not installed."""


def explain(what: str, *, given: object = None, allowed: object = None, mend: str | None = None) -> str:
    """Compose an error message of up to four parts.

    Args:
        what: What was wrong, one clause, no full stop.
        given: The offending value, shown as it is.
        allowed: What would have been accepted.
        mend: What the reader can do now.
    """
    parts = [what]
    if given is not None:
        parts.append(f"given: {given}")
    if allowed is not None:
        shown = ", ".join(map(str, allowed)) if isinstance(allowed, (list, tuple, set, frozenset)) else str(allowed)
        parts.append(f"allowed: {shown}")
    if mend is not None:
        parts.append(f"mend: {mend}")
    return "; ".join(parts)


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name nearest to ``name``, as a 'did you mean' clause, or None."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
