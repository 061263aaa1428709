"""What one episode leaves behind: one record for simulation and arm. Imports no numpy, torch or mujoco."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from robopolicy.errors import DataError, explain, suggest

__all__ = ["LOST", "MEASURED_FIELDS", "TERMINATIONS", "EpisodeResult"]

TERMINATIONS = ("success", "timeout", "fault", "unstable")
"""Why an episode ended: solved and held, out of steps, safety fault latched, physics diverged. A task may add words of
its own for what cannot be mended (``dropped``), in lower case."""

LOST = ("environment_crashed", "environment_hung")
"""Terminations of an episode that was not evaluated: the process of the simulation was lost, so nothing is known of the
policy. Such an episode counts neither as a success nor as a failure."""

MEASURED_FIELDS = ("inference_ms", "cpu_s", "video", "lost_attempts")
"""Fields that depend on the machine or on where files were put; all others are a function of the episode's seed."""

_TEXT = ("split", "task", "embodiment", "termination")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COUNTS = (
    "index",
    "length",
    "ticks",
    "tracking_ticks",
    "missing_setpoints",
    "clipped_ticks",
    "chunks",
    "lost_attempts",
)
_FLAGS = ("success_once", "success_at_end")
_REALS = ("duration_s", "latency_ms", "max_seam_velocity_step", "cpu_s")
_LISTS = ("inference_ms", "initial_state")


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One finished episode. Numpy scalars and arrays are accepted and stored as plain, JSON-able Python.

    Attributes:
        index: Episode index inside its split.
        split: ``train``, ``val`` or ``test``.
        task: Name of the task.
        embodiment: Name of the embodiment card.
        success_once: The task's condition had lasted for its hold time at some tick.
        success_at_end: It still had when the episode ended; the two differ where an episode goes on after success.
        length: Control steps.
        duration_s: Time of the executor's clock: simulated in ``eval``, real in ``deploy``.
        termination: One of :data:`TERMINATIONS`, or a task's own word.
        inference_ms: Measured time of each policy call, milliseconds.
        latency_ms: Mean latency that was applied between an observation and its chunk, milliseconds.
        ticks: Setpoint ticks of the episode.
        tracking_ticks: Ticks in mode ``tracking``.
        missing_setpoints: Ticks at which the arm was due a setpoint and got none.
        clipped_ticks: Ticks at which the limiter changed the command.
        max_seam_velocity_step: Largest velocity step at a chunk seam, in ticks of the acceleration limit (1 = allowed).
        chunks: Chunks that the executor accepted.
        initial_state: State after reset, physical units; two runs of one index must agree in it.
        cpu_s: CPU time of the process over the episode, and the episode's share of a shared inference process.
        video: Path of the video relative to the report's folder, or None.
        success_instant: The condition was true at some tick, held or not; None where it was not watched.
        peak_force_n: Largest normal force (N) between the robot and anything else at a tick, summed over the contact
            points of one pair of bodies; None where it was not measured.
        metrics: Figures of the task itself, by name with unit.
        seam_jump_m, max_seam_jump_m: Mean and largest distance (m) of the TCP between what was scheduled and the first
            value of a chunk that took over in motion; None where it was not measured.
        lost_attempts: How often its simulation crashed or hung, so that it was run again from the start.

    Raises:
        DataError: a field has the wrong type, is not finite, or contradicts another; every problem is named.
    """

    index: int
    split: str
    task: str
    embodiment: str
    success_once: bool
    success_at_end: bool
    length: int
    duration_s: float
    termination: str
    inference_ms: Sequence[float]
    latency_ms: float
    ticks: int
    tracking_ticks: int
    missing_setpoints: int
    clipped_ticks: int
    max_seam_velocity_step: float
    chunks: int
    initial_state: Sequence[float]
    cpu_s: float = 0.0
    video: str | None = None
    success_instant: bool | None = None
    peak_force_n: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    lost_attempts: int = 0
    seam_jump_m: float | None = None
    max_seam_jump_m: float | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, check in _CHECKS.items():
            try:
                object.__setattr__(self, name, check(getattr(self, name)))
            except TypeError as error:
                problems.append(f"{name} must be {error}, given: {getattr(self, name)!r}")
        if not problems:
            problems = list(self._contradictions())
        if problems:
            raise DataError(explain(f"episode {self.index!r} has a bad record", given="; ".join(problems)))

    def _contradictions(self) -> list[str]:
        found = []
        if not _WORD.fullmatch(self.termination):
            found.append(f"termination {self.termination!r} is neither one of {', '.join(TERMINATIONS)} nor a word")
        if self.success_at_end and not self.success_once:
            found.append("success_at_end without success_once")
        if self.termination == "success" and not self.success_once:
            found.append("termination 'success' without success_once")
        if self.lost and (self.success_once or not self.lost_attempts):
            found.append("an episode that was lost has no success, and has been lost at least once")
        if self.success_once and self.success_instant is False:
            found.append("success_once without success_instant")
        if max(self.tracking_ticks, self.clipped_ticks) > self.ticks:
            found.append(
                f"tracking_ticks {self.tracking_ticks} or clipped_ticks {self.clipped_ticks} > ticks {self.ticks}"
            )
        return found

    @property
    def key(self) -> tuple[str, str, str, int]:
        """(task, embodiment, split, index): what makes two episodes the same episode."""
        return self.task, self.embodiment, self.split, self.index

    @property
    def lost(self) -> bool:
        """Whether it was not evaluated, see :data:`LOST`."""
        return self.termination in LOST

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, ready for strict JSON."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain |= {name: list(plain[name]) for name in _LISTS} | {"metrics": dict(self.metrics)}
        return plain

    def outcome(self) -> dict[str, Any]:
        """:meth:`to_dict` without :data:`MEASURED_FIELDS`: equal for any number of workers and any order."""
        return {name: value for name, value in self.to_dict().items() if name not in MEASURED_FIELDS}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> EpisodeResult:
        """Inverse of :meth:`to_dict`; what has a default may be missing.

        Raises:
            DataError: a key is unknown or missing, or a value is bad; all problems in one message.
        """
        names = [item.name for item in fields(cls)]
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        unknown = [f"'{key}' ({suggest(str(key), names) or 'no such field'})" for key in mapping if key not in names]
        missing = [name for name in needed if name not in mapping]
        if unknown or missing:
            given = "; ".join(
                ([f"unknown {', '.join(unknown)}"] if unknown else [])
                + ([f"missing {', '.join(missing)}"] if missing else [])
            )
            raise DataError(explain("an episode record has the wrong fields", given=given, allowed=names))
        return cls(**mapping)


def _plain(value: Any) -> Any:
    """Numpy scalars as Python numbers, without importing numpy."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a non-empty string")
    return value


def _flag(value: Any) -> bool:
    value = _plain(value)
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _count(value: Any) -> int:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("an integer >= 0")
    return value


def _finite(value: Any) -> float:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError("a finite number")
    return float(value)


def _real(value: Any) -> float:
    try:
        number = _finite(value)
    except TypeError:
        number = -1.0
    if number < 0:
        raise TypeError("a finite number >= 0")
    return number


def _list(value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, bytes, Mapping)):
        raise TypeError("a list of finite numbers")
    try:
        return tuple(_finite(item) for item in value)
    except TypeError:
        raise TypeError("a list of finite numbers") from None


def _maybe(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _figures(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise TypeError("a mapping of names to finite numbers")
    try:
        return {name: _finite(item) for name, item in value.items()}
    except TypeError:
        raise TypeError("a mapping of names to finite numbers") from None


_CHECKS = {
    **dict.fromkeys(_TEXT, _text),
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_FLAGS, _flag),
    **dict.fromkeys(_REALS, _real),
    **dict.fromkeys(_LISTS, _list),
    "video": _maybe(_text),
    "success_instant": _maybe(_flag),
    "peak_force_n": _maybe(_real),
    "seam_jump_m": _maybe(_real),
    "max_seam_jump_m": _maybe(_real),
    "metrics": _figures,
}
