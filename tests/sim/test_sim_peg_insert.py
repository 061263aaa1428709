"""peg_insert: the displacement is hidden, the wrench tells of it, force ends the episode."""

import dataclasses
import math

import numpy as np
import pytest

from robopolicy.errors import ConfigError
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.sim.task import load_task
from robopolicy.sim.tasks.compliant_tool import ForceGauge


@pytest.fixture(scope="module")
def env():
    env = Env("peg_insert", "panda", sensors=("wrench",))
    yield env
    env.close()


class Masked:
    """The expert, shown a wrench with some channels as they were in the air."""

    def __init__(self, inner, channels):
        self.inner, self.channels, self.spec = inner, channels, inner.spec

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        wrench = np.array(observation.sensor["wrench"])
        if observation.time_ns[-1] == 0:
            self.first = wrench[:, -1:].copy()
        wrench[..., self.channels] = self.first[..., self.channels]
        return self.inner.act(dataclasses.replace(observation, sensor={"wrench": wrench}), rng=rng)


def observed(env, shift, twist, seen=(0.5, 0.0)):
    env.reset(options={"split": "val", "index": 0})
    env.task.place(env.data, seen, 0.2, shift, twist)
    env.servo(env.start_position)
    frame = env.frame(cameras=("front",))
    return frame.environment_state.tobytes(), env.task.goal(env.data).tobytes(), frame.image["front"].tobytes()


def test_nothing_but_contact_tells_of_the_displacement(env):
    plain = observed(env, (0.0, 0.0), 0.0)
    assert observed(env, (0.005, -0.003), 0.08) == plain
    # control: a socket that is seen elsewhere changes all three
    assert all(a != b for a, b in zip(observed(env, (0.0, 0.0), 0.0, seen=(0.51, 0.01)), plain, strict=True))
    starts = []
    for index in range(40):
        env.reset(options={"split": "val", "index": index})
        starts.append(env.initial_state)
    shifts = np.array([[s["shift.x"], s["shift.y"]] for s in starts])
    assert 0.004 < np.linalg.norm(shifts, axis=1).max() <= 0.005
    assert max(abs(s["twist_rad"]) for s in starts) <= math.radians(5)


def test_without_the_force_the_search_fails(env):
    indices = [i for i in range(12) if shift_m(env, i) > 0.002][:3]

    def solved(channels):
        expert = Masked(env.task.expert(env), channels)
        return [run_episode(env, expert, split="val", index=i) for i in indices]

    whole, no_force, no_torque = solved([]), solved([0, 1, 2]), solved([3, 4, 5])
    assert all(r.success_at_end for r in whole)
    assert max(r.metrics["peak_force_n"] for r in whole) < 20
    assert not any(r.success_at_end for r in no_force)
    assert {r.termination for r in no_force} == {"force"}
    assert [r.outcome() for r in no_torque] == [r.outcome() for r in whole]


def shift_m(env, index):
    env.reset(options={"split": "val", "index": index})
    return math.hypot(env.initial_state["shift.x"], env.initial_state["shift.y"])


def test_gauge_reads_the_force_on_the_peg(env):
    """Expert in contact: the wrench less the hand's weight is the contact's force, to a newton in the mean."""
    gauge, pairs = ForceGauge(env.scene), []
    index = next(i for i in range(20) if shift_m(env, i) > 0.003)

    class Watch:
        def cameras(self, step):
            return ()

        def step(self, frame, chunk, joint_command):
            yaw = math.atan2(frame.state[4], frame.state[3])
            before = env.task._peak_n
            env.task._peak_n = 0.0
            env.task.tick(env.data)
            pairs.append((gauge.read(frame.sensor["wrench"], yaw)[2], env.task._peak_n))
            env.task._peak_n = max(before, env.task._peak_n)

    run_episode(env, env.task.expert(env), split="val", index=index, record=Watch())
    read, real = np.array(pairs).T
    touching = real > 3
    assert touching.sum() > 15
    assert abs(np.median(read[touching] - real[touching])) < 1
    # pressed on, the peg chatters: an instant without contact between two with it is not the air
    air = np.convolve(real > 0, np.ones(3), mode="same") == 0
    assert air.sum() > 15
    assert np.abs(read[air]).max() < 2.5, "in the air only the hand's own acceleration shows"
    assert np.median(np.abs(read[touching])) > 3  # control: it is not simply zero


def test_a_peg_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="clearance_m"):
        load_task("peg_insert", "panda", clearance_m=0.0005)
