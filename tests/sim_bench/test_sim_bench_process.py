"""A benchmark's process: commands, refusals, and every way of losing it; it is always ended, and never silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robopolicy.errors import ConfigError, EmbodimentMismatchError, MissingDependencyError, SimulationError
from robopolicy.sim.bench.benchmark import episode_seed, load_benchmark
from robopolicy.sim.bench.env import BenchEnv
from robopolicy.sim.bench.guest.wire import Channel, Message
from robopolicy.sim.bench.process import LAUNCH, BenchmarkProcess, EnvironmentLostError


@pytest.fixture
def process(request: pytest.FixtureRequest):
    found = BenchmarkProcess(load_benchmark(getattr(request, "param", "fake")))
    found.start()
    yield found
    found.close()


def test_an_episode(process: BenchmarkProcess) -> None:
    assert process.versions["fake"] == "1.0"
    assert "numpy" in process.versions
    spec = process.make("point", "stock")
    assert spec.horizon == 60
    start = process.reset("test", 0)
    np.testing.assert_array_equal(start.state, list(start.initial_state.values()))
    for _ in range(60):
        step = process.step(process.expert())
        if step.success:
            break
    assert step.success
    assert step.metrics["distance_m"] < 0.05
    assert process.render("top", 6, 8).shape == (6, 8, 3)
    np.testing.assert_array_equal(process.reset("test", 0).state, start.state)
    assert not np.array_equal(process.reset("val", 0).state, start.state)


def test_a_request_that_cannot_be_done_costs_nothing(process: BenchmarkProcess) -> None:
    with pytest.raises(ConfigError, match="did you mean 'fake/point'"):
        process.make("poin", "stock")
    process.make("point", "stock")
    with pytest.raises(SimulationError, match="reset first"):
        process.step(np.zeros(2))
    process.reset("test", 0)
    for action in (np.zeros(3), np.array([np.nan, 0.0])):
        with pytest.raises(SimulationError, match="refuses"):
            process.step(action)
    with pytest.raises(SimulationError, match="allowed: top"):
        process.render("bottom", 4, 4)
    with pytest.raises(SimulationError, match="allowed: 1 to 2048"):
        process.render("top", 4, 4000)
    assert process.running
    assert process.step(np.zeros(2)).metrics


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "exit code -6"),
        ("kill", "exit code -9"),
        ("silent-exit", "exit code 0"),
        ("garbage", "no frame"),
        ("raise", "ZeroDivisionError: the fake benchmark has a fault"),
        ("width", "the task promised"),
    ],
)
def test_losses_are_named_and_the_process_is_ended(process: BenchmarkProcess, fault: str, words: str) -> None:
    process.make(fault, "stock")
    process.reset("test", 3)
    process.step(np.zeros(2))
    pid = process.pid
    with pytest.raises(EnvironmentLostError, match=words) as caught:
        process.step(np.zeros(2))
    assert caught.value.termination == "environment_crashed"
    assert not process.running
    assert not Path(f"/proc/{pid}").exists()
    process.start()
    process.make("point", "stock")
    assert process.reset("test", 3).state.shape == (2,)


@pytest.mark.parametrize("process", ["impatient"], indirect=True)
def test_a_hung_process_is_ended_at_its_deadline(process: BenchmarkProcess) -> None:
    process.make("hang", "stock")
    process.reset("test", 5)
    process.step(np.zeros(2))
    with pytest.raises(EnvironmentLostError, match="within 1 s") as caught:
        process.step(np.zeros(2))
    assert caught.value.termination == "environment_hung"
    assert not process.running


def test_nonfinite_numbers(process: BenchmarkProcess) -> None:
    process.make("nan-reset", "stock")
    with pytest.raises(EnvironmentLostError, match="first observation is not finite"):
        process.reset("test", 3)
    process.start()
    process.make("nan", "stock")
    process.reset("test", 3)
    process.step(np.zeros(2))
    assert not np.isfinite(process.step(np.zeros(2)).state).any()  # told, for the episode to judge
    process.make("noisy", "stock")
    process.reset("test", 0)
    with pytest.raises(EnvironmentLostError, match="no usable action"):
        process.expert()


def test_environment_that_is_not_there(bench_configs: Path) -> None:
    path = bench_configs / "benchmark" / "fake.yaml"
    path.write_text(path.read_text() + "requirements: [nothing==1.0]\n")
    with pytest.raises(MissingDependencyError, match="robopolicy bench-env create fake"):
        BenchEnv("fake/point")


def test_an_adapter_that_cannot_be_loaded_says_why(bench_configs: Path) -> None:
    path = bench_configs / "benchmark" / "fake.yaml"
    path.write_text(path.read_text().replace(":Fake", ":Fakke"))
    with pytest.raises(EnvironmentLostError, match="Fakke"):
        BenchEnv("fake/point")


def test_a_card_that_contradicts_the_benchmark_is_refused(bench_configs: Path) -> None:
    card = bench_configs / "embodiment" / "fake_point.yaml"
    text = card.read_text()
    for change in (("lower: -1,", "lower: -2,"), ("position.y", "position.z"), ("_hz: 20", "_hz: 10")):
        card.write_text(text.replace(*change))
        with pytest.raises(EmbodimentMismatchError, match="contradict"):
            BenchEnv("fake/point")
    card.write_text(text)
    with pytest.raises(EmbodimentMismatchError, match="robot of its own"):
        BenchEnv("fake/point", "panda")


def test_seeds_of_splits_never_meet() -> None:
    seeds = [episode_seed(split, index) for split in ("train", "val", "test") for index in (0, 1, 2**29 - 1)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**31
    with pytest.raises(ConfigError):
        episode_seed("train", 2**29)


def test_pipes_of_the_command_line(bench_configs: Path) -> None:
    command = [sys.executable, "-m", "robopolicy", "sim-server", "fake"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        channel = Channel(child.stdout.fileno(), child.stdin.fileno())
        channel.send(Message("hello", 1, {"protocol": 1}), 30.0)
        assert channel.receive(60.0).body["versions"]["fake"] == "1.0"  # what it prints is not among the frames
        channel.send(Message("hello", 2, {"protocol": 99}), 30.0)
        assert channel.receive(30.0).body["fault"] == "request"
        channel.send(Message("fly", 3), 30.0)
        assert "no such command" in channel.receive(30.0).body["message"]
        channel.send(Message("close", 4), 30.0)
        assert channel.receive(30.0).kind == "ok"
        assert child.wait(30) == 0


def test_the_guest_imports_nothing_of_the_rest() -> None:
    """As in an environment where only numpy is installed."""
    program = (
        "import runpy, sys; sys.argv=['launch', 'fake:X', '--fd', '0'];"
        f"runpy.run_path({str(LAUNCH)!r}, run_name='launched')['_package']();"
        "import importlib; importlib.import_module('robopolicy.sim.bench.guest.server');"
        "print(sorted(n for n in sys.modules if n.startswith('robopolicy')))"
        ";assert not {'mujoco', 'gymnasium', 'torch', 'yaml', 'robopolicy.errors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "robopolicy.sim.bench.guest.wire" in done.stdout
