"""Sweeps: Hydra's grammar, folders by overrides, what is finished is kept, what is cut goes on, failures stop none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from robopolicy.cli import sweep_job
from robopolicy.cli.main import main
from robopolicy.cli.sweep_grid import read_grid
from robopolicy.cli.sweep_job import INTERRUPTED, Children, JobSpec, run_job
from robopolicy.cli.sweep_table import pooled
from robopolicy.errors import ConfigError
from robopolicy.evaluation.statistics import wilson
from robopolicy.sim.collect import collect

LR = "recipe.stages.policy.optimizer.lr"
SMALL = (
    *("recipe=pick_place/diffusion", "recipe.threads=1", "recipe.stages.policy.steps=2"),
    *("recipe.stages.policy.batch_size=8", "recipe.stages.policy.parameters.unet.down=[8,16]"),
    *("recipe.stages.policy.parameters.unet.step_dim=8", "recipe.stages.policy.validation.fraction=0.5"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    collect("pick_place", "panda", 2, folder / "pick.zarr")
    return folder / "pick.zarr"


def told(words, capsys):
    capsys.readouterr()
    code = main(["sweep", *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


# the grid


def test_the_grid_is_hydras():
    jobs = read_grid(["seed=0,1", "recipe=pick_place/diffusion", f"{LR}=choice(1e-3,3e-3)", "data=x.zarr"])
    assert [job.name for job in jobs] == ["seed_0-lr_0.001", "seed_0-lr_0.003", "seed_1-lr_0.001", "seed_1-lr_0.003"]
    fixed = ("recipe=pick_place/diffusion", "data=x.zarr")
    assert jobs[1].overrides == (*fixed, "recipe.seed=0", f"{LR}=0.003")
    assert jobs[1].seed == "0"
    assert jobs[1].group == ((LR, "0.003"),)
    assert [job.seed for job in read_grid(["seed=range(0,3)"])] == ["0", "1", "2"]
    assert [job.name for job in read_grid(["recipe.seed=4"])] == ["job"]
    # a list is one value, not a sweep; quoted commas neither
    assert len(read_grid(["recipe.stages.policy.parameters.unet.down=[8,16]", "data='a,b.zarr'"])) == 1
    assert [job.name for job in read_grid(["a.lr=1,2", "b.lr=3,4"])][:2] == ["a.lr_1-b.lr_3", "a.lr_1-b.lr_4"]
    names = [job.name for job in read_grid([f"recipe.description={'x' * 200},{'y' * 200}"])]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 140


@pytest.mark.parametrize("word", ["seed=interval(0,1)", "seed=range(a)", "seed", "seed=1,1"])
def test_what_is_no_grid_is_refused(word):
    with pytest.raises(ConfigError, match="mend"):
        read_grid([word])


def test_every_job_is_checked_before_the_first_begins(store, tmp_path, capsys):
    out = tmp_path / "sweep"
    code, _, errors = told([*SMALL, f"data={store}", f"out={out}", "recipe.stages.policy.optimizer.rl=1,2"], capsys)
    assert code == 2
    assert "did you mean" in errors
    code, _, errors = told([*SMALL, f"data={store}", f"out={out}", f"{LR}=1e-3,-1"], capsys)
    assert code == 2
    assert "optimizer.lr: out of bounds" in errors
    assert not list(out.glob("*/config.yaml"))


# the table


def test_seeds_are_pooled_and_jobs_that_are_not_finished_do_not_count():
    jobs = read_grid(["seed=0,1,2", f"{LR}=1e-3,3e-3"])
    shape = {"steps": 2, "wilson_95": None, "cpu_s": 1.0}
    outcomes = [{"status": "finished", "validation_loss": 0.1 * i, "successes": i, "n": 10, **shape} for i in range(6)]
    outcomes[5] = {"status": "failed", "validation_loss": None, "successes": None, "n": None, "cpu_s": None}
    first, second = pooled(jobs, outcomes)
    assert first["swept"] == {LR: "0.001"}
    assert first["seeds"] == ["0", "1", "2"]
    assert (first["successes"], first["n"]) == (0 + 2 + 4, 30)
    assert first["wilson_95"] == list(wilson(6, 30))
    assert first["validation_loss"] == pytest.approx(0.2)
    assert (second["jobs"], second["successes"], second["n"]) == ([2, 3], 1 + 3, 20)
    assert second["success_by_seed"] == {"0": 0.1, "1": 0.3}


# real jobs of two steps


def test_a_sweep_runs_evaluates_is_kept_and_tells_failures(store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "sweep"
    words = [*SMALL, f"data={store}", f"out={out}", "seed=0,1", "eval.episodes=1"]
    # Where the folder of the second job should be is a file of somebody: that job fails, the other does not.
    blocked = out / "seed_1"
    blocked.mkdir(parents=True)
    (blocked / "checkpoints").write_text("not a folder")
    code, shown, errors = told(words, capsys)
    assert code == 1
    assert "failed: seed_1: exit code" in errors
    table = json.loads((out / "sweep.json").read_text())
    assert [job["status"] for job in table["jobs"]] == ["finished", "failed"]
    assert table["jobs"][0]["n"] == 1
    assert table["jobs"][0]["cpu_s"] > 0
    assert table["jobs"][0]["validation_loss"] > 0
    assert "| seed_0 | finished |" in shown
    # Mended, and given again: only what is missing is run.
    (blocked / "checkpoints").unlink()
    ran = []
    real = sweep_job.run_job

    def spy(spec, children):
        ran.append(Path(spec.folder).name)
        return real(spec, children)

    monkeypatch.setattr("robopolicy.cli.sweep_run.run_job", spy)
    before = (out / "seed_0" / "train.json").stat().st_mtime_ns
    code, shown, _ = told([*words, "threads=1"], capsys)  # threads are no other setting
    assert code == 0
    assert ran == ["seed_1"]
    assert (out / "seed_0" / "train.json").stat().st_mtime_ns == before
    assert "Seeds pooled" in (out / "sweep.md").read_text()
    assert json.loads((out / "sweep.json").read_text())["pooled"][0]["n"] == 2
    # The same folder for other settings is refused.
    code, _, errors = told([*words, f"{LR}=0.5"], capsys)
    assert code == 2
    assert "holds a job with other settings" in errors


CUT = """
import sys, time
from robopolicy.training.trainer import Trainer
step = Trainer._step
def slow(self, batches):
    time.sleep({pause})
    return step(self, batches)
Trainer._step = slow
from robopolicy.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def spec_of(store, folder, steps):
    every = "recipe.stages.policy.checkpoint_every=2"
    words = (*SMALL, every, f"recipe.stages.policy.steps={steps}", "progress=false", f"data={store}")
    return JobSpec(str(folder), words, (), 1, {"job": 1})


def slowed(monkeypatch, pause):
    """Children train slowly, so that there is time to cut them."""
    run = Children.run

    def patched(self, command, **settings):
        return run(self, [command[0], "-c", CUT.format(pause=pause), *command[3:]], **settings)

    monkeypatch.setattr(Children, "run", patched)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


PARENT = """
import sys, json
sys.path.insert(0, {tests!r})
import test_cli_sweep as t
import pytest
patch = pytest.MonkeyPatch()
t.slowed(patch, 0.3)
sys.exit(t.run_job(t.spec_of({store!r}, {folder!r}, 12)))
"""


def test_killed_sweep_is_continued_and_its_orphan_is_not_run_twice(store, tmp_path):
    folder = tmp_path / "job"
    code = PARENT.format(tests=str(Path(__file__).parent), store=str(store), folder=str(folder))
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: list(folder.glob("checkpoints/*/step_*/manifest.json")))
    parent.kill()
    parent.wait()
    assert not (folder / "train.json").exists()
    # The child goes on with the lock in its hands; the same job waits for it and finds everything done.
    assert run_job(spec_of(store, folder, 12)) == 0
    assert json.loads((folder / "train.json").read_text())["steps"] == 12
    log = (folder / "job.log").read_text()
    assert log.count("$ robopolicy train") == 1


def test_killed_training_is_resumed_from_its_checkpoint(store, tmp_path, monkeypatch):
    folder, killed = tmp_path / "job", []
    children = Children()
    with monkeypatch.context() as patch:
        slowed(patch, 0.3)
        run = Children.run

        def killing(self, command, **settings):
            import threading

            def kill():
                wait_for(lambda: list(folder.glob("checkpoints/*/step_*/manifest.json")))
                for process in list(self._live):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

            thread = threading.Thread(target=kill)
            thread.start()
            try:
                return run(self, command, **settings)
            finally:
                thread.join()

        patch.setattr(Children, "run", killing)
        assert run_job(spec_of(store, folder, 12), children) == -signal.SIGKILL
    assert len(killed) == 1
    assert run_job(spec_of(store, folder, 12)) == 0
    log = (folder / "job.log").read_text()
    assert "--resume" in log
    assert "resumed stage 'policy' at step" in log


def test_children_are_asked_to_stop_and_none_is_started_afterwards(tmp_path):
    children = Children()
    children.stop()
    assert children.run([sys.executable, "-c", "raise SystemExit(5)"]) == INTERRUPTED
    assert Children().run([sys.executable, "-c", "raise SystemExit(5)"]) == 5  # the control


# Ray, by its public names


class Reference:
    def __init__(self, value):
        self.value = value


def fake_ray(log):
    ray = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))
    ray.is_initialized = lambda: False
    ray.init = lambda **kw: log.append(("init", kw))
    ray.shutdown = lambda: log.append(("shutdown",))

    def remote(**options):
        log.append(("remote", options))
        return lambda function: types.SimpleNamespace(remote=lambda *a: Reference((function, a)))

    def get(reference):
        function, arguments = reference.value
        if "seed_1" in arguments[0].folder:
            raise ray.exceptions.RayError("the node died")
        return function(*arguments)

    ray.remote, ray.get = remote, get
    ray.wait = lambda left, num_returns: (left[:num_returns], left[num_returns:])
    return ray


def test_ray_is_used_by_its_public_names_and_a_lost_node_fails_one_job(store, tmp_path, capsys, monkeypatch):
    log = []
    monkeypatch.setitem(sys.modules, "ray", fake_ray(log))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("robopolicy.cli.sweep_run.run_job", lambda spec: 0)
    words = [*SMALL, f"data={store}", f"out={tmp_path}", "seed=0,1", "backend=ray", "workers=2", "threads=1"]
    code, _, errors = told(words, capsys)
    assert code == 1
    assert "failed: seed_1" in errors
    assert "failed: seed_0" not in errors
    assert [entry[0] for entry in log] == ["init", "remote", "shutdown"]
    assert log[0][1] == {"num_cpus": 2}
    assert log[1][1] == {"num_cpus": 1, "max_retries": 0}


def test_without_ray_the_message_says_what_to_install(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, errors = told([*SMALL, f"data={store}", f"out={tmp_path}", "backend=ray"], capsys)
    assert code == 2
    assert "pip install ray" in errors
