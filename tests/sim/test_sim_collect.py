"""Collection: what is stored, resuming, and refusals."""

import dataclasses

import numpy as np
import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.sim.collect import collect
from robopolicy.sim.env import Env
from robopolicy.sim.noise import ActionNoise


def test_interrupted_and_continued_equals_in_one_go(tmp_path):
    whole = collect("pick_place", "panda", 4, tmp_path / "whole", workers=2)
    committed = []

    def stop(done, wanted, success):
        committed.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect("pick_place", "panda", 4, tmp_path / "parts", workers=1, progress=stop)
    continued = collect("pick_place", "panda", 4, tmp_path / "parts", workers=1)
    assert whole.episodes == continued.episodes == 4
    assert continued.tried == 2
    with EpisodeStore.open(whole.path) as a, EpisodeStore.open(continued.path) as b:
        assert a.content_hash == b.content_hash
        assert [a.info(i)["metadata"]["index"] for i in range(4)] == [0, 1, 2, 3]
        assert all(a.info(i)["success"] for i in range(4))
        assert a.task == "pick_place"
        assert a.embodiment.name == "panda"
        assert np.array_equal(a.read("action"), b.read("action"))
    assert collect("pick_place", "panda", 3, tmp_path / "parts").tried == 0
    with pytest.raises(DataError, match="other settings"):
        collect("pick_place", "panda", 5, tmp_path / "parts", action_noise=ActionNoise(position_m=0.0))


def test_streams_follow_the_contract(tmp_path):
    done = collect("pick_place", "ur5e_2f85", 1, tmp_path / "store", cameras=("front", "wrist"), workers=1)
    env = Env("pick_place", "ur5e_2f85")
    with EpisodeStore.open(done.path) as store:
        n = store.num_steps
        assert store.cameras == ("front", "wrist")
        assert store.environment_state_names == env.task.environment_state_names
        assert store.read("image/wrist").shape == (n, 96, 96, 3)
        time_ns = store.read("time_ns")
        assert time_ns[0] == 0
        assert set(np.diff(time_ns)) == {50_000_000}
        info = store.info(0)
        env.reset(options={"split": "train", "index": 0})
        assert info["language"] == env.task.language()
        env.reset(options={"split": info["metadata"]["split"], "index": info["metadata"]["index"]})
        assert info["metadata"]["initial_state"] == pytest.approx(env.initial_state)
        assert np.array_equal(store.read("state", 0, 1)[0], env.frame().state)
        assert np.array_equal(store.read("image/front", 0, 1)[0], env.picture("front"))
        assert store.read("joint_command", 0, 1)[0] == pytest.approx(env.embodiment.home_position, abs=1e-5)
        # action[t] is reached at time[t] + dt: it is nearer to the next state than to its own, away from rest
        action, state = store.read("action")[:, :3], store.read("state")[:, :3]
        own = np.linalg.norm(action[:-1] - state[:-1], axis=1)
        following = np.linalg.norm(action[:-1] - state[1:], axis=1)
        moving = own > 0.01
        assert moving.sum() > 10
        assert np.mean(following[moving] < own[moving]) > 0.9


def test_bad_noise_is_refused():
    with pytest.raises(ConfigError, match="action_noise"):
        ActionNoise(position_m=-0.1)
    assert dataclasses.asdict(ActionNoise())["position_m"] == 0.005
