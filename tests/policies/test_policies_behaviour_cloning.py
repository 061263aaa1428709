"""Behaviour cloning: protocol, index convention, masks, and the mean over two modes that it is there for."""

import dataclasses

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, EmbodimentMismatchError, NonFiniteError
from robopolicy.policies import build_policy
from robopolicy.protocols import Policy, TrainablePolicy
from robopolicy.types import Batch

TINY = {"unet": {"down": [16, 32], "step_dim": 16}, "observation_mlp": 16}


@pytest.fixture
def make(panda, normalizer):
    def build(name="behaviour_cloning", **parameters):
        torch.manual_seed(0)
        merged = {**TINY, **parameters}
        return build_policy(name, merged, embodiment=panda, normalizer=normalizer, environment_state=3)

    return build


def batch_of(panda, action):
    """Windows that all see the same."""
    n = len(action)
    middle = torch.tensor((panda.state.lower + panda.state.upper) / 2, dtype=torch.float32)
    return Batch(
        state=middle.expand(n, 2, -1).clone(),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=panda.hash,
        environment_state=torch.zeros(n, 2, 3),
    )


def two_ways(panda, n=32):
    """[n, 16, 10]: half of the chunks go to one side, half to the other. -> (chunks, the two sides)."""
    low, high = (torch.tensor(v, dtype=torch.float32) for v in (panda.action.lower, panda.action.upper))
    middle, column = (low + high) / 2, panda.action.select("ee_position")[1]
    chunks = middle.expand(n, 16, -1).clone()
    side = (torch.arange(n) % 2 * 2 - 1).float()[:, None] * torch.linspace(0, 0.2, 16)
    chunks[..., column] += side
    return chunks, column


def test_protocols_spec_and_equal_size(make, observation):
    policy = make().eval()
    assert isinstance(policy, Policy)
    assert isinstance(policy, TrainablePolicy)
    assert (policy.spec.observation_horizon, policy.spec.action_horizon, policy.spec.prediction_horizon) == (2, 8, 16)
    chunk = policy.act(observation, rng=0)
    assert chunk.values.shape == (15, 10)
    assert (chunk.horizon, chunk.t0_ns, chunk.dt_s) == (8, 1_000_000_000 + 50_000_000, 0.05)
    assert (policy.act(observation, rng=1).values == chunk.values).all()
    batch = policy.act_batch([observation, observation], [0, 1])
    assert np.allclose(batch[1].values, chunk.values, atol=1e-5)
    size = {n: sum(p.numel() for p in make(n).parameters()) for n in ("behaviour_cloning", "diffusion")}
    assert size["behaviour_cloning"] - size["diffusion"] == 16 * 10, "all but the query is the same network"


def test_index_convention_on_a_counter(make, panda, normalizer, observation, monkeypatch):
    policy = make().eval()
    counter = np.linspace(panda.action.lower, panda.action.upper, 16)
    clean = torch.tensor(normalizer.stream("action").normalize(counter), dtype=torch.float32)[None]
    monkeypatch.setattr(policy, "_predict", lambda condition: clean)
    np.testing.assert_allclose(policy.act(observation).values, counter[1:], atol=1e-6)


def test_masked_entries_do_not_count(make, panda):
    policy = make()
    chunks, _ = two_ways(panda)
    batch = batch_of(panda, chunks)
    batch.action_mask[:, 8:] = False
    base = policy.loss(batch)
    spoilt = dataclasses.replace(batch, action=chunks.clone())
    spoilt.action[:, 8:] += 1.0
    assert policy.loss(spoilt).total == base.total
    assert base.per_sample.shape == (len(chunks),)
    spoilt.action[:, :8] += 1.0
    assert policy.loss(spoilt).total != base.total


def test_it_learns_the_mean_of_two_ways(make, panda):
    policy, (chunks, column) = make(), two_ways(panda)
    batch, optimizer = batch_of(panda, chunks), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(80):
        loss = policy.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        features = policy.encoder(batch.state[:1], batch.environment_state[:1], {})
        end = policy.action_form.decode(policy._predict(features).double(), batch.state[:1])[0, -1, column]
    left, right = chunks[1, -1, column], chunks[0, -1, column]
    assert abs(float(end - (left + right) / 2)) < 0.25 * abs(float(left - right)) / 2
    # control: with one way only it goes there, so the network was able to
    one = batch_of(panda, chunks[1::2])
    for _ in range(80):
        loss = policy.loss(one).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        features = policy.encoder(one.state[:1], one.environment_state[:1], {})
        end = policy.action_form.decode(policy._predict(features).double(), one.state[:1])[0, -1, column]
    assert abs(float(end - left)) < 0.25 * abs(float(left - right)) / 2


def test_refusals(make, observation):
    with pytest.raises(ConfigError, match="Tp"):
        make(action_horizon=17)
    with pytest.raises(ConfigError, match="observes nothing"):
        make(state=False, environment_state=False)
    with pytest.raises(ConfigError, match="sampler"):
        make(sampler={"steps": 4})
    policy = make().eval()
    with pytest.raises(EmbodimentMismatchError):
        policy.act(dataclasses.replace(observation, embodiment="0" * 64))
    with torch.no_grad():
        policy.query.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        policy.act(observation)


def test_description_rebuilds_it(make, panda, normalizer, observation):
    from robopolicy.registry import load_target

    policy = make().eval()
    said = policy.description()
    again = load_target(said["target"])(
        said["parameters"],
        embodiment=panda,
        normalizer=normalizer,
        environment_state=said["environment_state"],
    ).eval()
    again.load_state_dict(policy.state_dict())
    assert (again.act(observation).values == policy.act(observation).values).all()
