"""Paired comparison: only true pairs, exact figures, a verdict that does not say more than the data."""

import json

import pytest

from robopolicy.errors import DataError
from robopolicy.evaluation.compare import compare
from robopolicy.evaluation.report import ReportNotFoundError, write_report


@pytest.fixture
def pair(tmp_path, header, outcomes):
    """Writes two reports from strings of outcomes and returns their folders."""

    def make(a, b, *, start_b=0, change_b=None, **changes):
        write_report(tmp_path / "a", outcomes(a), header)
        head = {**header, "checkpoint_hash": "d1" * 32, **(change_b or {})}
        write_report(tmp_path / "b", outcomes(b, start=start_b, **changes), head)
        return tmp_path / "a", tmp_path / "b"

    return make


def test_cells_and_figures(pair):
    result = compare(*pair("1" * 60 + "1" * 6 + "0" * 16 + "0" * 79, "1" * 60 + "0" * 6 + "1" * 16 + "0" * 79))
    assert [result[name] for name in ("both", "only_a", "only_b", "neither")] == [60, 6, 16, 79]
    assert result["n"] == 161
    assert result["difference"] == pytest.approx(-10 / 161)
    assert result["mcnemar_p"] == pytest.approx(0.0525, abs=1e-4)
    assert result["verdict"].startswith("no difference shown at n=161")
    assert result["episodes_only_a"] == list(range(60, 66))
    assert result["episodes_only_b"] == list(range(66, 82))


def test_a_clear_difference_is_named_in_the_right_direction(pair):
    folders = pair("1" * 30 + "0" * 10, "0" * 15 + "1" * 15 + "0" * 10)
    result = compare(*folders)
    assert result["verdict"].startswith("A succeeds more often than B at n=40")
    assert result["newcombe_95"][0] > 0
    swapped = compare(*reversed(folders))
    assert swapped["verdict"].startswith("B succeeds more often than A")
    assert swapped["difference"] == -result["difference"]
    assert swapped["mcnemar_p"] == result["mcnemar_p"]


def test_pairing_sees_what_the_margins_hide(pair, tmp_path):
    """80 % against 70 % of 50: decisive when B fails wherever A fails, nothing when failures are unrelated."""
    a = "1" * 40 + "0" * 10
    nested = compare(*pair(a, "1" * 34 + "0" * 16))
    assert nested["mcnemar_p"] < 0.05
    scattered = compare(*pair(a, "0" * 14 + "1" * 28 + "0" * 2 + "1" * 6))  # control: the same margins
    assert scattered["a"]["rate"] == nested["a"]["rate"]
    assert scattered["b"]["rate"] == nested["b"]["rate"]
    assert scattered["mcnemar_p"] > 0.05


def test_equal_runs_show_nothing(pair):
    result = compare(*pair("1101", "1101"))
    assert result["mcnemar_p"] == 1.0
    assert result["difference"] == 0.0
    assert result["verdict"].startswith("no difference shown at n=4")
    assert any("fewer than 200" in note for note in result["notes"])


def test_the_exact_test_decides_where_the_interval_is_bolder(pair):
    result = compare(*pair("1111", "0000"))
    assert result["newcombe_95"][0] > 0
    assert result["mcnemar_p"] == 0.125
    assert result["verdict"].startswith("no difference shown at n=4")
    assert any("follows the exact test" in note for note in result["notes"])
    agreed = compare(*pair("1" * 12, "0" * 12))  # control
    assert not any("follows the exact test" in note for note in agreed["notes"])


def test_only_common_episodes_are_paired(pair):
    result = compare(*pair("111100", "000111", start_b=3))
    assert result["n"] == 3
    assert result["unpaired_a"] == [0, 1, 2]
    assert result["unpaired_b"] == [6, 7, 8]
    assert result["a"]["n"] == result["b"]["n"] == 3
    assert any("3 episodes are only in A" in note for note in result["notes"])


def test_no_overlap_is_refused(pair):
    with pytest.raises(DataError, match=r"share no episode.*episodes 0 to 2.*episodes 5 to 7"):
        compare(*pair("111", "000", start_b=5))


@pytest.mark.parametrize(("field", "value"), [("split", "val"), ("task", "stack"), ("embodiment", "ur5e_2f85")])
def test_other_task_embodiment_or_split_is_no_pair(pair, field, value):
    with pytest.raises(DataError, match=f"share no episode.*{value}"):
        compare(*pair("111", "000", change_b={field: value}, **{field: value}))


def test_other_initial_states_are_refused(pair, tmp_path, header, outcomes):
    with pytest.raises(DataError, match=r"different states.*3 of 3"):
        compare(*pair("111", "000", initial_state=[1.0]))
    moved = [(r.to_dict() | {"initial_state": [x + 1e-3 for x in r.initial_state]}) for r in outcomes("000")]
    write_report(tmp_path / "moved", moved, header)
    with pytest.raises(DataError, match="different states"):
        compare(tmp_path / "a", tmp_path / "moved")
    close = [(r.to_dict() | {"initial_state": [x + 1e-9 for x in r.initial_state]}) for r in outcomes("000")]
    write_report(tmp_path / "close", close, header)
    assert compare(tmp_path / "a", tmp_path / "close")["n"] == 3  # control: rounding is no other state


def test_what_else_differed_is_said(pair):
    folders = pair("11", "00", change_b={"control": {"latency_ms": 200.0}, "checkpoint_hash": "c0" * 32})
    path = folders[1] / "report.json"
    document = json.loads(path.read_text())
    document["versions"]["mujoco"] = "0.0.1"
    path.write_text(json.dumps(document))
    notes = "; ".join(compare(*folders)["notes"])
    for part in ("control or latency", "same checkpoint", "mujoco differs"):
        assert part in notes


def test_files(pair, tmp_path):
    result = compare(*pair("1110", "1000", change_b={"policy": "<b>null</b>"}), out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == result
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "No difference shown at n=4" in page
    assert "&lt;b&gt;null" in page
    assert "<b>null" not in page


def test_missing_side(pair, tmp_path):
    folder, _ = pair("1", "1")
    with pytest.raises(ReportNotFoundError):
        compare(folder, tmp_path / "nowhere")


def test_several_tasks_are_strata_and_weigh_the_same(tmp_path, header, outcomes):
    """Easy task with many episodes, hard one with few: the mean over tasks is not the mean over episodes."""
    for side, easy, hard in (("a", "1" * 36 + "0" * 4, "1" * 8 + "0" * 2), ("b", "1" * 34 + "0" * 6, "0" * 10)):
        for task, text in (("pick_place", easy), ("stack", hard)):
            write_report(tmp_path / side / task, outcomes(text, task=task), {**header, "task": task})
    result = compare(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")
    assert result["n"] == 50
    assert result["difference"] == pytest.approx((2 / 40 + 8 / 10) / 2)
    assert result["tasks"]["stack on panda"]["only_a"] == 8
    assert result["tasks"]["stack on panda"]["holm_p"] == pytest.approx(2 * 2 / 2**8)
    assert result["mcnemar_p"] == pytest.approx(2 / 2**10)
    low, high = result["interval_95"]
    assert low < result["difference"] < high
    assert "By task" in (tmp_path / "out" / "compare.html").read_text()
    single = compare(tmp_path / "a" / "stack", tmp_path / "b" / "stack")  # control: one report is one task
    assert single["tasks"] is None
    assert single["difference"] == pytest.approx(0.8)
    write_report(tmp_path / "a" / "again", outcomes("1", task="stack"), {**header, "task": "stack"})
    with pytest.raises(DataError, match="two reports of the same task"):
        compare(tmp_path / "a", tmp_path / "b")


def test_power_bootstrap_and_the_sequential_test_are_told(pair):
    result = compare(*pair("1" * 20 + "1" * 3 + "0" * 1 + "0" * 20, "1" * 20 + "0" * 3 + "1" * 1 + "0" * 20))
    assert result["pairs_needed"]["this_difference"] > 100
    assert any("pairs show it" in note for note in result["notes"])
    assert result["bootstrap_95"][0] <= result["difference"] <= result["bootstrap_95"][1]
    assert result["anytime"]["decision"] is None
    clear = compare(*pair("1" * 40, "0" * 40))
    assert clear["anytime"]["decision"] == "above"
    assert 5 < clear["anytime"]["decided_at"] < 15


def test_a_run_that_was_ended_by_looking_is_judged_by_the_sequential_test(pair):
    """Seven wins in a row: p = 0.016 at fixed n, but not enough for someone who stopped because of them."""
    folders = pair("1" * 7, "0" * 7)
    assert compare(*folders)["verdict"].startswith("A succeeds more often")  # control
    path = folders[0] / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sequential": {"used": 7}}))
    result = compare(*folders)
    assert result["verdict"].startswith("no difference shown")
    assert "confidence sequence" in result["verdict"]
