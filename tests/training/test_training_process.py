"""Training as a process: Ctrl-C, kill -9, two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy import checkpoint
from robopolicy.errors import ConfigError
from robopolicy.training.run import resume, train

CHILD = str(Path(__file__).with_name("training_child.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(store, out, steps=400, pause_s=0.02, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, CHILD, str(store), str(out), str(steps), str(pause_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def wait_for_a_checkpoint(process, out, limit_s=90):
    end = time.monotonic() + limit_s
    while not list((out / "checkpoints").glob("*/step_*/manifest.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_exits_with_130(reach, tmp_path, number):
    out = tmp_path / "run"
    process = start(reach, out)
    wait_for_a_checkpoint(process, out)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"robopolicy train --resume {out}" in errors
    step = checkpoint.load(checkpoint.latest(out)).document("trainer")["step"]
    said = int(errors.split("stopped at step ")[1].split()[0])
    assert step == said < 400
    assert not (out / "train.json").exists()


def test_kill_9_loses_at_most_the_steps_since_the_last_checkpoint(reach, tmp_path):
    """Killed at random moments, a run still ends; each time the newest complete checkpoint opens."""
    out = tmp_path / "run"
    process = start(reach, out, steps=12, pause_s=0.1)
    try:
        wait_for_a_checkpoint(process, out)
        time.sleep(float(np.random.default_rng(0).uniform(0, 0.3)))
    finally:
        process.kill()
        process.communicate()
    before = checkpoint.load(checkpoint.latest(out)).document("trainer")["step"]
    assert before >= 2
    # What a kill in the middle of a save leaves behind: a part without a manifest.
    part = checkpoint.latest(out).with_name(".step_00000099.999999999.part")
    part.mkdir()
    (part / "weights.safetensors").write_bytes(b"cut")
    assert resume(out, progress=False)["steps"] == 12
    assert not part.exists()


def test_two_processes_train_the_same_recipe(reach, recipe, tmp_path):
    """gloo on the CPU: the same samples per step, so the loss has the same scale and course; and one run directory."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    process = start(reach, tmp_path / "two", steps=40, pause_s=0, launcher=launcher)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    made = recipe(steps=40, checkpoint_every=2)
    train(made, reach, tmp_path / "one", progress=False)
    summary = json.loads((tmp_path / "two" / "train.json").read_text())
    assert summary["processes"] == 2

    def losses(run):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        return np.array([line["loss"] for line in lines if "loss" in line])

    one, two = losses("one"), losses("two")
    assert len(one) == len(two) == 20  # logged once, not once per process
    np.testing.assert_allclose(one[:5].mean(), two[:5].mean(), rtol=0.15)
    np.testing.assert_allclose(one[-5:].mean(), two[-5:].mean(), rtol=0.25)
    state_one, state_two = (
        checkpoint.load(checkpoint.latest(tmp_path / r)).document("trainer") for r in ("one", "two")
    )
    assert state_one["order"] == state_two["order"]
    assert state_one["optimizer"]["next_lr"] == state_two["optimizer"]["next_lr"]  # not stepped once per process
    assert state_one["ema"] == state_two["ema"]


def test_the_launcher_that_starts_one_process_is_refused(reach, recipe, tmp_path, monkeypatch):
    """``accelerate launch --cpu --num_processes 2`` quietly starts one process; this is the environment it leaves."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="--multi_gpu"):
        train(recipe(), reach, tmp_path / "run", progress=False)
