"""Writes a store in another format: beside the destination first, and renamed when it is complete.

A writer is named by the key ``export: module:function`` of ``configs/format/<name>.yaml`` and is called as
``function(store, path, **options)``; its keyword arguments are its options, with their types and defaults. It may
return findings. A writer that is interrupted leaves nothing under the final name; the next run starts over.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import storage_errors, sync_folders
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, StorageError, UnknownNameError, explain, suggest
from robopolicy.registry import load_target, registry
from robopolicy.schema import build

__all__ = ["ExportReport", "export", "load_writer", "output_formats"]

Writer = Callable[..., Iterable[Finding] | None]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        out: File or folder.
        format: Its format.
        episodes, steps: In it.
        findings: What the format could not hold, or had to change.
        wall_s, cpu_s: Of this run.
    """

    out: Path
    format: str
    episodes: int
    steps: int
    findings: tuple[Finding, ...]
    wall_s: float
    cpu_s: float


def output_formats() -> list[str]:
    """Names of the formats that can be written."""
    formats = registry("format")
    found = []
    for name in formats.names():
        try:
            if "export" in formats.config(name):
                found.append(name)
        except UnknownNameError:
            continue  # an entry point without YAML can only be read
    return found


def load_writer(name: str) -> Writer:
    """The writer of a format.

    Raises:
        UnknownNameError: there is none.
    """
    known = output_formats()
    if name not in known:
        raise UnknownNameError(
            explain("no such output format", given=name, allowed=known, mend=suggest(name, known) or "format=<name>")
        )
    return typing.cast(Writer, load_target(str(registry("format").config(name)["export"])))


def export(
    store: str | Path, out: str | Path, *, format: str, options: Mapping[str, Any] | None = None
) -> ExportReport:
    """Write the store at ``store`` to ``out``.

    Args:
        store: An episode store.
        out: File or folder, which must not exist yet.
        format: Registered name of a format that can be written.
        options: Keyword arguments of its writer.

    Raises:
        UnknownNameError: no such format.
        ConfigError: options that the writer does not have.
        DataError: the store is empty, or holds something that the format cannot.
        StorageError: ``out`` exists, or the disk refused; nothing is left under its name.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    out = Path(out)
    writer = load_writer(format)
    given = _options(writer, options or {})
    opened = EpisodeStore.open(store)
    if not opened.num_episodes:
        raise DataError(explain(f"{store} has no episodes to export", mend="collect or convert some first"))
    if out.exists():
        raise StorageError(explain(f"{out} already exists", mend="choose another path, or remove it"))
    # The ending stays, because some writers decide by it (.hdf5, .zarr, .zarr.zip).
    staging = out.with_name(f".exporting.{out.name}")
    with storage_errors(out):
        _remove(staging)
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        findings = tuple(writer(opened, staging, **given) or ())
        with storage_errors(out):
            _sync(staging)
            os.replace(staging, out)
        sync_folders([out.parent])
    except BaseException:
        _remove(staging)
        raise
    return ExportReport(
        out,
        format,
        opened.num_episodes,
        opened.num_steps,
        findings,
        time.perf_counter() - wall,
        time.process_time() - cpu,
    )


def _options(writer: Writer, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` checked against the keyword arguments of the writer; unknown ones and wrong types all at once."""
    hints = typing.get_type_hints(writer)
    fields: list[Any] = []
    for parameter in list(inspect.signature(writer).parameters.values())[2:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, dataclasses.field(default=parameter.default)))
    schema = dataclasses.make_dataclass("Options", sorted(fields, key=len), frozen=True)
    checked: Any = build(schema, given, "options")
    return {name: getattr(checked, name) for name in given}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Put everything that was written on the disk before it gets its name."""
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
