"""Null and random policies."""

import dataclasses

import numpy as np
import pytest

from robopolicy.errors import ConfigError, NonFiniteError
from robopolicy.policies.baselines import build_null, build_random
from robopolicy.protocols import Policy


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


def test_refusals(panda, one_step):
    with pytest.raises(ConfigError, match="action_horizon"):
        build_null({"action_horizon": 0}, embodiment=panda)
    bad = dataclasses.replace(one_step, state=np.full((1, 10), np.nan, np.float32))
    with pytest.raises(NonFiniteError):
        build_null({}, embodiment=panda).act(bad, rng=0)
    joints = dataclasses.replace(panda, action_space="joint_position")
    with pytest.raises(ConfigError, match="ee_pose"):
        build_null({}, embodiment=joints)
