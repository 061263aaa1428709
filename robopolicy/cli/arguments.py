"""What the verbs share: positional arguments, ``--option value``, and the table of keys for ``--help``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml

from robopolicy.errors import CommandError, explain, suggest
from robopolicy.registry import config_roots
from robopolicy.schema import UNSET, fields_of, type_name

__all__ = ["as_text", "describe_keys", "flags", "parse", "split_arguments"]

T = TypeVar("T")


def split_arguments(
    argv: Sequence[str], *, positional: Sequence[str] = (), options: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Separate ``--option VALUE`` and positional arguments from ``key=value`` overrides.

    Args:
        argv: Arguments after the verb.
        positional: Names that the positional arguments take, in order; all may be left out.
        options: Option names without dashes.

    Returns:
        Named values, and the overrides in their order.

    Raises:
        CommandError: unknown option, option without value, too many positional arguments.
    """
    named: dict[str, str] = {}
    overrides: list[str] = []
    free = list(positional)
    rest = iter(argv)
    for argument in rest:
        if argument.startswith("--"):
            name, has_value, value = argument[2:].partition("=")
            if name not in options:
                mend = suggest(name, options) or f"write {name}=VALUE for a key of the configuration"
                raise CommandError(
                    explain("unknown option", given=argument, allowed=[f"--{o}" for o in options], mend=mend)
                )
            given = value if has_value else next(rest, None)
            if given is None or given == "":
                raise CommandError(explain(f"--{name} needs a value", given=argument, mend=f"--{name} VALUE"))
            named[name] = given
        elif "=" in argument or argument.startswith("~"):
            overrides.append(argument)
        elif free:
            named[free.pop(0)] = argument
        else:
            allowed = [*(f"<{p}>" for p in positional), "key=value"]
            raise CommandError(
                explain("argument not understood", given=argument, allowed=allowed, mend=f"{argument}=VALUE")
            )
    return named, overrides


def flags(argv: Sequence[str], known: Sequence[str]) -> set[str]:
    """The ``--flag`` arguments of a verb that takes nothing else.

    Raises:
        CommandError: any other argument.
    """
    for argument in argv:
        if not argument.startswith("--") or argument[2:] not in known:
            allowed = [f"--{name}" for name in known]
            mend = suggest(argument, allowed)
            raise CommandError(explain("argument not understood", given=argument, allowed=allowed, mend=mend))
    return {argument[2:] for argument in argv}


def parse(cls: type[T], name: str, argv: Sequence[str], *, positional: Sequence[str] = ()) -> T:
    """Arguments of a verb as its configuration; a positional argument is another way to write ``<name>=value``.

    Raises:
        CommandError: arguments that are not ``key=value``.
        ConfigError: everything wrong with the configuration.
    """
    from robopolicy.config import load

    named, overrides = split_arguments(argv, positional=positional)
    escaped = {key: value.replace("'", "\\'") for key, value in named.items()}
    quoted = [f"{key}='{value}'" for key, value in escaped.items()]
    return load(cls, name, [*quoted, *overrides])


def as_text(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments in which the values of the keys ``names`` are quoted, so that they may hold any character."""
    words = []
    for argument in argv:
        name, has_value, value = argument.partition("=")
        if has_value and name in names:
            argument = f"{name}='" + value.replace("'", "\\'") + "'"
        words.append(argument)
    return words


def describe_keys(cls: type, name: str) -> str:
    """The table of keys: name, default from ``configs/<name>.yaml`` or the dataclass, help."""
    defaults = _defaults(name)
    rows = []
    for key, (field, hint) in fields_of(cls).items():
        if key in defaults:
            value = defaults[key]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = UNSET
        shown = "required" if value == UNSET else _brief(value)
        rows.append((f"{key}={shown}", f"{field.metadata.get('help', '')} ({type_name(hint)})"))
    width = min(max((len(left) for left, _ in rows), default=0), 36)
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)


def _defaults(name: str) -> dict[str, Any]:
    for root in config_roots():
        path = root / f"{name}.yaml"
        if path.is_file():
            loaded = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            chosen: dict[str, Any] = {}
            for entry in loaded.pop("defaults", []):
                if isinstance(entry, dict):
                    chosen.update({str(k).split("@")[0].removeprefix("override "): v for k, v in entry.items()})
            return {**chosen, **loaded}
    return {}


def _brief(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_brief, value)) + "]"
    return ("{...}" if value else "{}") if isinstance(value, dict) else str(value)
