"""The ledger keeps misses, refuses a pass without a failing control, and makes one table."""

import dataclasses
import json

import pytest

from robopolicy.errors import DataError
from robopolicy.evaluation.claims import ClaimResult, read_claim, read_claims, table, write_claim

CLAIM = ClaimResult(
    claim="The policy picks and places | at 0.90",
    source="Chi et al. 2023, table 1",
    command="robopolicy claims run diffusion/pick_place",
    commit="9a4b564",
    target=">= 0.90",
    value=0.934567,
    interval=(0.82, 0.97),
    n=100,
    seeds=[0, 1, 2],
    control={"what": "null policy", "value": 0.01, "failed": True},
    passed=True,
    cpu_s=12.5,
)


def test_trip_through_the_disk(tmp_path):
    path = write_claim(CLAIM, tmp_path, "diffusion", "pick_place")
    assert path == tmp_path / "diffusion" / "pick_place.json"
    back = read_claim(path)
    assert back == dataclasses.replace(CLAIM, interval=[0.82, 0.97])
    assert back.versions["numpy"]
    fields = {"claim", "source", "command", "commit", "target", "value", "interval", "n", "seeds", "control"}
    assert set(json.loads(path.read_text())) == fields | {"passed", "cpu_s", "versions"}


def test_table_holds_hits_and_misses(tmp_path):
    write_claim(CLAIM, tmp_path, "diffusion", "pick_place")
    missed = dataclasses.replace(
        CLAIM,
        passed=False,
        value={"ours": 2.0, "theirs": 3.0, "ratio": 0.67},
        interval=None,
        n=None,
        control={"what": "no-op", "failed": False},
    )
    write_claim(missed, tmp_path, "data", "speed")
    text = table(tmp_path)
    assert "2 claims, 1 reached, 1 missed" in text
    assert text.index("## data") < text.index("## diffusion")
    rows = [line for line in text.splitlines() if "results/" in line and line.startswith("| ")]
    assert len(rows) == 2
    assert rows[0].startswith("| **missed** | [speed](results/data/speed.json)")
    assert "ours 2, theirs 3, ratio 0.67" in rows[0]
    assert "**did not fail**" in rows[0]
    assert "0.9346 (0.82 to 0.97) | 100 | 0, 1, 2 | null policy 0.01: failed, as it must" in rows[1]
    assert "places \\| at" in rows[1]
    assert table(tmp_path) == text
    assert list(read_claims(tmp_path)) == ["data/speed", "diffusion/pick_place"]


def test_empty_ledger(tmp_path):
    assert "0 claims" in table(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"control": {"what": "null", "failed": False}}, "control did not fail"),
        ({"control": {"what": "null"}}, "control needs"),
        ({"control": None}, "control needs"),
        ({"claim": ""}, "claim is empty"),
        ({"command": ""}, "command is empty"),
        ({"passed": 1}, "passed"),
        ({"interval": (0.9, 0.1)}, "interval"),
        ({"interval": (0.9,)}, "interval"),
    ],
)
def test_unusable_results_are_refused(change, match):
    with pytest.raises(DataError, match=match):
        dataclasses.replace(CLAIM, **change)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "A", "a b"])
def test_names_stay_inside_the_ledger(tmp_path, name):
    with pytest.raises(DataError, match="name"):
        write_claim(CLAIM, tmp_path, "family", name)
    with pytest.raises(DataError, match="name"):
        write_claim(CLAIM, tmp_path, name, "name")
    assert not list(tmp_path.rglob("*"))


def test_nan_is_not_a_result(tmp_path):
    with pytest.raises(DataError, match="value"):
        write_claim(dataclasses.replace(CLAIM, value=float("nan")), tmp_path, "f", "n")


def test_unknown_and_missing_fields(tmp_path):
    path = write_claim(CLAIM, tmp_path, "f", "n")
    document = json.loads(path.read_text())
    document["pased"] = document.pop("passed")
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"did you mean 'passed'.*missing passed"):
        read_claim(path)
    path.write_text("{")
    with pytest.raises(DataError, match="cut or altered"):
        read_claim(path)
