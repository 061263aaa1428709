"""Null and random policies."""

import dataclasses

import numpy as np
import pytest

from robopolicy.control.executor import Executor
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, NonFiniteError
from robopolicy.policies.baselines import build_null, build_random
from robopolicy.protocols import Policy
from robopolicy.types import Observation, RobotState


@pytest.fixture
def one_step(observation):
    return dataclasses.replace(
        observation, state=observation.state[-1:], time_ns=observation.time_ns[-1:], environment_state=None, image={}
    )


def test_null_holds_the_measured_pose(panda, one_step):
    policy = build_null({"action_horizon": 5}, embodiment=panda)
    assert isinstance(policy, Policy)
    chunk = policy.act(one_step, rng=0)
    assert chunk.values.shape == (5, 10)
    assert (chunk.values == np.asarray(one_step.state[0], float)).all()
    assert (chunk.horizon, chunk.t0_ns, chunk.embodiment) == (5, int(one_step.time_ns[0]), panda.hash)


def test_random_moves_within_the_workspace_and_keeps_orientation(panda, one_step):
    policy = build_random({}, embodiment=panda)
    values = np.array([policy.act(one_step, rng=s).values[0] for s in range(200)])
    position, rotation = panda.action.select("ee_position"), panda.action.select("ee_rotation")
    assert (values[:, position] >= panda.workspace[0]).all()
    assert (values[:, position] <= panda.workspace[1]).all()
    assert values[:, position].std(axis=0).min() > 0.05
    assert (values[:, rotation] == one_step.state[0, rotation]).all()
    assert (policy.act(one_step, rng=7).values == policy.act(one_step, rng=7).values).all()
    assert (policy.act(one_step, rng=7).values != policy.act(one_step, rng=8).values).any()


@pytest.mark.parametrize("name", ["aloha", "allegro"])
def test_random_joints_are_near_enough_for_the_executor(name):
    card = load_embodiment(name)
    start = RobotState(0, card.home_position, np.zeros(len(card.joints)))
    here = Observation(np.tile(card.home_position, (1, 1)).astype(np.float32), np.array([0]), card.hash)
    policy = build_random({}, embodiment=card)
    chunks = [policy.act(here, rng=seed) for seed in range(20)]
    values = np.array([chunk.values[0] for chunk in chunks])
    assert (values >= card.joints.lower).all()
    assert (values <= card.joints.upper).all()
    assert values.std(axis=0).min() > 0.1

    def taken(chunk):
        executor = Executor(card)
        executor.reset(start)
        return executor.submit(chunk, 0).accepted

    assert all(taken(chunk) for chunk in chunks)
    # control: positions from the whole range are refused at times, on arms nearly always
    rng = np.random.default_rng(0)
    whole = [np.tile(rng.uniform(card.joints.lower, card.joints.upper), (8, 1)) for _ in chunks]
    assert not all(taken(dataclasses.replace(chunks[0], values=value)) for value in whole)


def test_refusals(panda, one_step):
    with pytest.raises(ConfigError, match="action_horizon"):
        build_null({"action_horizon": 0}, embodiment=panda)
    bad = dataclasses.replace(one_step, state=np.full((1, 10), np.nan, np.float32))
    with pytest.raises(NonFiniteError):
        build_null({}, embodiment=panda).act(bad, rng=0)
    joints = dataclasses.replace(panda, action_space="joint_position")
    with pytest.raises(ConfigError, match="ee_pose"):
        build_null({}, embodiment=joints)
