"""The language of conditions: what it means, what it refuses and where, and that it is never run as Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.data.tools.expression import matching, parse_expression
from robopolicy.errors import CommandError

RECORDS: list[dict[str, Any]] = [
    {"index": 0, "success": True, "language": "pick up the cup", "length": 30, "duration_s": 1.5},
    {"index": 1, "success": False, "language": "push the block", "length": 60, "duration_s": 3.0},
    {"index": 2, "success": True, "language": "", "length": 90, "duration_s": 4.5},
]
METADATA: list[dict[str, Any]] = [
    {"operator": "anna", "tries": 2, "tags": ["a", "b"], "camera angle": 30, "quality": {"blur": 0.1}},
    {"operator": "ben", "tags": [], "quality": {"blur": 0.9}},
    {"operator": "anna", "tries": None, "source": {"id": "ep7"}},
]
for record, metadata in zip(RECORDS, METADATA, strict=True):
    record["metadata"] = metadata


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success", [0, 2]),
        ("not success", [1]),
        ("success and length > 40", [2]),
        ("length > 40 or 'cup' in language", [0, 1, 2]),
        ("30 <= length < 90", [0, 1]),
        ("-1 < index and index != 1", [0, 2]),
        ("language == ''", [2]),
        ("language in ['push the block', 'x']", [1]),
        ("'cup' not in language", [1, 2]),
        ("metadata.operator == 'anna' and not metadata.tries == null", [0]),
        ("metadata.tries > 1", [0]),
        ("metadata.tries <= 1", []),
        ("metadata.tries == null", [1, 2]),
        ("'a' in metadata.tags", [0]),
        ("metadata['camera angle'] == 30", [0]),
        ("metadata.tags[1] == 'b'", [0]),
        ("quality.blur < 0.5", [0]),
        ("metadata.source.id == 'ep7'", [2]),
        ("true", [0, 1, 2]),
        ("'success and length > 40'", [2]),
        ("duration_s >= 3", [1, 2]),
        ("(success or length == 60) and index in (1, 2)", [1, 2]),
    ],
)
def test_meaning(text: str, expected: list[int]) -> None:
    assert matching(parse_expression(text), RECORDS) == expected


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("sucess", 1, "did you mean 'success'"),
        ("success and operator == 'x'", 13, "metadata.operator"),
        ("length > ", 9, "cannot be read"),
        ("__import__('os').system('true')", 1, "not part of this language"),
        ("success and print(1)", 13, "calls are not"),
        ("length + 1 > 2", 1, "BinOp is not"),
        ("[x for x in language]", 1, "ListComp is not"),
        ("lambda: 1", 1, "Lambda is not"),
        ("language.upper() == 'A'", 1, "calls are not"),
        ("length.real > 1", 1, "has no parts"),
        ("success if success else length", 1, "IfExp is not"),
        ("f'{length}' == 'a'", 1, "JoinedStr is not"),
        ("length > 3j", 10, "cannot be compared"),
        ("-language", 1, "not part"),
        ("(a := 1)", 2, "NamedExpr is not"),
        ("success; length", 8, "cannot be read"),
        ("'ü' == language and lenght > 1", 21, "did you mean 'length'"),
    ],
)
def test_refusals_name_the_place(text: str, column: int, said: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_expression(text)
    message = str(caught.value)
    assert said in message
    assert f"column {column}" in message
    assert "allowed" in message


@pytest.mark.parametrize("text", ["language > 3", "length < 'a'", "success in 3", "metadata.tags < 1"])
def test_what_cannot_be_compared(text: str) -> None:
    with pytest.raises(CommandError, match="column"):
        matching(parse_expression(text), RECORDS)


def test_a_field_that_nobody_has_is_refused_and_one_that_somebody_has_is_not() -> None:
    with pytest.raises(CommandError, match=r"did you mean 'metadata\.operator'"):
        matching(parse_expression("metadata.oprator == 'anna'"), RECORDS)
    assert matching(parse_expression("metadata.source.id != null"), RECORDS) == [2]


def test_size_is_bounded() -> None:
    for text in ("(" * 3000, "not " * 900 + "success", "length > 1 and " * 400 + "success"):
        try:
            parse_expression(text)
        except CommandError:
            continue
        pytest.fail(f"accepted {len(text)} characters") if len(text) > 4000 else None


@given(st.text(alphabet="abcdefghilmnorstu_.()[]'\"<>=! 0123456789,+-*{}:@\\", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = matching(parse_expression(text), RECORDS)
    except CommandError:
        return
    assert all(0 <= i < len(RECORDS) for i in found)


@given(st.integers(-5, 120), st.integers(-5, 120))
def test_order_is_that_of_numbers(low: int, high: int) -> None:
    found = matching(parse_expression(f"{low} <= length <= {high}"), RECORDS)
    assert found == [i for i, r in enumerate(RECORDS) if low <= r["length"] <= high]
    assert not math.isnan(len(found))


def test_an_unknown_success_is_neither_success_nor_failure() -> None:
    records = [*RECORDS, {"index": 3, "success": None, "language": "", "length": 10, "duration_s": 0.5}]
    chosen = {text: matching(parse_expression(text), records) for text in ("success", "not success", "success == null")}
    assert chosen == {"success": [0, 2], "not success": [1], "success == null": [3]}
    assert matching(parse_expression("success or length == 10"), records) == [0, 2, 3]
