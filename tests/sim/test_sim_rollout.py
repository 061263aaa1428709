"""Rollouts: the same results for any number of workers and any order, on the virtual clock, and clean ends."""

import multiprocessing

import numpy as np
import pytest
from PIL import Image
from sim_policies import Crash, Seeing, Wander

from robopolicy.control.latency import LatencyModel
from robopolicy.errors import ConfigError, EmbodimentMismatchError, SimulationError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.rollout import expert_policy, rollout


def outcomes(results):
    return [r.outcome() for r in results]


def test_one_and_two_workers_and_any_order_agree(tmp_path):
    shared = {"task": "pick_place", "embodiment": "panda", "split": "test"}
    latency = {"kind": "normal", "mean_ms": 60, "std_ms": 20}
    arrived = []
    one = rollout(Wander, episodes=range(5), workers=1, latency=latency, max_steps=30, **shared)
    two = rollout(
        Wander,
        episodes=[4, 2, 0, 3, 1, 2],
        workers=2,
        latency=latency,
        max_steps=30,
        progress=arrived.append,
        **shared,
    )
    assert outcomes(one) == outcomes(two)
    assert [r.index for r in two] == [0, 1, 2, 3, 4]
    assert len(arrived) == 5
    assert len({r.latency_ms for r in two}) == 5, "each episode draws its own latencies"
    # in this process, after other episodes, too
    env = Env("pick_place", "panda")
    policy = Wander(env)
    here = [
        run_episode(env, policy, split="test", index=i, control_latency=LatencyModel.from_config(latency), max_steps=30)
        for i in (3, 1)
    ]
    assert outcomes(here) == outcomes([one[3], one[1]])
    # control: the latency matters
    assert outcomes(rollout(Wander, episodes=[1], max_steps=30, **shared)) != outcomes([one[1]])


def test_expert_in_two_workers_with_a_video(tmp_path):
    results = rollout(
        expert_policy,
        task="pick_place",
        embodiment="ur5e_2f85",
        episodes=range(2),
        workers=2,
        video_dir=tmp_path / "videos",
        videos=[1],
    )
    assert all(r.success_at_end and r.termination == "success" for r in results)
    assert results[0].video is None
    assert results[1].video == "videos/1.webp"
    with Image.open(tmp_path / results[1].video) as film:
        assert film.size == (96, 96)
        assert film.n_frames > 10
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["1.webp"]
    assert results[0].ticks == 5 * results[0].length
    assert results[0].duration_s == pytest.approx(results[0].length / 20)


def test_observations_are_the_newest_control_steps_and_requests_come_every_ta():
    env = Env("pick_place", "panda")
    policy = Seeing(env)
    result = run_episode(
        env, policy, split="test", index=0, control_latency=LatencyModel.from_config(100), max_steps=30
    )
    times = [o.time_ns.tolist() for o in policy.seen]
    step = 50_000_000
    assert times[0] == [-step, 0], "the first frame stands for the step before it"
    first = policy.seen[0]
    assert np.array_equal(first.state[0], first.state[1])
    assert np.array_equal(first.image["front"][0], first.image["front"][1])
    assert times[1:] == [[7 * step, 8 * step], [15 * step, 16 * step], [23 * step, 24 * step]]
    assert all(o.image["front"].shape == (2, 96, 96, 3) for o in policy.seen)
    assert result.chunks == 4
    assert result.latency_ms == 100
    assert result.missing_setpoints == 0


@pytest.mark.parametrize(("latency_ms", "missing"), [(0, False), (300, False), (700, True)])
def test_a_chunk_outlasts_its_latency_or_setpoints_are_missing(latency_ms, missing):
    # 15 values from the observation on: 0.75 s; asked for again after 0.4 s, so up to 0.35 s of latency are covered
    env = Env("pick_place", "panda")
    latency = LatencyModel.from_config(latency_ms)
    result = run_episode(env, Wander(env), split="test", index=0, control_latency=latency, max_steps=50)
    assert (result.missing_setpoints > 0) == missing
    assert result.max_seam_velocity_step <= 1.0


def test_policy_of_another_embodiment_is_refused():
    panda, ur5e = Env("pick_place", "panda"), Env("pick_place", "ur5e_2f85")
    with pytest.raises(EmbodimentMismatchError, match="ur5e_2f85"):
        run_episode(panda, ur5e.task.expert(ur5e), split="test", index=0)


def test_a_failing_worker_is_reported_and_none_is_left(monkeypatch):
    run = {"task": "pick_place", "embodiment": "panda", "workers": 2, "episodes": range(4)}
    with pytest.raises(SimulationError, match=r"episode \d.*no such weights"):
        rollout(Crash, **run)
    assert not multiprocessing.active_children()
    monkeypatch.setenv("SIM_TEST_CRASH", "kill")
    with pytest.raises(SimulationError, match=r"died on episode \d.*exit code -9"):
        rollout(Crash, **run)
    assert not multiprocessing.active_children()
    with pytest.raises(ConfigError, match="worker"):
        rollout(Wander, task="pick_place", embodiment="panda", workers=0)


def test_interrupting_ends_the_workers():
    def interrupt(result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(Wander, task="pick_place", embodiment="panda", workers=2, max_steps=5, progress=interrupt)
    assert not multiprocessing.active_children()


def test_rollout_of_nothing_is_empty():
    assert rollout(Wander, task="pick_place", embodiment="panda", episodes=[]) == []
    assert np.isfinite(LatencyModel.from_config(0).mean_ms)


@pytest.mark.parametrize(
    ("window_s", "go_on_s", "once", "at_end", "termination", "steps"),
    [
        ((0.2, 9.0), 0.0, True, True, "success", 14),
        ((0.2, 9.0), 0.5, True, True, "success", 24),
        ((0.2, 0.9), 0.5, True, False, "success", 24),
        ((0.2, 0.5), 0.5, False, False, "timeout", 30),  # touched, never held
        ((9.0, 9.1), 0.0, False, False, "timeout", 30),
        ((0.2, 9.0), 9.0, True, True, "success", 30),  # the horizon comes first
    ],
)
def test_success_once_and_at_the_end_are_two_things(window_s, go_on_s, once, at_end, termination, steps):
    env = Env("pick_place", "panda")
    begin, end = window_s
    env.task.success = lambda data: begin < data.time <= end
    result = run_episode(env, Wander(env), split="test", index=0, max_steps=30, continue_after_success_s=go_on_s)
    assert (result.success_once, result.success_at_end, result.termination) == (once, at_end, termination)
    assert abs(result.length - steps) <= 1
    assert result.success_instant == (begin < 1.5)
    assert result.peak_force_n >= 0


def test_until_sees_a_prefix_without_gaps_and_ends_the_workers():
    seen = []

    def until(results):
        seen.append([r.index for r in results])
        return len(results) == 3

    results = rollout(
        Wander, task="pick_place", embodiment="panda", episodes=range(8), workers=2, max_steps=5, until=until
    )
    assert seen == [[0], [0, 1], [0, 1, 2]]
    assert [r.index for r in results] == [0, 1, 2]
    assert not multiprocessing.active_children()
