"""Finds the format of a path: every registered format is asked, and exactly one has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.data.convert.source import Format, Source
from robopolicy.errors import ConfigError, DataError, UnknownNameError, explain, suggest
from robopolicy.registry import registry
from robopolicy.schema import build, fields_of

__all__ = ["describe_path", "input_formats", "load_format", "open_source", "recognise"]


def input_formats() -> list[str]:
    """Names of the formats that can be read: those whose YAML has a ``target``, and other packages' entry points."""
    formats = registry("format")
    found = []
    for name in formats.names():
        try:
            if "target" in formats.config(name):
                found.append(name)
        except UnknownNameError:
            found.append(name)  # an entry point has no YAML
    return found


def load_format(name: str) -> Format:
    """The registered format of that name.

    Raises:
        UnknownNameError: there is none that can be read.
    """
    known = input_formats()
    if name not in known:
        mend = suggest(name, known) or "leave format=auto"
        raise UnknownNameError(explain("no such input format", given=name, allowed=known, mend=mend))
    found = registry("format").load(name)
    if not isinstance(found, Format):
        raise DataError(explain(f"format '{name}' is not a Format", given=type(found).__name__))
    return found


def recognise(path: Path) -> str:
    """Name of the one format that knows ``path``.

    Raises:
        DataError: nothing there, no format knows it, or several do; the message says what was seen and why.
    """
    if not path.exists():
        raise DataError(explain(f"nothing to convert at {path}", mend="check the path"))
    reasons: dict[str, str] = {}
    unable: list[str] = []
    known = input_formats()
    for name in known:
        try:
            reason = load_format(name).detect(path)
        except (ConfigError, ImportError) as error:
            # one format that is not installed properly must not hide the others
            unable.append(f"{name} could not be asked ({error})")
            continue
        if reason:
            reasons[name] = reason
    if len(reasons) == 1:
        return next(iter(reasons))
    if not reasons:
        given = "; ".join([describe_path(path), *unable])
        raise DataError(
            explain(f"no format knows {path}", given=given, allowed=known, mend="name it yourself: format=<name>")
        )
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise DataError(
        explain(f"several formats know {path}", given=listed, mend=f"choose one: format={next(iter(reasons))}")
    )


def open_source(path: Path, name: str, options: Mapping[str, Any], repair: tuple[str, ...] = ()) -> Source:
    """Open ``path`` with a format; ``repair`` is handed on when its options have a field of that name.

    Raises:
        ConfigError: options that the format does not have.
        DataError: what the format says.
    """
    found = load_format(name)
    given = dict(options)
    if repair and "repair" in fields_of(found.options):
        given.setdefault("repair", list(repair))
    return found.open(path, build(found.options, given, "options"))


def describe_path(path: Path) -> str:
    """What is to be seen there, in a few words."""
    if path.is_file():
        with path.open("rb") as stream:
            return f"a file of {path.stat().st_size} B that begins with {stream.read(8)!r}"
    entries = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    return f"a folder with {', '.join(entries[:8]) or 'nothing in it'}" + (" ..." if len(entries) > 8 else "")
