"""The command line: verbs, help, exit codes, and what a wrong word gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from robopolicy.cli import doctor, graphics, main
from robopolicy.cli.arguments import describe_keys, flags, split_arguments
from robopolicy.cli.eval import EvalConfig, episode_indices
from robopolicy.cli.main import verbs
from robopolicy.errors import CommandError, ConfigError, MissingDependencyError
from robopolicy.registry import GROUPS

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        code = main.main(list(argv))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_overview_names_every_verb(run: Run) -> None:
    for argv in ([], ["--help"], ["-h"]):
        code, out, _ = run(*argv)
        assert code == 0
        for verb, summary in verbs().items():
            assert verb in out
            assert summary.strip()
            assert summary in out


def test_verbs_of_the_foundation_exist() -> None:
    assert {"collect", "train", "eval", "compare", "doctor", "list"} <= set(verbs())


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_each_verb_explains_itself(run: Run, verb: str) -> None:
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert f"robopolicy {verb}" in out
    assert "Examples:" in out


@pytest.mark.parametrize("verb", ["collect", "train", "eval", "compare"])
def test_help_lists_keys_with_their_defaults(run: Run, verb: str) -> None:
    _, out, _ = run(verb, "--help")
    assert "Keys:" in out
    assert "=required" in out


def test_defaults_in_help_come_from_the_yaml() -> None:
    table = describe_keys(EvalConfig, "eval")
    for part in ("episodes=100", "split=test", "task=null", "latency_ms=0.0", "overwrite=false", "policy=required"):
        assert part in table


def test_unknown_verb_and_version(run: Run) -> None:
    code, _, err = run("evel")
    assert code == 2
    assert "did you mean 'eval'?" in err
    assert "Traceback" not in err
    assert run("--version")[1].startswith("robopolicy 0.")


def test_errors_are_a_message_and_code_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("collect", "epsiodes=3", "split=tset", "out")
    assert (code, out) == (2, "")
    code, out, err = run("collect", "epsiodes=3", "split=tset", "out=x", "workers=0")
    assert code == 2
    for part in ("did you mean 'episodes'?", "did you mean 'test'?", "workers: out of bounds", "3 problems"):
        assert part in err
    monkeypatch.setenv("ROBOPOLICY_DEBUG", "1")
    with pytest.raises(ConfigError):
        main.main(["collect", "epsiodes=3"])


def test_interruption_and_exit_code_of_a_verb(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def module(action: Callable[[], int]) -> None:
        fake = SimpleNamespace(run=lambda argv: action(), __doc__="")
        monkeypatch.setattr(main.importlib, "import_module", lambda name: fake)

    def interrupt() -> int:
        raise KeyboardInterrupt

    def missing() -> int:
        raise MissingDependencyError("no GL; mend: install it")

    module(interrupt)
    assert run("list")[0] == 130
    module(missing)
    assert run("list")[0] == 2
    module(lambda: 1)
    assert run("list")[0] == 1


def test_a_programming_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(main.importlib, "import_module", lambda name: SimpleNamespace(run=broken, __doc__=""))
    with pytest.raises(ZeroDivisionError):
        main.main(["list"])


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m robopolicy list | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_list(run: Run) -> None:
    code, out, _ = run("list", "tasks")
    assert code == 0
    assert "pick_place" in out
    assert len(out.strip().splitlines()[0].split()) > 3, "each name comes with a sentence"
    assert "robopolicy collect" not in out, "the command line of the YAML is not its description"
    _, out, _ = run("list")
    assert len([line for line in out.splitlines() if not line.startswith(" ")]) == len(GROUPS)
    code, _, err = run("list", "robotz")
    assert code == 2
    assert "did you mean 'robots'?" in err


def test_arguments() -> None:
    named, overrides = split_arguments(
        ["runs/a", "--resume", "runs/b", "x=1", "~y", "--device=cpu"],
        positional=("policy",),
        options=("resume", "device"),
    )
    assert named == {"policy": "runs/a", "resume": "runs/b", "device": "cpu"}
    assert overrides == ["x=1", "~y"]
    for wrong in (["a", "b"], ["--resum", "x"], ["--resume"], ["--resume="]):
        with pytest.raises(CommandError):
            split_arguments(wrong, positional=("policy",), options=("resume",))
    with pytest.raises(CommandError, match="did you mean '--choose-gl'"):
        flags(["--chose-gl"], ("choose-gl",))


def test_train_resume_takes_no_other_key(run: Run) -> None:
    code, _, err = run("train", "--resume", "runs/nowhere", "recipe.seed=3")
    assert code == 2
    assert "a resumed run keeps its configuration" in err


def test_episode_indices() -> None:
    assert list(episode_indices(3)) == [0, 1, 2]
    assert episode_indices("100:200") == range(100, 200)
    for wrong in ("5", "a:b", "3:3", "-1:3", ":"):
        with pytest.raises(ConfigError, match="100:200"):
            episode_indices(wrong)


def test_eval_names_what_is_missing(run: Run) -> None:
    code, _, err = run("eval", "policy=null")
    assert code == 2
    assert "give task=NAME" in err
    code, _, err = run("eval", "runs/nowhere")
    assert code == 2
    assert "no such run" in err


def test_gl_backend_is_chosen_by_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*working: str) -> None:
        def trial(backend: str, timeout_s: float = 60.0) -> graphics.GlTrial:
            return graphics.GlTrial(backend, backend in working, f"about {backend}")

        monkeypatch.setattr(graphics, "try_backend", trial)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for working, chosen in ((("egl", "osmesa"), "egl"), (("osmesa",), "osmesa"), ((), None)):
        answers(*working)
        found, tried = graphics.choose_backend()
        assert (found.backend if found else None) == chosen
        assert tried
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    answers("egl", "osmesa")
    assert graphics.choose_backend()[0] == graphics.GlTrial("osmesa", True, "about osmesa")


def test_a_backend_that_cannot_render_says_why() -> None:
    trial = graphics.try_backend("no_such_backend")
    assert not trial.works
    assert "no_such_backend" in trial.detail


def test_doctor_counts_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Run
) -> None:
    fine = doctor.Finding("one", "here")
    note = doctor.Finding("two", "small", "make it larger", needed=False)
    gone = doctor.Finding("three", "absent", "install it")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [fine], lambda: [note]))
    assert run("doctor")[0] == 0
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [fine, note, gone],))
    code, out, _ = run("doctor")
    assert code == 1
    assert "MISSING three" in " ".join(out.split())
    assert "-> install it" in out


def test_doctor_without_gl_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [graphics.GlTrial("egl", False, "libEGL.so.1 not found")]
    monkeypatch.setattr(doctor, "choose_backend", lambda: (None, refused))
    (finding,) = doctor._graphics()
    assert finding.mark == "MISSING"
    assert "libegl1" in finding.mend
    assert "libEGL.so.1 not found" in finding.text


def test_doctor_on_this_machine_knows_versions_and_cores() -> None:
    found = {
        f.topic: f for check in (doctor._python, doctor._packages, doctor._machine) for f in check() if f.mark == "ok"
    }
    assert "numpy" in found["packages"].text
    assert str(len(os.sched_getaffinity(0))) in found["cores"].text
