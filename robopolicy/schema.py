"""From a plain mapping to nested frozen dataclasses: strict, and with every fault reported at once.

A configuration is a frozen dataclass whose fields are made by :func:`setting` (type, help, bounds). :func:`build` fills
it from what YAML and the command line gave. Nothing here imports Hydra, so ``--help`` can describe keys cheaply.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from robopolicy.errors import ConfigError, RobopolicyError, UnknownNameError, explain, suggest
from robopolicy.registry import benchmark_task, registry

__all__ = ["UNSET", "Fields", "build", "build_collecting", "fields_of", "setting", "to_dict", "type_name"]

T = TypeVar("T")
UNSET = "???"
"""A value that the user has to give, as OmegaConf writes it."""
BOUNDS = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "more than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}


def setting(
    help: str,
    *,
    default: Any = MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    registry: str | None = None,
) -> Any:
    """A documented field of a configuration dataclass.

    Args:
        help: One line for ``--help``, with the unit.
        default: Value used when the mapping has no such key; without it the key is required.
        ge, gt, le, lt: Bounds of a number (each entry, for a sequence).
        registry: Group whose names are allowed, for example ``task``.
    """
    bounds = {k: v for k, v in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if v is not None}
    metadata = {"help": help, "bounds": bounds, "registry": registry}
    if isinstance(default, (dict, list)):
        value = default
        return dataclasses.field(default_factory=lambda: value.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


Fields = dict[str, tuple[dataclasses.Field[Any], Any]]


@cache
def fields_of(cls: type) -> Fields:
    """Name -> (dataclass field, resolved type) of every field that the constructor takes."""
    hints = typing.get_type_hints(cls)
    return {f.name: (f, hints[f.name]) for f in dataclasses.fields(cls) if f.init}


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Fill the dataclass ``cls`` from ``mapping``.

    Lists become tuples where the field is a tuple; whole floats are accepted for ints (``steps=1e4``) and ints for
    floats; nothing else is converted.

    Args:
        cls: Dataclass of scalars, Path, Optional, unions, tuples, lists, dicts, Literal, Any and nested dataclasses.
        mapping: Plain containers, interpolations resolved.
        where: Dotted path of ``mapping``, for messages.

    Raises:
        ConfigError: unknown or missing keys, wrong types, values out of bounds; all of them in one error.
    """
    built, problems = build_collecting(cls, mapping, where)
    if problems:
        raise ConfigError(problems)
    return typing.cast(T, built)


def build_collecting(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> tuple[T | None, list[str]]:
    """As :func:`build`, but returns ``(None, problems)`` instead of raising."""
    problems: list[str] = []
    built = _dataclass(cls, mapping, where, problems)
    return (None, problems) if problems else (built, [])


def to_dict(value: Any) -> Any:
    """A configuration as plain, JSON-able containers; the inverse of :func:`build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def type_name(hint: Any) -> str:
    """A type as a reader of ``--help`` would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(a) for a in arguments))
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in (tuple, list) or hint in (tuple, list):
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return "[" + ", ".join(type_name(a) for a in arguments) + "]"
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict or hint is dict:
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "mapping"
    return {Any: "anything", str: "text", Path: "path", float: "number", int: "whole number", bool: "true | false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _dataclass(cls: type, mapping: Any, where: str, problems: list[str]) -> Any:
    known = fields_of(cls)
    if not isinstance(mapping, Mapping):
        problems.append(f"{where or cls.__name__}: {_wrong(mapping, f'a mapping with keys {sorted(known)}')}")
        return None
    before, values = len(problems), {}
    for key in mapping:
        if key not in known:
            problems.append(
                f"{_join(where, key)}: "
                + explain("unknown key", given=_show(mapping[key]), allowed=list(known), mend=suggest(str(key), known))
            )
    for key, (field, hint) in known.items():
        path = _join(where, key)
        if key not in mapping or (isinstance(mapping[key], str) and mapping[key] == UNSET):
            if field.default is MISSING and field.default_factory is MISSING:
                example = f"give {path}=<{type_name(hint)}>"
                problems.append(f"{path}: " + explain("missing", allowed=type_name(hint), mend=example))
            continue
        at = len(problems)
        values[key] = _value(hint, mapping[key], path, problems)
        if len(problems) == at:
            _check(field, values[key], path, problems)
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (RobopolicyError, ValueError) as error:
        problems.extend(f"{where}: {p}" if where else p for p in getattr(error, "problems", [str(error)]))
        return None


def _value(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where, problems)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in arguments):
            mend = suggest(value, [a for a in arguments if isinstance(a, str)]) if isinstance(value, str) else None
            problems.append(
                f"{where}: " + explain("not one of the choices", given=_show(value), allowed=arguments, mend=mend)
            )
        return value
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        return _sequence(hint, origin or hint, arguments, value, where, problems)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        if not isinstance(value, Mapping):
            problems.append(f"{where}: {_wrong(value, 'a mapping')}")
            return None
        inner = arguments[1] if arguments else Any
        return {str(k): _value(inner, v, _join(where, str(k)), problems) for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _dataclass(hint, value, where, problems)
    return _scalar(hint, value, where, problems)


def _scalar(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    if hint is type(None) and value is None:
        return None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    if hint in (bool, str) and isinstance(value, hint):
        return value
    problems.append(f"{where}: {_wrong(value, type_name(hint))}")
    return None


def _union(members: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    # The member of the very type of the value goes first, so that 3 stays an int in `float | int`.
    for member in sorted(members, key=lambda m: m is not type(value)):
        attempt: list[str] = []
        built = _value(member, value, where, attempt)
        if not attempt:
            return built
    mappings = [m for m in members if dataclasses.is_dataclass(m)]
    if len(mappings) == 1 and isinstance(value, Mapping):
        return _value(mappings[0], value, where, problems)
    problems.append(f"{where}: {_wrong(value, ' or '.join(type_name(m) for m in members))}")
    return None


def _sequence(hint: Any, kind: Any, inner: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        problems.append(f"{where}: {_wrong(value, type_name(hint))}")
        return None
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        if len(inner) != len(value):
            problems.append(f"{where}: " + explain("wrong length", given=_show(value), allowed=f"{len(inner)} entries"))
            return None
        hints = list(inner)
    else:
        hints = [inner[0] if inner else Any] * len(value)
    entries = [_value(h, v, f"{where}[{i}]", problems) for i, (h, v) in enumerate(zip(hints, value, strict=True))]
    return entries if kind is list else tuple(entries)


def _check(field: dataclasses.Field[Any], value: Any, where: str, problems: list[str]) -> None:
    entries = value if isinstance(value, tuple) else (value,)
    for kind, bound in field.metadata.get("bounds", {}).items():
        holds, words = BOUNDS[kind]
        for entry in entries:
            if isinstance(entry, (int, float)) and not isinstance(entry, bool) and not holds(entry, bound):
                problems.append(f"{where}: " + explain("out of bounds", given=entry, allowed=f"{words} {bound:g}"))
    group = field.metadata.get("registry")
    for entry in entries:
        if group and isinstance(entry, str):
            try:
                if group == "task":
                    benchmark_task(entry)
                elif entry not in registry(group).names():
                    registry(group).path(entry)
            except UnknownNameError as error:
                problems.append(f"{where}: {error}")


def _wrong(value: Any, allowed: str) -> str:
    return explain("wrong type", given=f"{_show(value)} ({type_name(type(value))})", allowed=allowed)


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)
