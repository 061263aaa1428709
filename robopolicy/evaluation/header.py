"""Who was evaluated on what, and how to do it again: the head of a report."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from robopolicy.errors import DataError, explain, suggest
from robopolicy.evaluation.files import plain

__all__ = ["ReportHeader", "plain_header", "versions"]

_PACKAGES = ("robopolicy", "numpy", "torch", "mujoco", "zarr")


@dataclass(frozen=True, kw_only=True)
class ReportHeader:
    """What was evaluated and how to do it again.

    Attributes:
        task: Name of the task.
        embodiment: Name of the embodiment card.
        policy: Name of the policy family or baseline (``diffusion``, ``null``, ``expert`` ...).
        split: Split of the episodes.
        variant: Variant of the simulation.
        embodiment_hash: Content hash of the card.
        checkpoint: Where the weights came from, None for a baseline.
        checkpoint_hash: Content hash of the checkpoint, None for a baseline.
        episodes: Indices asked for, of which those without a result are reported as missing; None: those with one.
        command: The command line that makes this report again.
        seeds: Named seeds (training, noise ...).
        control: Configuration of the executor and the latency model.
        extra: Anything else worth keeping, JSON-able.
    """

    task: str
    embodiment: str
    policy: str
    split: str
    variant: str = "nominal"
    embodiment_hash: str | None = None
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_hash: str | None = None
    episodes: Iterable[int] | None = None
    command: str | Sequence[str] | None = None
    seeds: Any = field(default_factory=dict)
    control: Any = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that decide a result, read from metadata without importing any of them."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def plain_header(header: ReportHeader | Mapping[str, Any]) -> dict[str, Any]:
    """A header as plain, JSON-able containers.

    Raises:
        DataError: unknown or missing fields, or a value that JSON does not know.
    """
    if isinstance(header, Mapping):
        names = [item.name for item in dataclasses.fields(ReportHeader)]
        unknown = [f"unknown '{key}' ({suggest(str(key), names) or 'see extra'})" for key in header if key not in names]
        absent = [f"missing {name}" for name in names[:4] if not header.get(name)]
        if unknown or absent:
            raise DataError(explain("the report header is wrong", given="; ".join(unknown + absent), allowed=names))
        header = ReportHeader(**header)
    asked = None if header.episodes is None else [int(index) for index in header.episodes]
    return plain(dataclasses.replace(header, episodes=asked), "header")
