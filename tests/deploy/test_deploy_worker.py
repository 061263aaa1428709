"""The policy worker: which frames it uses, how often it asks, and what travels with a chunk."""

import dataclasses

import numpy as np
import pytest

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.policy_source import build_policy, cameras_of, check_policy
from robopolicy.deploy.policy_worker import PolicyWorker
from robopolicy.deploy.records import Layout
from robopolicy.deploy.scripted import ScriptedPolicy
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError, EmbodimentMismatchError
from robopolicy.types import ActionChunk

CARD = load_embodiment("panda")
DT = round(CARD.control_dt_s * 1e9)
START = 10**12


class Spy(ScriptedPolicy):
    """Remembers what it was shown; its first draw of noise goes into the chunk."""

    def act(self, observation, *, rng, prefix=None, goal=None):
        seen.append((observation, rng.integers(2**31)))
        values = np.repeat(observation.state[-1:].astype(float), 15, axis=0)
        return ActionChunk(values, int(observation.time_ns[-1]), CARD.control_dt_s, CARD.hash, horizon=8)


seen = []


@pytest.fixture
def rig():
    seen.clear()
    bus = Bus(Layout.of(CARD, cameras=(), chunk_steps=32, state_capacity=64))
    yield bus, PolicyWorker(Spy(CARD), bus)
    bus.close()


def frame(bus, step, *, scene=1, index=3):
    ring = bus.ring("frames")
    record = np.zeros((), ring.dtype)
    record["time_ns"], record["scene"], record["step"] = START + step * DT, scene, step
    record["split"], record["index"] = b"test", index
    record["state"], record["environment_width"] = step, 2
    record["environment_state"][:2] = step
    ring.write(record)


def arm(bus, state, epoch):
    ring = bus.ring("state")
    record = np.zeros((), ring.dtype)
    record["state"], record["epoch"] = state, epoch
    ring.write(record)


@pytest.mark.parametrize("state", [s for s in State if not s.moving])
def test_it_is_silent_unless_the_arm_may_move(rig, state):
    bus, worker = rig
    frame(bus, 0)
    arm(bus, state, 1)
    assert not worker.poll()
    assert bus.heartbeat.age_s("worker") is not None
    assert bus.mailbox.take() is None


def test_it_asks_every_action_horizon_from_the_observation_used_last(rig):
    bus, worker = rig
    arm(bus, State.RUNNING, 4)
    asked = []
    for step in range(30):
        if step in (9, 10):
            continue  # inference took longer: the frames in between are never used
        frame(bus, step)
        if worker.poll():
            asked.append(step)
    assert asked == [0, 8, 16, 24]


def test_after_a_slow_call_it_uses_the_newest_frame(rig):
    bus, worker = rig
    arm(bus, State.RUNNING, 4)
    frame(bus, 0)
    assert worker.poll()
    for step in range(1, 12):
        frame(bus, step)
    assert worker.poll()
    assert int(seen[-1][0].time_ns[-1]) == START + 11 * DT


def test_rows_are_one_control_step_apart_and_the_first_is_repeated(rig):
    bus, worker = rig
    arm(bus, State.RUNNING, 4)
    frame(bus, 7, scene=0)
    frame(bus, 0)
    worker.poll()
    first = seen[-1][0]
    np.testing.assert_array_equal(first.state[:, 0], [0, 0])
    for step in range(1, 9):
        frame(bus, step)
    worker.poll()
    second = seen[-1][0]
    np.testing.assert_array_equal(second.state[:, 0], [7, 8])
    np.testing.assert_array_equal(second.environment_state, [[7, 7], [8, 8]])
    for observation in (first, second):
        assert np.diff(observation.time_ns) == [DT]


def test_the_chunk_carries_epoch_frame_number_and_time(rig):
    bus, worker = rig
    arm(bus, State.ALIGNING, 9)
    frame(bus, 0)
    frame(bus, 1)
    worker.poll()
    got = bus.mailbox.take()
    assert (got.epoch, got.obs_id, got.t_obs_ns) == (9, 2, START + DT)
    assert got.refusal(epoch=9, embodiment=CARD.hash, action_width=10, dt_s=CARD.control_dt_s) is None
    assert got.refusal(epoch=9, embodiment="x", action_width=10, dt_s=CARD.control_dt_s) == "embodiment"


def test_noise_depends_on_episode_and_call_only(rig):
    bus, worker = rig
    arm(bus, State.RUNNING, 1)
    frame(bus, 0)
    worker.poll()
    frame(bus, 8)
    worker.poll()
    arm(bus, State.RUNNING, 2)  # the same episode again
    worker.poll()
    frame(bus, 0, scene=2, index=4)  # another one
    arm(bus, State.RUNNING, 3)
    worker.poll()
    draws = [draw for _, draw in seen]
    assert draws[2] == draws[0]
    assert len(set(draws)) == 3


def test_warm_up_calls_the_policy_before_it_counts(rig):
    bus, worker = rig
    worker.warm_up(2)
    assert len(seen) == 2
    assert bus.heartbeat.age_s("worker") is None


def config(policy, embodiment="panda"):
    return DaemonConfig(policy, RobotConfig("x:y", embodiment), DeployConfig())


def test_a_factory_is_found_and_a_foreign_robot_is_refused(monkeypatch):
    other, name = load_embodiment("ur5e_2f85"), "robopolicy.deploy.scripted:hold"
    assert build_policy(config(name), CARD).spec.action_horizon == 8
    assert build_policy(config(name), other).spec.embodiment.hash == other.hash
    monkeypatch.setattr("robopolicy.deploy.scripted.hold", lambda embodiment: ScriptedPolicy(CARD))
    with pytest.raises(EmbodimentMismatchError, match=r"ur5e_2f85.*panda"):
        build_policy(config(name), other)


def test_a_name_that_means_nothing_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(DeployError, match="no such policy"):
        check_policy(str(tmp_path / "absent"))
    with pytest.raises(DeployError, match="no such policy"):
        cameras_of("nul", CARD)
    assert cameras_of("expert", CARD) == ()


@pytest.mark.parametrize("goal", [{"goal": 2}, {"goal_cameras": ("front",)}])
def test_a_policy_that_wants_a_goal_is_refused(monkeypatch, goal):
    class Wanting(ScriptedPolicy):
        @property
        def spec(self):
            return dataclasses.replace(super().spec, **goal)

    name = "robopolicy.deploy.scripted:hold"
    monkeypatch.setattr("robopolicy.deploy.scripted.hold", Wanting)
    with pytest.raises(DeployError, match=r"scripted:hold reads a goal, and the daemon has none"):
        build_policy(config(name), CARD)
    goal.clear()
    assert build_policy(config(name), CARD).spec.goal == 0  # control
