"""Choosing episodes by a condition on their records: a small language, parsed and walked, never evaluated as Python.

::

    success and length > 40
    language in ["pick up the cup", "push the cup"] and not metadata.operator == "test"
    "cup" in language or metadata["camera angle"] < 30
    30 <= length < 400 and metadata.source.id != null

An episode whose success nobody stated is chosen only if the condition holds for it either way: neither ``success`` nor
``not success`` chooses it, ``success == null`` does.

Names are those of :data:`FIELDS`; ``metadata.a.b`` and ``metadata["a b"]`` go into the metadata. A name that one
episode lacks is ``null`` there: equal to ``null`` only, and no order comparison with it holds. A name that **no**
episode has is a mistake and refused (:func:`matching`).
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from robopolicy.errors import CommandError, explain, suggest

__all__ = ["FIELDS", "Expression", "matching", "parse_expression"]

FIELDS = {
    "success": "true, false, or null where nobody said",
    "language": "the instruction",
    "length": "rows",
    "duration_s": "length divided by the store's rate",
    "index": "number of the episode in the store",
    "metadata": "what was stored with the episode, for example metadata.operator",
    "quality": "short for metadata.quality",
}
"""Name -> what it is."""

MAX_LENGTH = 4_000
_MISSING = object()
_LITERALS = {"true": True, "false": False, "null": None, "none": None}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SAME: dict[type[ast.cmpop], bool] = {ast.Eq: True, ast.NotEq: False, ast.Is: True, ast.IsNot: False}
_INSIDE: dict[type[ast.cmpop], bool] = {ast.In: True, ast.NotIn: False}


@dataclass(frozen=True, eq=False)
class Expression:
    """A condition that was read and found to be in the language.

    Attributes:
        text: As written.
        tree: Its syntax tree; holds nothing but what :func:`parse_expression` allows.
        paths: Every field that it names, as tuples (``("metadata", "operator")``).
    """

    text: str
    tree: ast.expr
    paths: frozenset[tuple[Any, ...]]

    def __call__(self, record: Mapping[str, Any]) -> bool:
        """Whether it holds for one episode.

        Args:
            record: Field -> value, as :func:`robopolicy.data.tools.records.fields_of_episode` gives.

        Raises:
            CommandError: values that cannot be compared, with their place in the text.
        """
        if record.get("success", False) is None and not self._names_null():
            return all(bool(self._value(self.tree, {**record, "success": either})) for either in (True, False))
        return bool(self._value(self.tree, record))

    def _names_null(self) -> bool:
        return any(isinstance(n, ast.Name) and n.id.lower() in ("null", "none") for n in ast.walk(self.tree)) or any(
            isinstance(n, ast.Constant) and n.value is None for n in ast.walk(self.tree)
        )

    def _value(self, node: ast.expr, record: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.BoolOp):
            values = (bool(self._value(v, record)) for v in node.values)
            return all(values) if isinstance(node.op, ast.And) else any(values)
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, record)
            return not value if isinstance(node.op, ast.Not) else -value
        if isinstance(node, ast.Compare):
            return self._comparison(node, record)
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self._value(v, record) for v in node.elts]
        if isinstance(node, ast.Constant):
            return node.value
        path = _path(node)
        if path is None:
            assert isinstance(node, ast.Name)
            return _LITERALS[node.id.lower()]
        found = _look_up(record, path)
        return None if found is _MISSING else found

    def _comparison(self, node: ast.Compare, record: Mapping[str, Any]) -> bool:
        left = self._value(node.left, record)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, record)
            if not self._holds(type(op), left, right, comparator):
                return False
            left = right
        return True

    def _holds(self, op: type[ast.cmpop], left: Any, right: Any, node: ast.expr) -> bool:
        if op in _SAME:
            return (left == right) is _SAME[op]
        if op in _ORDER:
            if left is None or right is None:
                return False
            comparable = isinstance(left, (int, float)) and isinstance(right, (int, float))
            if comparable or (isinstance(left, str) and isinstance(right, str)):
                return bool(_ORDER[op](left, right))
            raise _fault(self.text, node, f"cannot order {left!r} and {right!r}", "compare two numbers or two texts")
        if right is None:
            return not _INSIDE[op]
        if isinstance(right, str) and isinstance(left, str):
            return (left in right) is _INSIDE[op]
        if isinstance(right, (list, Mapping)):
            return any(left == entry for entry in right) is _INSIDE[op]
        raise _fault(self.text, node, f"nothing can be in {right!r}", "in needs a list, or text on both sides")


def parse_expression(text: str) -> Expression:
    """Read a condition.

    Raises:
        CommandError: not of this language; shows the place and what is allowed there.
    """
    if len(text) > MAX_LENGTH:
        raise CommandError(explain("the condition is too long", given=f"{len(text)} characters", allowed=MAX_LENGTH))
    text = " ".join(text.split("\n")).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        # at the end of the text Python states no place, or one beyond it
        place = error.offset - 1 if error.offset and error.lineno == 1 else len(text)
        raise _error(text, len(text[:place].encode()), f"cannot be read: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise CommandError(explain("the condition cannot be read", given=text[:80], mend="write it simpler")) from error
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str) and tree.value.strip():
        return parse_expression(tree.value)  # the whole condition in quotes, as a command line may have it
    paths: set[tuple[Any, ...]] = set()
    try:
        _check(tree, text, paths)
    except RecursionError as error:
        raise CommandError(explain("the condition is too deep", given=text[:80], mend="write it simpler")) from error
    return Expression(text, tree, frozenset(paths))


def matching(expression: Expression, records: Iterable[Mapping[str, Any]]) -> list[int]:
    """Numbers of the records for which it holds.

    Raises:
        CommandError: it names metadata that no record has, or compares what cannot be compared.
    """
    found, unseen, known, count = [], set(expression.paths), set[str](), 0
    for number, record in enumerate(records):
        count += 1
        unseen -= {path for path in unseen if _look_up(record, path) is not _MISSING}
        known.update(_dotted(record.get("metadata") or {}, "metadata"))
        if expression(record):
            found.append(number)
    if unseen and count:
        name = _name(min(unseen, key=str))
        allowed = [*(f for f in FIELDS if f not in ("metadata", "quality")), *sorted(known)]
        at = max(expression.text.find(name), 0)
        raise _error(expression.text, at, f"no episode has '{name}'", allowed, suggest(name, allowed))
    return found


def _check(node: ast.expr, text: str, paths: set[tuple[Any, ...]]) -> None:
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            _check(value, text, paths)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text, paths)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_number(node.operand):
        return
    elif isinstance(node, ast.Compare):
        allowed = {**_ORDER, **_SAME, **_INSIDE}
        if any(type(op) not in allowed for op in node.ops):
            raise _fault(text, node, "unknown comparison", "== != < <= > >= in, not in")
        for value in (node.left, *node.comparators):
            _check(value, text, paths)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for value in node.elts:
            _check(value, text, paths)
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, (str, int, float, bool, type(None))):
            raise _fault(text, node, "this kind of value cannot be compared", "text, numbers, true, false, null")
    else:
        _check_name(node, text, paths)


def _check_name(node: ast.expr, text: str, paths: set[tuple[Any, ...]]) -> None:
    if isinstance(node, ast.Name) and node.id.lower() in _LITERALS:
        return
    path = _path(node)
    if path is None:
        what = "calls are not" if isinstance(node, ast.Call) else f"{type(node).__name__} is not"
        mend = "names, constants, lists, comparisons, and, or, not"
        raise _fault(text, node, f"{what} part of this language", mend)
    head = path[0]
    if head not in FIELDS:
        mend = suggest(str(head), FIELDS) or f"metadata.{head}, if it is in the metadata"
        raise _error(text, node.col_offset, f"unknown name '{head}'", list(FIELDS), mend)
    if len(path) > 1 and head not in ("metadata", "quality"):
        raise _fault(text, node, f"'{head}' has no parts", "metadata.NAME")
    if head == "quality":
        path = ("metadata", *path)
    paths.add(path)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def _path(node: ast.expr) -> tuple[Any, ...] | None:
    """``metadata.a["b"]`` -> ("metadata", "a", "b"), or None when it is no such thing."""
    parts: list[Any] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            parts.append(node.slice.value)
        else:
            return None
        node = node.value
    if node.id.lower() in _LITERALS:
        return None
    return (node.id, *reversed(parts))


def _look_up(record: Mapping[str, Any], path: tuple[Any, ...]) -> Any:
    value: Any = record
    if path[0] == "quality":
        path = ("metadata", *path)
    for part in path:
        inside = isinstance(value, Mapping) and part in value
        if not inside and not (isinstance(value, list) and isinstance(part, int) and -len(value) <= part < len(value)):
            return _MISSING
        value = value[part]
    return value


def _dotted(mapping: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for key, value in mapping.items():
        name = f"{prefix}.{key}" if str(key).isidentifier() else f'{prefix}["{key}"]'
        yield name
        if isinstance(value, Mapping) and prefix.count(".") < 3:
            yield from _dotted(value, name)


def _name(path: tuple[Any, ...]) -> str:
    return str(path[0]) + "".join(
        f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part!r}]" for part in path[1:]
    )


def _fault(text: str, node: ast.expr, what: str, allowed: str) -> CommandError:
    return _error(text, node.col_offset, what, allowed)


def _error(text: str, column: int, what: str, allowed: object = None, mend: str | None = None) -> CommandError:
    # ast counts bytes of UTF-8
    column = len(text.encode()[:column].decode(errors="ignore"))
    where = f"the condition: {what}\n    {text}\n    {' ' * column}^ column {column + 1}\n"
    return CommandError(where + explain("", allowed=allowed or list(FIELDS), mend=mend).removeprefix("; "))
