"""DiffusionPolicy: index convention, determinism, masks, refusals."""

import dataclasses

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, NonFiniteError, ShapeError
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy
from robopolicy.protocols import Policy, TrainablePolicy
from robopolicy.types import Batch

IMAGE = {
    "environment_state": False,
    "cameras": ["front", "wrist"],
    "vision": {"backbone": "CompactConv"},
}


def batch_for(policy, n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spec = policy.spec
    card = spec.embodiment
    low, high = torch.tensor(card.action.lower), torch.tensor(card.action.upper)
    action = (low + (high - low) * torch.rand(n, spec.prediction_horizon, len(low), generator=generator)).float()
    return Batch(
        state=action[:, :2].clone(),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=card.hash,
        environment_state=torch.zeros(n, 2, 3),
        image={c: torch.randint(0, 255, (n, 2, 96, 96, 3), dtype=torch.uint8) for c in spec.cameras},
    )


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_protocols_and_spec(make):
    policy = make()
    assert isinstance(policy, Policy)
    assert isinstance(policy, TrainablePolicy)
    assert (policy.spec.observation_horizon, policy.spec.action_horizon, policy.spec.prediction_horizon) == (2, 8, 16)
    assert policy.spec.environment_state == 3
    assert policy.grid.time[0] == 99


def test_index_convention_on_a_counter(make, panda, normalizer, observation, monkeypatch):
    """A network that 'predicts' the action of window index i as i: the chunk must begin with index To-1 = 1."""
    policy = make()
    counter = np.linspace(panda.action.lower, panda.action.upper, 16)
    clean = torch.tensor(normalizer.stream("action").normalize(counter), dtype=torch.float32)[None]
    monkeypatch.setattr(policy, "_sample", lambda condition, generator: clean)
    chunk = policy.act(observation, rng=0)
    assert chunk.values.shape == (15, 10)
    np.testing.assert_allclose(chunk.values, counter[1:], atol=1e-6)
    assert chunk.t0_ns == 1_050_000_000  # the newest observation
    assert chunk.time_ns[0] == 1_100_000_000  # and its action is reached one control step later
    assert (chunk.horizon, chunk.dt_s, chunk.embodiment) == (8, 0.05, panda.hash)
    assert abs(chunk.values - counter[:15]).max() > 1e-3  # control: the off-by-one reading differs


def test_act_is_a_function_of_observation_and_seed(make, observation):
    policy = make()
    first = policy.act(observation, rng=3).values
    torch.manual_seed(123)
    np.random.default_rng(5).normal()
    assert (policy.act(observation, rng=3).values == first).all()
    assert (policy.act(observation, rng=np.random.default_rng(3)).values == first).all()
    assert (policy.act(observation, rng=4).values != first).any()
    moved = dataclasses.replace(observation, environment_state=np.ones((2, 3), np.float32))
    assert (policy.act(moved, rng=3).values != first).any()
    assert first.dtype == np.float64


@pytest.mark.parametrize("kind", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 3, 16])
def test_samples_stay_in_the_range_of_the_data(make, panda, observation, kind, steps):
    chunk = make(sampler={"kind": kind, "steps": steps}).act(observation, rng=0)
    assert (chunk.values >= panda.action.lower - 1e-6).all()
    assert (chunk.values <= panda.action.upper + 1e-6).all()
    assert np.isfinite(chunk.values).all()


def test_image_policy(make, observation):
    policy = make(**IMAGE)
    blind = dataclasses.replace(observation, environment_state=None)
    first = policy.act(blind, rng=0).values
    assert first.shape == (15, 10)
    bright = {k: np.full_like(v, 255) for k, v in observation.image.items()}
    bright["front"][:, :40] = 0
    assert (policy.act(dataclasses.replace(blind, image=bright), rng=0).values != first).any()
    policy.train()
    assert (policy.act(blind, rng=0).values == first).all()  # acting never crops at random
    loss = policy.loss(batch_for(policy), rng=rng()).total
    loss.backward()
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)


def test_masked_entries_do_not_count(make):
    policy = make()
    batch = batch_for(policy)
    batch.action_mask[:, 9:] = False
    spoiled = dataclasses.replace(batch, action=batch.action.clone())
    spoiled.action[:, 9:] = 0.0
    weight = torch.zeros(16, 10)
    policy.network.denoise = lambda x, films: weight.expand_as(x)  # blind to x, so only the mask decides
    masked, same = (policy.loss(b, rng=rng()).total for b in (batch, spoiled))
    torch.testing.assert_close(masked, same)
    published = make(masked_loss=False)
    published.network.denoise = policy.network.denoise
    noise_only = published.loss(batch, rng=rng()).total
    assert abs(noise_only - masked) > 1e-4  # control: the published loss counts them


def test_loss_of_parts_is_loss_of_whole(make):
    """Mean over equal parts equals the whole, also when the parts have different amounts of padding."""
    policy = make(noise_samples=1)
    batch = batch_for(policy, n=4)
    batch.action_mask[0, 3:] = False
    policy.network.denoise = lambda x, films: x * 0
    schedule_noise = torch.randn(4, 16, 10, generator=rng(1))

    def loss(rows):
        part = Batch(batch.state[rows], batch.action[rows], batch.action_mask[rows], batch.embodiment,
                     environment_state=batch.environment_state[rows])  # fmt: skip
        import robopolicy.policies.denoising as module

        original = module.torch.randn
        module.torch.randn = lambda shape, **_: schedule_noise[rows]
        try:
            return policy.loss(part, rng=rng()).total
        finally:
            module.torch.randn = original

    whole = loss(slice(0, 4))
    torch.testing.assert_close((loss(slice(0, 2)) + loss(slice(2, 4))) / 2, whole)


def test_noise_samples_average_the_same_loss(make):
    one, many = make(), make(noise_samples=64)
    batch = batch_for(one)
    few = torch.stack([one.loss(batch, rng=rng(s)).total.detach() for s in range(64)])
    assert abs(many.loss(batch, rng=rng(0)).total - few.mean()) < 4 * few.std() / 8


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"embodiment": "other"}, EmbodimentMismatchError, "panda"),
        ({"state": np.zeros((2, 9), np.float32)}, ShapeError, "state"),
        ({"state": np.full((2, 10), np.nan, np.float32)}, NonFiniteError, "channels"),
        ({"environment_state": None}, ShapeError, "environment_state"),
        ({"environment_state": np.full((2, 3), np.inf, np.float32)}, NonFiniteError, "environment_state"),
        ({"environment_state": np.zeros((2, 4), np.float32)}, ShapeError, "wrong shape"),
        ({"time_ns": np.array([2, 1])}, ShapeError, "increasing"),
        ({"time_ns": np.array([1])}, ShapeError, "2 times"),
    ],
)
def test_bad_observations(make, observation, change, error, words):
    with pytest.raises(error, match=words):
        make().act(dataclasses.replace(observation, **change), rng=0)


def test_bad_images(make, observation):
    policy = make(**IMAGE)
    for image, words in (
        ({"front": observation.image["front"]}, "camera 'wrist'"),
        ({**observation.image, "wrist": observation.image["wrist"][:, :90]}, "uint8"),
        ({**observation.image, "wrist": observation.image["wrist"].astype(np.float32)}, "uint8"),
    ):
        with pytest.raises(ShapeError, match=words):
            policy.act(dataclasses.replace(observation, image=image), rng=0)


def test_non_finite_output_is_refused(make, observation):
    policy = make()
    with torch.no_grad():
        policy.network.head[-1].bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match="output"):
        policy.act(observation, rng=0)


def test_config_errors_come_together(panda, normalizer):
    with pytest.raises(ConfigError) as caught:
        build_policy(
            "diffusion", {"horizon": 3, "noise_samples": "x"}, embodiment=panda, normalizer=normalizer,
            environment_state=3,
        )  # fmt: skip
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="To-1"):
        build_policy("diffusion", {"action_horizon": 16}, embodiment=panda, normalizer=normalizer, environment_state=3)
    with pytest.raises(ConfigError, match="data have none"):
        build_policy("diffusion", {}, embodiment=panda, normalizer=normalizer)
    few = Normalizer({k: normalizer.stream(k) for k in ("state", "action")})
    with pytest.raises(DataError, match="no statistics of stream 'environment_state'"):
        build_policy("diffusion", {}, embodiment=panda, normalizer=few, environment_state=3)
    with pytest.raises(DataError, match="wrong width"):
        build_policy("diffusion", {}, embodiment=panda, normalizer=normalizer, environment_state=4)


def test_candidates_share_an_observation_and_each_has_its_own_noise(make, observation):
    policy = make()
    many = policy.act_candidates(observation, rng=5, count=6)
    few = policy.act_candidates(observation, rng=5, count=2)
    for chunk, child in zip(many, np.random.default_rng(5).spawn(6), strict=True):
        np.testing.assert_allclose(chunk.values, policy.act(observation, rng=child).values, atol=1e-4)
    for one, other in zip(few, many, strict=False):
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)
    assert np.abs(many[0].values - many[1].values).max() > 1e-3  # control
    held = policy.act_candidates(observation, rng=5, count=2, prefix=dataclasses.replace(many[0], horizon=4))
    for chunk, free in zip(held, few, strict=True):
        gap = np.abs(chunk.values[:4] - many[0].values[:4]).max()
        assert gap < 0.2 * np.abs(many[1].values[:4] - many[0].values[:4]).max()
        assert len(chunk.values) == len(free.values)
    with pytest.raises(ConfigError, match="at least one"):
        policy.act_candidates(observation, rng=5, count=0)
    with pytest.raises(ShapeError, match="one seed"):  # more generators than observations are no candidates
        policy.act_batch([observation], [0, 1])
