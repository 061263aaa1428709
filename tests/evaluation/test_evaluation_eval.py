"""eval and suite from end to end: films of failures, stopping early, what is finished is kept."""

import json

import pytest

from robopolicy import assess
from robopolicy.assess import evaluate
from robopolicy.cli.main import main
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.sequential import StopRule

HERE = ["task=pick_place", "embodiment=panda", "workers=1"]


@pytest.fixture(scope="module")
def null_report(tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "null"
    words = ["policy=null", *HERE, "episodes=6", "videos=1", "film=failures", f"out={out}"]
    assert main(["eval", *words]) == 0
    return out


def test_the_first_failures_are_filmed_and_are_the_same_episodes(null_report):
    report = read_report(null_report)
    assert report["films"] == {"of": "failures", "episodes": [0], "differing": []}
    assert [row["video"] for row in report["episodes"]] == ["videos/0.webp", *[None] * 5]
    assert (null_report / "videos" / "0.webp").is_file()
    assert "Filmed by running these episodes once more: 0." in (null_report / "report.html").read_text()


def test_a_film_of_another_run_is_told(null_report, outcomes, monkeypatch):
    """Control: where the second run ends otherwise, it is said."""
    nothing = dict.fromkeys(("subject", "task", "card", "split", "control", "progress"))
    numbers = {"workers": 1, "inference_batch": 1, "continue_after_success_s": 0.0}
    run = assess._Rollouts(**nothing, **numbers, inference="worker")
    for again, differing in ((outcomes("0", length=9), [0]), (outcomes("0", video="videos/0.webp"), [])):
        monkeypatch.setattr(assess._Rollouts, "__call__", lambda self, *_, again=again, **__: again)
        shown, films = run.film_failures(outcomes("0"), 3, null_report, 0.0, "nominal")
        assert films["differing"] == differing
        assert shown[0].video == again[0].video


def test_stopping_early_uses_the_first_episodes_and_says_so(null_report, tmp_path, capsys):
    words = ["policy=expert", *HERE, "episodes=6", f"against={null_report}", "stop=sequential", "alpha=0.5"]
    assert main(["eval", *words, f"out={tmp_path}"]) == 0
    assert "better than" in capsys.readouterr().out
    report = read_report(tmp_path)
    found = report["sequential"]
    assert found["decision"] == "above"
    assert found["used"] == report["n"] == len(report["episodes"]) < found["planned"] == 6
    assert [row["index"] for row in report["episodes"]] == list(range(found["used"]))
    assert report["missing_episodes"] == []
    page = (tmp_path / "report.html").read_text()
    assert f"After {found['used']} of at most 6 episodes" in page


def test_the_number_used_does_not_depend_on_workers(tmp_path):
    rule = StopRule(target=0.9, alpha=0.5)
    used = [
        evaluate("null", "pick_place", embodiment="panda", episodes=range(6), stop=rule, workers=n)["sequential"]
        for n in (1, 3)
    ]
    assert used[0] == used[1]
    assert used[0]["decision"] == "below"
    assert used[0]["used"] < 6


def test_settings_that_exclude_each_other(null_report):
    pair = ("null", "pick_place")
    for wrong in (
        {"stop": StopRule(target=0.5), "latency_ms": [0.0, 50.0]},
        {"film": "middle"},
        {"inference": "everywhere"},
        {"variant": ["nominal", "nominal"]},
    ):
        with pytest.raises(ConfigError):
            evaluate(*pair, embodiment="panda", episodes=range(1), **wrong)
    with pytest.raises(ConfigError, match="cannot be shared"):
        evaluate("expert", "pick_place", embodiment="panda", episodes=range(1), inference="shared")
    few = StopRule(against={}, source="x")
    with pytest.raises(DataError, match="lacks episodes"):
        evaluate(*pair, embodiment="panda", episodes=range(10**6), stop=few)
    assert main(["eval", "policy=null", *HERE, f"against={null_report}"]) == 2  # without stop


def test_suite_keeps_what_is_finished(tmp_path, capsys):
    words = [
        "policies=[random,null]",
        "tasks=[pick_place]",
        "embodiments=[panda,aloha]",
        "workers=1",
        f"out={tmp_path}",
    ]
    assert main(["suite", *words, "episodes=2"]) == 0
    shown = capsys.readouterr()
    assert "2 episodes" in shown.err
    assert "left out: null on pick_place on aloha" in shown.out
    summary = json.loads((tmp_path / "suite.json").read_text())
    assert [cell["n"] for cell in summary["cells"]] == [2, 2]
    assert summary["base"] == "random"
    page = (tmp_path / "suite.html").read_text()
    for cell in summary["cells"]:
        assert f"{cell['folder']}/report.html" in page
        assert (tmp_path / cell["folder"] / "report.html").is_file()
    assert main(["suite", *words, "episodes=2"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("finished before") == 2
    assert main(["suite", *words, "episodes=1"]) == 0  # control: another request is run
    assert "finished before" not in capsys.readouterr().err
    assert main(["suite", "policies=[null,null]", "tasks=[pick_place]", f"out={tmp_path}"]) == 2
    assert main(["suite", "policies=[null]", "tasks=[pick_place]", "base=a", f"out={tmp_path}"]) == 2
