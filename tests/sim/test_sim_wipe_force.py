"""wipe_force: the height is hidden, the band and the motion are the condition, the wrench is needed."""

import dataclasses

import numpy as np
import pytest

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.task import load_task


@pytest.fixture(scope="module")
def env():
    env = Env("wipe_force", "panda", sensors=("wrench",))
    yield env
    env.close()


class Frozen:
    """The expert, shown the wrench of the first instant."""

    def __init__(self, inner):
        self.inner, self.spec = inner, inner.spec

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        if observation.time_ns[-1] == 0:
            self.first = np.array(observation.sensor["wrench"])
        return self.inner.act(dataclasses.replace(observation, sensor={"wrench": self.first}), rng=rng)


def test_the_height_is_in_no_observation(env):
    def observed(error_m, place=(0.5, 0.0)):
        env.reset(options={"split": "val", "index": 0})
        env.task.place(env.data, place, 0.2, error_m)
        env.servo(env.start_position)
        frame = env.frame(cameras=("front",))
        return frame.environment_state.tobytes(), frame.image["front"].tobytes()

    plain = observed(0.0)
    assert observed(0.008) == plain == observed(-0.008)
    assert all(a != b for a, b in zip(observed(0.0, (0.51, 0.02)), plain, strict=True))


def test_only_the_wrench_finds_the_force(env):
    whole = [run_episode(env, env.task.expert(env), split="val", index=i) for i in range(4)]
    blind = [run_episode(env, Frozen(env.task.expert(env)), split="val", index=i) for i in range(4)]
    assert all(r.success_at_end and r.metrics["longest_wipe_s"] >= 0.99 for r in whole)
    assert not any(r.success_at_end for r in blind)
    assert max(r.metrics["peak_force_n"] for r in whole) < 20


@pytest.mark.parametrize(("press_n", "speed_m_s"), [(15.0, 0.06), (5.0, 0.06), (10.0, 0.01)])
def test_another_force_or_no_motion_is_no_wiping(env, press_n, speed_m_s, monkeypatch):
    expert = env.task.expert(env)
    expert._press_n = press_n
    monkeypatch.setattr("robopolicy.sim.tasks.wipe_force_expert.WIPE_SPEED_M_S", speed_m_s)
    result = run_episode(env, expert, split="val", index=0)
    assert not result.success_once
    assert result.metrics["peak_force_n"] > 0.8 * press_n


def test_too_much_force_ends_the_episode(env):
    expert = env.task.expert(env)
    expert._press_n = 45.0
    result = run_episode(env, expert, split="val", index=0)
    assert result.termination == "force"
    assert result.metrics["peak_force_n"] > env.task.force_limit_n


def test_a_band_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="band"):
        load_task("wipe_force", "panda", band_n=[12.0, 8.0])
    with pytest.raises(ConfigError, match="height_error_m"):
        load_task("wipe_force", "panda", height_error_m=0.05)
