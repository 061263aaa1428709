"""Episodes of a benchmark: pure functions of their index; lost ones are run again once, then reported apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.assess import ValidationRollout, evaluate
from robopolicy.cli.collect import run as collect_command
from robopolicy.cli.eval import run as eval_command
from robopolicy.control.latency import LatencyModel
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, SimulationError
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.protocols import PolicySpec
from robopolicy.sim.bench.env import BenchEnv
from robopolicy.sim.bench.episode import run_bench_episode
from robopolicy.sim.bench.player import ChunkPlayer
from robopolicy.types import ActionChunk


@pytest.fixture
def env(request: pytest.FixtureRequest):
    found = BenchEnv(getattr(request, "param", "fake/point"))
    yield found
    found.close()


class Steady:
    """Chunks of six rows, row i of call n is (n, i) / 100; re-plans every ``horizon`` steps."""

    def __init__(self, env: BenchEnv, horizon: int = 4, value: float | None = None):
        self.spec = PolicySpec(env.embodiment, 2, horizon, 6)
        self.calls: list[Any] = []
        self.value = value

    def act(self, observation: Any, *, rng: Any, prefix: Any = None, goal: Any = None) -> ActionChunk:
        rows = np.stack([np.full(6, len(self.calls) / 100), np.arange(6) / 100], axis=1)
        if self.value is not None:
            rows = np.full((6, 2), self.value)
        self.calls.append(observation)
        card = self.spec.embodiment
        return ActionChunk(rows, int(observation.time_ns[-1]), card.control_dt_s, card.hash)


def outcomes(env: BenchEnv, indices: list[int]) -> dict[int, dict[str, Any]]:
    expert = env.task.expert(env)
    return {i: run_bench_episode(env, expert, split="test", index=i).outcome() for i in indices}


def test_an_episode_does_not_depend_on_what_ran_before(env: BenchEnv) -> None:
    first = outcomes(env, [0, 1, 2])
    assert all(found["success_at_end"] for found in first.values())
    assert outcomes(env, [2, 0, 1]) == first
    env.process.kill()
    assert outcomes(env, [1]) == {1: first[1]}


@pytest.mark.parametrize("env", ["fake/leaky"], indirect=True)
def test_the_check_of_purity_catches_a_breach(env: BenchEnv) -> None:
    first = outcomes(env, [0, 1, 2])
    assert outcomes(env, [2, 0, 1]) != first


@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_workers(workers: int) -> None:
    here = evaluate("expert", "fake/point", episodes=range(4), workers=1)
    there = evaluate("expert", "fake/point", episodes=[3, 1, 0, 2], workers=workers)
    rows = [[EpisodeResult.from_dict(row).outcome() for row in report["episodes"]] for report in (here, there)]
    assert rows[0] == rows[1]
    assert there["header"]["embodiment"] == "fake_point"
    assert there["versions"]["fake: fake"] == "1.0"
    assert there["versions"]["fake: render"] == "stock"


@pytest.mark.parametrize(
    ("task", "termination"),
    [
        ("fake/crash", "environment_crashed"),
        ("fake/garbage", "environment_crashed"),
        ("impatient/hang", "environment_hung"),
    ],
)
def test_a_lost_episode_is_counted_apart(task: str, termination: str, tmp_path: Path) -> None:
    report = evaluate("expert", task, episodes=range(6), out=tmp_path / "eval")
    assert [row["index"] for row in report["lost"]] == [3, 5]
    assert {row["termination"] for row in report["lost"]} == {termination}
    assert (report["n"], report["successes"], report["success_rate"]) == (4, 4, 1.0)
    assert report["missing_episodes"] == [3, 5]
    assert report["lost_attempts"] == 4
    assert report["terminations"] == {termination: 2, "success": 4}
    assert read_report(tmp_path / "eval")["n"] == 4
    assert "NOT EVALUATED: 2 of 6" in (tmp_path / "eval" / "report.html").read_text()


@pytest.mark.parametrize("task", ["fake/crash-once", "fake/raise-once", "fake/garbage-once", "impatient/hang-once"])
def test_an_episode_that_is_lost_once_is_run_again(task: str) -> None:
    report = evaluate("expert", task, episodes=range(6))
    assert report["lost"] == []
    assert (report["n"], report["lost_attempts"]) == (6, 2)
    name = task.partition("/")[2]
    calm = evaluate("expert", "fake/point", episodes=range(6))
    for mine, theirs in zip(report["episodes"], calm["episodes"], strict=True):
        changed = {**EpisodeResult.from_dict(mine).outcome(), "task": "fake/point"}
        assert changed == EpisodeResult.from_dict(theirs).outcome(), name


def test_a_run_in_which_everything_is_lost_is_no_result() -> None:
    with pytest.raises(DataError, match="every episode was lost"):
        evaluate("expert", "fake/crash", episodes=[3, 5])


@pytest.mark.parametrize("env", ["fake/raise"], indirect=True)
def test_a_benchmark_that_is_lost_all_the_time_ends_the_run(env: BenchEnv) -> None:
    env.lost_in_a_row = 8
    expert = env.task.expert(env)
    assert run_bench_episode(env, expert, split="test", index=3).lost
    with pytest.raises(SimulationError, match=r"10 episodes.*were lost.*has a fault"):
        run_bench_episode(env, expert, split="test", index=5)


@pytest.mark.parametrize("env", ["fake/nan", "fake/diverge"], indirect=True)
def test_diverging_physics_is_a_failure_of_the_episode(env: BenchEnv) -> None:
    result = run_bench_episode(env, env.task.expert(env), split="test", index=3)
    assert (result.termination, result.length, result.lost, result.success_once) == ("unstable", 2, False, False)


def test_a_lost_record_cannot_claim_success(env: BenchEnv) -> None:
    result = run_bench_episode(env, env.task.expert(env), split="test", index=0)
    with pytest.raises(DataError, match="no success"):
        dataclasses.replace(result, termination="environment_crashed", lost_attempts=2)


def sent(env: BenchEnv, policy: Any, latency_ms: float, steps: int = 12) -> tuple[list[list[float]], EpisodeResult]:
    actions: list[list[float]] = []
    carry_out = env.step
    env.step = lambda action: (actions.append([round(float(v), 6) for v in action]), carry_out(action))[1]  # type: ignore
    try:
        model = LatencyModel.from_config(latency_ms)
        result = run_bench_episode(env, policy, split="val", index=1, control_latency=model, max_steps=steps)
    finally:
        env.step = carry_out  # type: ignore[method-assign]
    return actions, result


def test_chunks_are_carried_out_by_absolute_time(env: BenchEnv) -> None:
    """20 Hz, Ta = 4: prompt, rows 0 to 3; 100 ms late, the first chunk from its beginning, the others from row 2."""
    prompt, result = sent(env, Steady(env), 0.0)
    assert prompt == [[call / 100, row / 100] for call in range(3) for row in range(4)]
    assert (result.ticks, result.tracking_ticks, result.missing_setpoints, result.chunks) == (12, 12, 0, 3)
    late, result = sent(env, Steady(env), 100.0)
    rest = [[0.0, 0.5]] * 2
    assert late == [
        *rest,
        *([0.0, i / 100] for i in range(4)),
        *([0.01, i / 100] for i in (2, 3, 4, 5)),
        [0.02, 0.02],
        [0.02, 0.03],
    ]
    assert result.latency_ms == 100.0
    assert result.missing_setpoints == 0
    between, _ = sent(env, Steady(env), 60.0)  # not a whole number of steps: it is there at the next one
    assert between == late


def test_a_chunk_that_has_run_out_leaves_the_robot_at_rest(env: BenchEnv) -> None:
    """Six rows, re-planned every 8 steps: for two steps nothing is scheduled; channel 2 keeps its last action."""
    actions, result = sent(env, Steady(env, horizon=8), 0.0, steps=9)
    assert actions[5:9] == [[0.0, 0.05], [0.0, 0.05], [0.0, 0.05], [0.01, 0.0]]
    assert result.missing_setpoints == 2


def test_actions_are_clipped_and_counted_and_bad_chunks_refused(env: BenchEnv) -> None:
    actions, result = sent(env, Steady(env, value=3.0), 0.0, steps=4)
    assert actions == [[1.0, 1.0]] * 4
    assert result.clipped_ticks == 4
    actions, result = sent(env, Steady(env, value=float("nan")), 0.0, steps=4)
    assert actions == [[0.0, 0.5]] * 4
    assert (result.chunks, result.tracking_ticks) == (0, 0)
    card = env.embodiment
    player = ChunkPlayer(card, env.rest, env.rest_start)
    row = np.zeros((1, 2))
    assert not player.submit(ActionChunk(row, 0, card.control_dt_s, "other"), 0)
    assert not player.submit(ActionChunk(np.zeros((1, 3)), 0, card.control_dt_s, card.hash), 0)
    assert player.submit(ActionChunk(row, 0, card.control_dt_s, card.hash), 0)


def test_observations_have_their_horizon_and_pictures(env: BenchEnv) -> None:
    policy = Steady(env)
    policy.spec = dataclasses.replace(policy.spec, cameras=("top",))
    sent(env, policy, 0.0, steps=5)
    for observation in policy.calls:
        assert observation.state.shape == (2, 2)
        assert observation.environment_state.shape == (2, 2)
        assert observation.image["top"].shape == (2, 6, 8, 3)
        assert (np.diff(observation.time_ns) == 50_000_000).all()
    assert not np.array_equal(policy.calls[1].state[0], policy.calls[1].state[1])


def test_a_policy_of_another_robot_is_refused(env: BenchEnv) -> None:
    policy = Steady(env)
    policy.spec = dataclasses.replace(policy.spec, embodiment=dataclasses.replace(env.embodiment, control_hz=10))
    with pytest.raises(EmbodimentMismatchError):
        run_bench_episode(env, policy, split="val", index=0)


def test_collect_then_collect_more(tmp_path: Path) -> None:
    out = tmp_path / "fake.zarr"
    words = ["task=fake/point", f"out={out}", "cameras=[top]", "image_codec=raw", "workers=1"]
    assert collect_command([*words, "episodes=2"]) == 0
    assert collect_command([*words, "episodes=3"]) == 0
    with EpisodeStore.open(out) as store:
        assert (store.num_episodes, store.task, store.embodiment.name) == (3, "fake/point", "fake_point")
        assert [store.info(i)["metadata"]["index"] for i in range(3)] == [0, 1, 2]
        assert set(store.streams) == {"state", "environment_state", "action", "time_ns", "image/top"}
    with BenchEnvContext("fake/point") as env:
        result = run_bench_episode(env, env.task.expert(env), split="train", index=2)
    with EpisodeStore.open(out) as store:
        assert store.info(2)["length"] == result.length


class BenchEnvContext:
    def __init__(self, task: str):
        self.env = BenchEnv(task)

    def __enter__(self) -> BenchEnv:
        return self.env

    def __exit__(self, *_: object) -> None:
        self.env.close()


def test_collecting_stops_at_a_lost_episode_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="episode 3 was lost"):
        collect_command(["task=fake/crash", f"out={tmp_path / 'x.zarr'}", "episodes=6", "workers=1"])
    with EpisodeStore.open(tmp_path / "x.zarr") as store:
        assert store.num_episodes == 3


def test_eval_says_loudly_what_was_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy=expert", "task=fake/kill", "episodes=6", "workers=1"]
    assert eval_command([*words, "videos=1", f"out={tmp_path / 'eval'}"]) == 0
    shown = capsys.readouterr().out
    assert "success 4 of 4" in shown
    assert "NOT EVALUATED: 2 of 6 episodes were lost (environment crashed 2)" in shown
    assert (tmp_path / "eval" / "videos" / "0.webp").is_file()
    for policy in ("null", "random"):
        report = evaluate(policy, "fake/point", episodes=range(3))
        assert report["successes"] == 0


def test_a_sweep_leaves_out_what_was_lost() -> None:
    report = evaluate("expert", "fake/crash", episodes=range(5), latency_ms=[0.0, 50.0])
    assert [point["n"] for point in report["sweep"]] == [4, 4]


def test_validation_during_training_runs_the_benchmark() -> None:
    rollout = ValidationRollout("fake/point", episodes=2)
    env = BenchEnv("fake/point")
    try:
        found = rollout(Steady(env, value=1.0), 10)
    finally:
        env.close()
    assert found == {"rollout_success": 0.0, "rollout_length": 60.0}
    for known, _ in rollout._envs.values():
        known.close()


@pytest.mark.parametrize("task", ["fake/pint", "fack/point", "metaworld"])
def test_wrong_names_are_refused(task: str) -> None:
    with pytest.raises((ConfigError, LookupError)):
        evaluate("expert", task, episodes=range(1))


def test_a_policy_that_wants_a_picture_of_the_goal_is_refused(env: BenchEnv) -> None:
    policy = Steady(env)
    policy.spec = dataclasses.replace(policy.spec, goal_cameras=("top",))
    with pytest.raises(ConfigError, match=r"picture of the goal, and 'fake/point' of a benchmark draws none.*top"):
        run_bench_episode(env, policy, split="test", index=0)
    assert not policy.calls
