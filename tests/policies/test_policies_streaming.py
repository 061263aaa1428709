"""Streaming diffusion: levels that meet from call to call, what is taken of a prefix, and how much it saves."""

import numpy as np
import pytest
import torch
from test_policies_diffusion import batch_for

from robopolicy.errors import ConfigError
from robopolicy.policies import build_policy
from robopolicy.policies.streaming_policy import parts
from robopolicy.types import ActionChunk

SMALL = {"dit": {"width": 16, "layers": 1, "heads": 2}, "sampler": {"steps": 8}}
E = 3


@pytest.fixture
def make(panda, normalizer):
    def build(**parameters):
        torch.manual_seed(0)
        kept = {"embodiment": panda, "normalizer": normalizer, "environment_state": E}
        policy = build_policy("streaming_diffusion", {**SMALL, **parameters}, **kept).eval()
        with torch.no_grad():
            for parameter in policy.network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return policy

    return build


def evaluations(policy, monkeypatch):
    """A list that grows by the batch size with every evaluation of the network."""
    counted, denoise = [], policy.network.denoise
    monkeypatch.setattr(policy.network, "denoise", lambda x, c: counted.append(len(x)) or denoise(x, c))
    return counted


def scheduled(panda, observation, count, value=0.25):
    """What is left of a chunk: ``count`` values, all of them at this share of the range."""
    row = panda.action.lower + value * (panda.action.upper - panda.action.lower)
    return ActionChunk(np.tile(row, (count, 1)), int(observation.time_ns[-1]), 0.05, panda.hash, horizon=0)


def test_parts_begin_at_the_first_action_to_execute():
    assert parts(2, 4, 13).tolist() == [0] * 5 + [1] * 4 + [2] * 4
    assert parts(1, 3, 6).tolist() == [0] * 3 + [1] * 3


def test_levels_of_training_are_those_of_a_call(make):
    process = make(action_horizon=4, prediction_horizon=13).process
    time = process.draw(4000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert time.shape == (4000, 13)
    constant = (time == time[:, :1]).all(dim=1)
    assert 0.17 < constant.float().mean() < 0.23
    rising = time[~constant]
    part = torch.tensor(process.part)
    for number in range(3):
        own = rising[:, part == number]
        assert (own == own[:, :1]).all()
        low, high = round(100 * number / 3) - 1, round(100 * (number + 1) / 3)
        assert own.min() >= low
        assert own.max() <= high
    assert rising.max() == 99
    assert ((rising[:, -1] - rising[:, 0] - 66).abs() <= 1).all()  # all parts fall together
    # what one call ends with, seen Ta steps later, is what the next begins with
    level = (part + torch.tensor([[1.0], [0.0]])) / 3
    begin, end = process.steps_of(level)
    assert torch.equal(end[5:], begin[1:9])
    assert (end[:5] == -1).all()
    assert process.levels(end[:1])[0].item() == 1.0
    assert process.levels(end[:1])[1].item() == 0.0


def test_with_a_prefix_it_takes_an_h_th_of_the_steps(make, panda, observation, monkeypatch):
    policy = make(action_horizon=4, prediction_horizon=17)
    counted = evaluations(policy, monkeypatch)
    policy.act(observation, rng=0)
    full = len(counted)
    policy.act(observation, rng=0, prefix=scheduled(panda, observation, 12))
    assert (full, len(counted) - full) == (8, 2)
    policy.act(
        observation, rng=0, prefix=scheduled(panda, observation, 11)
    )  # one value less than the buffer would have
    assert len(counted) - full - 2 == 8


def test_what_is_scheduled_is_followed_and_what_is_noise_is_not_read(make, panda, observation):
    policy = make()
    known = torch.zeros(1, 17, 10)
    features = policy._condition([observation])

    def streamed(values):
        with torch.no_grad():
            return policy._streamed(features, [np.random.default_rng(0)], values)

    first, moved = streamed(known), known.clone()
    moved[:, 9:] += 0.5
    assert torch.equal(first, streamed(moved))  # the last part begins as pure noise
    moved[:, :9] += 0.5
    assert (first - streamed(moved)).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_meet(make, panda, observation):
    policy = make()
    prefixes = [None, scheduled(panda, observation, 12), None, scheduled(panda, observation, 15, 0.6)]
    together = policy.act_batch([observation] * 4, [1, 2, 3, 4], prefixes)
    for row, prefix in enumerate(prefixes):
        alone = policy.act(observation, rng=row + 1, prefix=prefix)
        np.testing.assert_allclose(together[row].values, alone.values, rtol=1e-4, atol=1e-4)
    assert abs(together[1].values - together[0].values).max() > 1e-3


def test_a_perfect_denoiser_brings_the_next_chunk_home(make, panda, observation, monkeypatch):
    """With a network that knows the answer, every call ends at it, whatever the levels."""
    policy = make(schedule={"prediction": "x0"})
    answer = torch.linspace(-0.9, 0.9, 17)[None, :, None].expand(1, 17, 10)
    monkeypatch.setattr(policy.network, "denoise", lambda x, c: answer.expand(x.shape))
    wanted = policy.action_form.decode(answer.double(), torch.as_tensor(observation.state)[None])[0, 1:]
    for prefix in (None, scheduled(panda, observation, 12)):
        np.testing.assert_allclose(policy.act(observation, rng=0, prefix=prefix).values, wanted, atol=1e-5)


def test_loss_is_that_of_the_levels_drawn_and_trains(make):
    policy = make()
    batch = batch_for(policy)
    first, again = (policy.loss(batch, rng=torch.Generator().manual_seed(0)).total for _ in range(2))
    assert torch.equal(first, again)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        losses.append(policy.loss(batch, rng=torch.Generator().manual_seed(step % 4)).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert torch.stack(losses[-4:]).mean() < 0.8 * torch.stack(losses[:4]).mean()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"prediction_horizon": 16}, "prediction_horizon=17 or 25"),
        ({"prediction_horizon": 9}, "h at least 2"),
        ({"network": "unet"}, "allowed: .*dit"),
        ({"constant_share": 1.5}, "constant_share"),
        ({"sampler": {"kind": "ddpm", "steps": 8}}, "ddim"),
        ({"dit": {"width": 16, "layers": 1, "heads": 2, "time": "token"}}, "adaln_zero"),
    ],
)
def test_refusals_name_what_is_allowed(make, parameters, told):
    with pytest.raises(ConfigError, match=told):
        make(**parameters)
