"""ACT as a policy: protocol, index convention, loss and its masks, determinism, refusals, training and resuming."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from robopolicy import checkpoint
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, NonFiniteError
from robopolicy.models.act import ActOutput
from robopolicy.models.action_form import INCREMENT_STREAM
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy, load_policy
from robopolicy.protocols import BatchPolicy, Policy, TrainablePolicy
from robopolicy.registry import load_target
from robopolicy.training.run import resume, train
from robopolicy.types import Batch

TP = 12
ACT = {"width": 32, "heads": 4, "feedforward": 48, "encoder_layers": 1, "decoder_layers": 2, "latent": 4}
SMALL = {"act": ACT, "action_horizon": 8, "prediction_horizon": TP}
IMAGE = {"environment_state": False, "cameras": ["front", "wrist"], "vision": {"backbone": "CompactConv"}}


@pytest.fixture
def make(panda, normalizer):
    def build(**parameters):
        torch.manual_seed(0)
        merged = {**SMALL, **parameters, "act": {**ACT, **parameters.get("act", {})}}
        return build_policy("act", merged, embodiment=panda, normalizer=normalizer, environment_state=3)

    return build


@pytest.fixture
def seen(observation):
    """The newest step of the observation alone."""
    return dataclasses.replace(
        observation,
        state=observation.state[1:],
        time_ns=observation.time_ns[1:],
        environment_state=observation.environment_state[1:],
        image={name: values[1:] for name, values in observation.image.items()},
    )


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_for(policy, n=6, seed=0):
    spec, generator = policy.spec, rng(seed)
    low, high = (
        torch.tensor(v, dtype=torch.float32) for v in (spec.embodiment.action.lower, spec.embodiment.action.upper)
    )
    action = low + (high - low) * torch.rand(n, spec.prediction_horizon, len(low), generator=generator)
    steps = spec.observation_horizon
    return Batch(
        state=action[:, :steps].clone(),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=spec.embodiment.hash,
        environment_state=torch.rand(n, steps, 3, generator=generator),
        image={
            c: torch.randint(0, 255, (n, steps, 96, 96, 3), dtype=torch.uint8, generator=generator)
            for c in spec.cameras
        },
    )


def test_protocols_spec_and_published_defaults(make, seen):
    policy = make().eval()
    assert isinstance(policy, Policy)
    assert isinstance(policy, TrainablePolicy)
    assert isinstance(policy, BatchPolicy)
    assert (policy.spec.observation_horizon, policy.spec.action_horizon, policy.spec.prediction_horizon) == (1, 8, TP)
    chunk = policy.act(seen)
    assert chunk.values.shape == (TP, 10)
    assert (chunk.horizon, chunk.t0_ns, chunk.dt_s) == (8, 1_050_000_000, 0.05)
    from robopolicy.policies.act_policy import ActPolicyConfig
    from robopolicy.policies.loading import policy_parameters
    from robopolicy.schema import build, to_dict

    file, plain = (to_dict(build(ActPolicyConfig, p)) for p in (policy_parameters("act", {}), {}))
    assert file == plain, "the YAML and the code agree on the defaults"
    assert plain["act"] == {"width": 512, "heads": 8, "feedforward": 3200, "encoder_layers": 4, "decoder_layers": 7,
                            "latent": 32, "dropout": 0.1, "pre_norm": False}  # fmt: skip
    assert (plain["prediction_horizon"], plain["kl_weight"]) == (100, 10.0)


def test_index_convention_on_a_counter(make, panda, normalizer, seen, observation, monkeypatch):
    for steps, given in ((1, seen), (2, observation)):
        policy = make(observation_horizon=steps)
        counter = np.linspace(panda.action.lower, panda.action.upper, TP)
        clean = torch.tensor(normalizer.stream("action").normalize(counter), dtype=torch.float32)[None]
        monkeypatch.setattr(policy.network, "forward", lambda features, clean=clean: ActOutput(clean))
        np.testing.assert_allclose(policy.act(given).values, counter[steps - 1 :], atol=1e-6)


def test_act_is_a_function_of_the_observation_alone(make, seen):
    policy = make(act={"dropout": 0.5})
    first = policy.eval().act(seen, rng=0)
    torch.manual_seed(123)
    again = policy.act(seen, rng=np.random.default_rng(9))
    assert (again.values == first.values).all()
    policy.train()
    assert (policy.act(seen, rng=1, prefix=first).values - first.values).max() < 1e-5  # dropout stays off
    assert policy.training
    assert policy.network.training
    moved = dataclasses.replace(seen, environment_state=np.ones((1, 3), np.float32))
    assert (policy.act(moved).values != first.values).any()
    both = policy.eval().act_batch([moved, seen], [0, 1])
    np.testing.assert_allclose(both[1].values, first.values, atol=1e-5)


def test_loss_is_l1_and_divergence(make, panda):
    policy = make(kl_weight=3.0).eval()
    batch = batch_for(policy)
    losses = policy.loss(batch, rng=rng())
    features, wanted = policy._encoded(batch, None)
    output = policy.network(features, wanted, torch.zeros(len(wanted), TP, dtype=torch.bool), rng())
    l1, kl = (output.chunk - wanted).abs().mean(), output.posterior.divergence().mean()
    torch.testing.assert_close(losses.total, l1 + 3.0 * kl)
    torch.testing.assert_close(losses.parts["l1"], l1.detach())
    torch.testing.assert_close(losses.parts["kl"], kl.detach())
    torch.testing.assert_close(losses.per_sample.mean(), losses.total.detach())
    assert (policy.loss(batch, rng=rng()).total == losses.total).all()
    assert policy.loss(batch, rng=rng(1)).total != losses.total
    plain = make(act={"latent": 0}).eval().loss(batch, rng=rng())
    assert set(plain.parts) == {"l1"}
    torch.testing.assert_close(plain.total.detach(), plain.parts["l1"])


@pytest.mark.parametrize("latent", [0, 4])
def test_masked_entries_do_not_count(make, latent):
    policy = make(act={"latent": latent}).eval()
    batch = batch_for(policy)
    batch.action_mask[:, 7:] = False
    batch.action_mask[..., 9] = False
    spoilt = dataclasses.replace(batch, action=batch.action.clone())
    spoilt.action[:, 7:] += 5.0
    spoilt.action[..., 9] -= 5.0
    base = policy.loss(batch, rng=rng()).total
    torch.testing.assert_close(policy.loss(spoilt, rng=rng()).total, base)
    spoilt.action[:, :7] += 0.1
    assert abs(policy.loss(spoilt, rng=rng()).total - base) > 1e-4  # control


def test_published_mean_counts_padding_as_zero(make):
    """7 of 12 steps and 10 channels are valid: the same sum, over 120 entries instead of 70."""
    ours, published = make(act={"latent": 0}).eval(), make(act={"latent": 0}, masked_loss=False).eval()
    batch = batch_for(ours)
    whole = [policy.loss(batch).total.item() for policy in (ours, published)]
    assert whole[0] == pytest.approx(whole[1], rel=1e-5)
    batch.action_mask[:, 7:] = False
    cut = [policy.loss(batch).total.item() for policy in (ours, published)]
    assert cut[1] == pytest.approx(cut[0] * 7 / 12, rel=1e-5)


def test_image_policy(make, seen):
    for shared in (True, False):
        policy = make(**{**IMAGE, "vision": {"backbone": "CompactConv", "shared": shared}}).eval()
        blind = dataclasses.replace(seen, environment_state=None)
        first = policy.act(blind).values
        assert first.shape == (TP, 10)
        image = {name: values.copy() for name, values in seen.image.items()}
        image["wrist"][:, :40] = 0
        assert (policy.act(dataclasses.replace(blind, image=image)).values != first).any()
        policy.train().loss(batch_for(policy, n=2), rng=rng()).total.backward()
        assert all(p.grad is not None for p in policy.parameters())
    ours = make(**{**IMAGE, "vision": {"backbone": "CompactConv", "crop": 92}}, act={"latent": 0, "dropout": 0.0})
    batch = batch_for(ours, n=2)
    assert ours.loss(batch, rng=rng(0)).total == ours.loss(batch, rng=rng(0)).total
    assert ours.loss(batch, rng=rng(0)).total != ours.loss(batch, rng=rng(1)).total  # crops come from rng


def test_goal_is_a_token(panda, normalizer, seen):
    streams = {name: normalizer.stream(name) for name in ("state", "action", "environment_state")}
    goal = Normalizer.from_statistics({"state": {"min": panda.state.lower, "max": panda.state.upper}}, panda)
    told = Normalizer({**streams, "goal": goal.stream("state")})
    torch.manual_seed(0)
    parameters = {**SMALL, "goal": len(panda.state)}
    policy = build_policy("act", parameters, embodiment=panda, normalizer=told, environment_state=3).eval()
    one, two = (np.full(len(panda.state), v, np.float32) for v in (0.0, 0.3))
    assert (policy.act(seen, goal=one).values != policy.act(seen, goal=two).values).any()
    assert (policy.act(seen, goal=one).values == policy.act(dataclasses.replace(seen, goal=one)).values).all()


def test_increments(make, panda, normalizer, seen):
    with pytest.raises(DataError, match="increment"):
        make(action_form="increment")
    streams = {name: normalizer.stream(name) for name in ("state", "action", "environment_state")}
    small = {"min": np.full(TP * 10, -0.1), "max": np.full(TP * 10, 0.1)}
    increments = Normalizer.from_statistics({INCREMENT_STREAM: small}, panda)
    ranged = Normalizer({**streams, INCREMENT_STREAM: increments.stream(INCREMENT_STREAM)})
    parameters = {**SMALL, "action_form": "increment"}
    policy = build_policy("act", parameters, embodiment=panda, normalizer=ranged, environment_state=3).eval()
    zero = torch.zeros(1, TP, 10)
    policy.network.forward = lambda features: ActOutput(zero)
    columns = panda.action.select("ee_position")
    measured = seen.state[0, panda.state.select("ee_position")]
    np.testing.assert_allclose(policy.act(seen).values[:, columns], np.tile(measured, (TP, 1)), atol=1e-6)


def test_it_learns_a_chunk(make):
    """A handful of steps on one batch bring the error down; without the actions in reach it stays."""
    policy = make(act={"dropout": 0.0}, kl_weight=0.01)
    batch, optimizer = batch_for(policy, n=4), torch.optim.AdamW(policy.parameters(), lr=3e-3)
    first = policy.loss(batch, rng=rng()).parts["l1"]
    for step in range(60):
        loss = policy.loss(batch, rng=rng(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy.loss(batch, rng=rng()).parts["l1"] < 0.7 * first
    other = batch_for(policy, n=4, seed=1)
    assert policy.eval().loss(other, rng=rng()).parts["l1"] > 0.7 * first  # control: what it has not seen


def test_description_rebuilds_it(make, panda, normalizer, seen):
    policy = make().eval()
    said = policy.description()
    again = load_target(said["target"])(
        said["parameters"], embodiment=panda, normalizer=normalizer, environment_state=said["environment_state"]
    ).eval()
    again.load_state_dict(policy.state_dict())
    assert (again.act(seen).values == policy.act(seen).values).all()


def test_refusals(make, seen):
    with pytest.raises(ConfigError, match="Tp"):
        make(action_horizon=TP + 1)
    with pytest.raises(ConfigError, match="one network"):
        make(network="unet")
    with pytest.raises(ConfigError, match="one network"):
        make(unet={"down": [16]})
    with pytest.raises(ConfigError, match="kl_weight"):
        make(kl_weight=-1.0)
    with pytest.raises(ConfigError, match="width"):
        make(act={"width": 30})
    with pytest.raises(ConfigError, match="latnet"):
        make(act={"latnet": 3})
    policy = make().eval()
    with pytest.raises(EmbodimentMismatchError):
        policy.act(dataclasses.replace(seen, embodiment="0" * 64))
    with torch.no_grad():
        policy.network.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        policy.act(seen)


def test_ten_steps_equal_five_and_five(panda, tmp_path):
    """With dropout, z and increments; the control is another seed."""
    draw, steps = np.random.default_rng(0), 20
    with EpisodeStore.create(tmp_path / "store.zarr", panda, task="reach", joints=False) as store:
        for _ in range(4):
            ends = draw.uniform(0.3, 0.6, (2, len(panda.state)))
            state = np.linspace(*ends, steps).astype(np.float32)
            streams = {"state": state, "action": state, "time_ns": np.arange(steps, dtype=np.int64) * 50_000_000}
            store.append(Episode(streams=streams))
    parameters = {**SMALL, "act": {**ACT, "dropout": 0.5}, "environment_state": False, "action_form": "increment"}

    def run(name, seed):
        stage = {"policy": "act", "steps": 10, "batch_size": 8, "checkpoint_every": 5, "parameters": parameters,
                 "validation": {"fraction": 0.25, "every": 4}}  # fmt: skip
        train(
            {"seed": seed, "device": "cpu", "stages": {"policy": stage}},
            tmp_path / "store.zarr",
            tmp_path / name,
            progress=False,
        )
        return weights(name)

    def weights(name):
        return checkpoint.load(checkpoint.latest(tmp_path / name)).tensors("weights")

    ten, other = run("ten", 0), run("other", 1)
    for path in (tmp_path / "ten" / "checkpoints").glob("*/step_*10"):
        shutil.rmtree(path)
    (tmp_path / "ten" / "train.json").unlink()
    assert any(not torch.equal(ten[name], value) for name, value in weights("ten").items()), "cut back to five"
    resume(tmp_path / "ten", progress=False)
    again = weights("ten")
    assert not [name for name, value in ten.items() if not torch.equal(again[name], value)]
    assert [name for name, value in ten.items() if not torch.equal(other[name], value)]
    assert load_policy(tmp_path / "ten", device="cpu").spec.prediction_horizon == TP
