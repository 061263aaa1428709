"""The five words: evaluation gives the same outcome from a name, from an object and from Python's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import robopolicy as rp
from robopolicy.assess import evaluate
from robopolicy.cli.main import main
from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, StoreNotFoundError
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.subject import BaselinePolicy, find_subject


def outcomes(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [EpisodeResult.from_dict(row).outcome() for row in report["episodes"]]


@pytest.fixture(scope="module")
def null_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("null") / "report"
    words = ["policy=null", "task=pick_place", "embodiment=panda", "episodes=2", "workers=1", f"out={out}"]
    assert main(["eval", *words]) == 0
    return out


def test_a_policy_object_does_as_its_name_does(null_report: Path) -> None:
    env = rp.make_env("pick_place", "panda")
    policy = BaselinePolicy("null")(env)
    report = rp.evaluate(policy, "pick_place", episodes=range(2))
    assert report["header"]["embodiment"] == "panda"
    assert outcomes(report) == outcomes(read_report(null_report))
    other = rp.evaluate(policy, "pick_place", episodes=range(2, 4))
    assert outcomes(other) != outcomes(report), "other episodes begin differently"


def test_report_says_how_to_make_it_again(null_report: Path) -> None:
    head = read_report(null_report)["header"]
    assert head["command"].startswith("robopolicy eval policy=null")
    assert head["policy"] == "null"
    assert head["control"]["latency_ms"] == 0.0
    assert (null_report / "report.html").is_file()


def test_out_of_something_else_is_refused_before_any_rollout(null_report: Path) -> None:
    with pytest.raises(DataError, match="overwrite=true"):
        evaluate("random", "pick_place", embodiment="panda", episodes=range(10**6), out=null_report)


def test_compare_pairs_episodes(null_report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rp.compare(null_report, null_report)["n"] == 2
    assert main(["compare", str(null_report), str(null_report)]) == 0
    assert "same checkpoint" not in capsys.readouterr().out


def test_a_sweep_is_refused_when_empty_or_doubled() -> None:
    for wrong in ((), (10.0, 10.0)):
        with pytest.raises(ConfigError, match="sweep"):
            evaluate("null", "pick_place", embodiment="panda", episodes=range(1), latency_ms=wrong)


def test_subjects() -> None:
    assert find_subject(None).name == "null"
    assert find_subject("expert").embodiment is None
    with pytest.raises(ConfigError, match="did you mean 'expert'"):
        find_subject("expart")


def test_a_policy_of_another_embodiment_is_refused() -> None:
    env = rp.make_env("pick_place", "panda")
    policy = BaselinePolicy("null")(env)
    with pytest.raises(EmbodimentMismatchError, match="ur5e_2f85"):
        rp.evaluate(policy, "pick_place", embodiment="ur5e_2f85", episodes=range(1))


def test_words_of_python_are_lazy_and_complete(tmp_path: Path) -> None:
    assert sorted(rp.__all__) == sorted(["compare", "evaluate", "load_policy", "make_env", "open_dataset"])
    assert set(rp.__all__) <= set(dir(rp))
    with pytest.raises(AttributeError, match="open_dataset"):
        _ = rp.open_datset
    with pytest.raises(StoreNotFoundError):
        rp.open_dataset(tmp_path / "nowhere.zarr")
