"""The suite's table: true figures, corrected differences, only fair pairs, one self-contained page."""

import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.html import render
from robopolicy.evaluation.report import build_report
from robopolicy.evaluation.statistics import mcnemar_exact
from robopolicy.evaluation.suite import SuiteCell, summarise_suite
from robopolicy.evaluation.suite_page import suite_sections
from robopolicy.evaluation.sweep import latency_sweep, variant_table


@pytest.fixture
def cell(header, outcomes):
    def make(policy, task, text, *, swept=False, **changes):
        results = outcomes(text, task=task, **changes)
        head = {**header, "task": task, "policy": policy, "checkpoint_hash": policy * 4, "checkpoint": f"runs/{policy}"}
        head["extra"] = {"checkpoint_choice": "last", "weights": "ema"}
        sweep = latency_sweep({0.0: results, 100.0: results}) if swept else None
        more = {"variants": variant_table({"nominal": results, "heavy": results})} if swept else None
        report = build_report(results, head, sweep=sweep, more=more)
        folder = f"reports/{policy}/{task}-panda"
        return SuiteCell(policy=policy, task=task, embodiment="panda", report=report, folder=folder)

    return make


@pytest.fixture
def cells(cell):
    return [
        cell("a", "pick", "1" * 15 + "0" * 5, swept=True),
        cell("a", "stack", "1" * 10 + "0" * 10),
        cell("b", "pick", "1" * 5 + "0" * 15),
        cell("b", "stack", "1" * 9 + "0" * 11),
        SuiteCell(policy="c", task="pick", embodiment="panda", left_out="trained on <stack>"),
        cell("c", "stack", "1" * 19 + "0"),
    ]


def test_figures_differences_and_correction(cells):
    summary = summarise_suite(cells, base="a", command="robopolicy suite ...")
    assert summary["columns"] == ["pick on panda", "stack on panda"]
    assert [c["successes"] for c in summary["cells"]] == [15, 10, 5, 9, 19]
    rows = {(row["policy"], row["column"]): row for row in summary["differences"]}
    assert set(rows) == {("b", "pick on panda"), ("b", "stack on panda"), ("c", "stack on panda")}
    raw = mcnemar_exact(0, 10)
    assert rows["b", "pick on panda"]["mcnemar_p"] == raw
    assert rows["b", "pick on panda"]["holm_p"] == pytest.approx(3 * raw)  # the smallest of three
    assert rows["c", "stack on panda"]["difference"] == pytest.approx(9 / 20)
    overall = {row["policy"]: row for row in summary["overall"]}
    assert overall["b"]["difference"] == pytest.approx((-10 / 20 - 1 / 20) / 2)
    assert overall["b"]["tasks"] == 2
    assert overall["c"]["tasks"] == 1
    assert summary["left_out"] == [{"policy": "c", "column": "pick on panda", "why": "trained on <stack>"}]
    assert summary["policies"][0]["choice"] == "last"
    with pytest.raises(ConfigError, match="compare with"):
        summarise_suite(cells, base="z")


def test_only_true_pairs_are_compared(cell):
    moved = cell("b", "pick", "11", initial_state=[9.0])
    with pytest.raises(DataError, match="different states"):
        summarise_suite([cell("a", "pick", "11"), moved], base="a")


def test_page(cells):
    summary = summarise_suite(cells, base="a")
    page = render("Suite", suite_sections(summary))
    for part in (
        "75.0 %",
        "53 to 89, 15/20",
        "reports/b/stack-panda/report.html",
        "Against a",
        "Robustness",
        "latency",
    ):
        assert part in page
    assert "trained on &lt;stack&gt;" in page
    assert "last of its training" in page
    for outside in ("http://", "https://", "<script", 'src="r'):
        assert outside not in page
    alone = render("Suite", suite_sections(summarise_suite(cells[:1], base="a")))
    assert "Against" not in alone


def test_what_makes_rates_less_comparable_is_said(cell):
    few = cell("b", "pick", "1" * 5)
    notes = summarise_suite([cell("a", "pick", "1" * 6), few], base="a")["notes"]
    assert any("same number" in note for note in notes)
    report = {**few.report, "versions": {**few.report["versions"], "mujoco": "0.0.1"}}
    twin = SuiteCell(policy="b", task="pick", embodiment="panda", report=report, folder="x")
    assert any("mujoco" in note for note in summarise_suite([cell("a", "pick", "1" * 5), twin], base="a")["notes"])
    assert summarise_suite([cell("a", "pick", "11")], base="a")["notes"] == []  # control
