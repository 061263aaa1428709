"""robomimic behind its adapter: equal to robomimic's own loss and rollout, normalised, reproducible, resumable."""

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, EmbodimentMismatchError, NonFiniteError, ShapeError
from robopolicy.policies import build_policy
from robopolicy.policies import robomimic_network as adapted
from robopolicy.policies.gaussian_mixture import GaussianMixture
from robopolicy.protocols import BatchPolicy, TrainablePolicy
from robopolicy.registry import load_target
from robopolicy.types import Batch, Observation

E = 3
TINY = {
    "rnn": {"hidden_dim": 12, "num_layers": 2},
    "gmm": {"num_modes": 3},
    "transformer": {"embed_dim": 16, "num_layers": 2, "num_heads": 2},
}
SMALL = {"gmm": {"num_modes": 3}, "actor_layer_dims": [16, 16]}
LATENT = {"vae": {"latent_dim": 4, "encoder_layer_dims": [8], "decoder_layer_dims": [8]}}
OPEN_LOOP = {
    "observation_horizon": 1,
    "prediction_horizon": 6,
    "action_horizon": 4,
    "rnn": {"hidden_dim": 12, "open_loop": True},
}
KINDS = {
    "bc_rnn_gmm": ("bc_rnn_gmm", {k: TINY[k] for k in ("rnn", "gmm")}),
    "bc_rnn": ("bc_rnn_gmm", {"rnn": TINY["rnn"], "actor_layer_dims": [8]}),
    "open_loop": ("bc_rnn_gmm", {"algorithm": "bc_rnn_gmm", **OPEN_LOOP}),
    "bc_transformer_gmm": ("bc_transformer", {k: TINY[k] for k in ("transformer", "gmm")}),
    "bc_transformer": ("bc_transformer", {"transformer": TINY["transformer"]}),
    "bc_gmm": ("bc_gmm", SMALL),
    "bc": ("bc_gmm", SMALL),
    "bc_vae": ("bc_gmm", {**SMALL, **LATENT}),
}


@pytest.fixture
def make(panda, normalizer):
    def build(kind="bc_rnn_gmm", **parameters):
        torch.manual_seed(0)
        name, own = KINDS[kind]
        merged = {"algorithm": kind, **own, **parameters}
        return build_policy(name, merged, embodiment=panda, normalizer=normalizer, environment_state=E)

    return build


def batch_of(policy, rows=4, seed=0):
    """Random windows within the ranges of the card."""
    card, rng = policy.spec.embodiment, np.random.default_rng(seed)
    to, tp = policy.spec.observation_horizon, policy.spec.prediction_horizon

    def inside(channels, steps):
        share = rng.uniform(0.1, 0.9, (rows, steps, len(channels)))
        return torch.tensor(channels.lower + share * (channels.upper - channels.lower), dtype=torch.float32)

    action = inside(card.action, tp)
    return Batch(
        state=inside(card.state, to),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=card.hash,
        environment_state=torch.tensor(rng.uniform(-1, 1, (rows, to, E)), dtype=torch.float32),
    )


def observation_of(batch, row=0):
    steps = batch.state.shape[1]
    return Observation(
        state=batch.state[row].numpy(),
        time_ns=np.arange(1, steps + 1) * 50_000_000,
        embodiment=batch.embodiment,
        environment_state=batch.environment_state[row].numpy(),
    )


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def peer(policy, width):
    """robomimic's own algorithm as its trainer makes it, with two observation keys, and the weights of the policy."""
    modules, settings = adapted._robomimic(), adapted._settings(policy.network.sizes)
    with settings.values_unlocked():
        settings.observation.modalities.obs.low_dim = ["state", "object"]
        settings.observation.modalities.goal.low_dim = []
    shapes = OrderedDict(state=[width], object=[E])
    with adapted._observation_tables(settings):
        algo = modules.algo.algo_factory(
            "bc", settings, shapes, len(policy.spec.embodiment.action), torch.device("cpu")
        )
        if "rnn" in policy.config.parts:  # there the per-step layers have two names
            missing, unexpected = algo.nets["policy"].load_state_dict(policy.network.actor.state_dict(), strict=False)
            assert not unexpected
            assert all("per_step_net" in name for name in missing)
        else:
            algo.nets["policy"].load_state_dict(policy.network.actor.state_dict())
    return algo


def raw_batch(policy, batch, normalizer):
    """The batch as robomimic's loader would give it, of an export that holds our normalised numbers."""

    def scaled(name, values):
        return torch.tensor(normalizer.stream(name).normalize(values.numpy()), dtype=torch.float32)

    obs = {"state": scaled("state", batch.state), "object": scaled("environment_state", batch.environment_state)}
    return {"obs": obs, "goal_obs": None, "actions": scaled("action", batch.action)}


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "open_loop"])
def test_loss_equals_robomimics_own(make, normalizer, kind):
    """Same weights, same batch: the number that robomimic's ``train_on_batch`` reports; control: raw observations."""
    policy = make(kind, **({"transformer": {**TINY["transformer"], **NO_DROPOUT}} if "transformer" in kind else {}))
    batch = batch_of(policy)
    algo = peer(policy, batch.state.shape[-1])
    algo.set_train()
    given = algo.process_batch_for_training(raw_batch(policy, batch, normalizer))
    torch.manual_seed(5)
    theirs = float(algo._compute_losses(algo._forward_training(given), given)["action_loss"].detach())
    torch.manual_seed(5)
    ours = policy.loss(batch)  # without a generator the latent is drawn from the global one, as theirs
    assert float(ours.total.detach()) == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    assert ours.per_sample.shape == (4,)
    unnormalised = make(kind, normalize=False)
    unnormalised.load_state_dict(policy.state_dict())
    torch.manual_seed(5)
    assert float(unnormalised.train(False).loss(batch).total.detach()) != pytest.approx(theirs, rel=1e-4)


NO_DROPOUT = {"emb_dropout": 0.0, "attn_dropout": 0.0, "block_output_dropout": 0.0}


def test_gradients_equal_robomimics_own(make, normalizer):
    policy = make()
    batch = batch_of(policy)
    algo = peer(policy, batch.state.shape[-1])
    given = algo.process_batch_for_training(raw_batch(policy, batch, normalizer))
    algo._compute_losses(algo._forward_training(given), given)["action_loss"].backward()
    policy.loss(batch).total.backward()
    theirs = dict(algo.nets["policy"].named_parameters())
    for name, own in policy.network.actor.named_parameters():
        torch.testing.assert_close(own.grad, theirs[name].grad, rtol=1e-4, atol=1e-5)


def test_answer_is_that_of_their_rollout_at_the_last_step_of_a_sequence(make, normalizer):
    """Ten calls with the hidden state carried along; at the ninth, control, the state has seen less."""
    policy = make().eval()
    batch = batch_of(policy, rows=1)
    algo = peer(policy, batch.state.shape[-1])
    algo.set_eval()
    given = raw_batch(policy, batch, normalizer)["obs"]
    state, means = algo.nets["policy"].get_rnn_init_state(1, torch.device("cpu")), []
    with torch.no_grad():
        for step in range(10):
            now = {name: value[:, step] for name, value in given.items()}
            mixture, state = algo.nets["policy"].forward_train_step(now, rnn_state=state)
            means.append(mixture.component_distribution.base_dist.loc[0])
        features = policy.encoder(batch.state, batch.environment_state, {})
        ours = policy._mixture(features).means[0, -1]
        torch.testing.assert_close(ours, means[9], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(ours, means[8], atol=1e-4)
    drawn = policy.act(observation_of(batch), rng=3).values[0]
    candidates = [normalizer.stream("action").denormalize(mean.numpy()) for mean in means[9]]
    width = 1 / normalizer.stream("action").scale
    assert min(np.abs((drawn - c) / width).max() for c in candidates) < 6e-4, "one of the modes, give or take 1e-4"


@pytest.mark.parametrize("kind", KINDS)
def test_protocols_shapes_and_reproducibility(make, kind):
    policy = make(kind).eval()
    assert isinstance(policy, TrainablePolicy)
    assert isinstance(policy, BatchPolicy)
    batch = batch_of(policy)
    seen = [observation_of(batch, row) for row in range(3)]
    chunk = policy.act(seen[0], rng=0)
    spec = policy.spec
    assert chunk.values.shape == (spec.prediction_horizon - spec.observation_horizon + 1, 10)
    assert chunk.horizon == spec.action_horizon
    torch.manual_seed(99)
    assert (policy.act(seen[0], rng=0).values == chunk.values).all()
    together = policy.act_batch(seen, [7, 0, 7])
    assert np.allclose(together[1].values, policy.act(seen[1], rng=0).values, atol=1e-5)
    random = "gmm" in policy.config.parts or "vae" in policy.config.parts
    draws = [policy.act(seen[0], rng=seed).values for seed in range(8)]
    assert any((draw != draws[0]).any() for draw in draws[1:]) == random
    certain = make(kind, selection="mode").eval()
    assert (certain.act(seen[0], rng=1).values == certain.act(seen[0], rng=2).values).all()


@pytest.mark.parametrize("kind", KINDS)
def test_description_rebuilds_it_and_every_weight_learns_under_one_name(make, panda, normalizer, kind):
    policy = make(kind)
    batch = batch_of(policy)
    policy.loss(batch, rng=rng()).total.backward()
    assert all(p.grad is not None for p in policy.parameters())
    state = policy.state_dict()
    assert set(state) - {n for n, _ in policy.named_buffers()} == {n for n, _ in policy.named_parameters()}
    said = policy.description()
    again = load_target(said["target"])(
        said["parameters"], embodiment=panda, normalizer=normalizer, environment_state=said["environment_state"]
    )
    again.load_state_dict(state)
    seen = observation_of(batch)
    assert (again.eval().act(seen, rng=1).values == policy.eval().act(seen, rng=1).values).all()
    assert again.description() == said


@pytest.mark.parametrize("kind", ["bc_rnn_gmm", "bc_transformer_gmm", "bc_vae"])
def test_loss_draws_from_its_generator_alone(make, kind):
    policy = make(kind)
    batch = batch_of(policy)
    before = torch.get_rng_state()
    first = policy.loss(batch, rng=rng(1)).total
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1234)
    assert policy.loss(batch, rng=rng(1)).total == first
    if kind != "bc_rnn_gmm":
        assert policy.loss(batch, rng=rng(2)).total != first


@pytest.mark.parametrize("kind", ["bc_rnn_gmm", "bc_rnn", "bc_transformer_gmm"])
def test_masked_entries_do_not_count(make, kind):
    policy = make(kind).eval()
    batch = batch_of(policy)
    batch.action_mask[:, :4] = False
    batch.action_mask[..., -1] = False
    base = policy.loss(batch).total
    spoilt = dataclasses.replace(batch, action=batch.action.clone())
    spoilt.action[:, :4] += 0.3
    spoilt.action[..., -1] += 0.3
    assert policy.loss(spoilt).total == base
    spoilt.action[:, -1, 0] += 0.3
    assert policy.loss(spoilt).total != base
    batch.action_mask[:] = False
    assert policy.loss(batch).total == 0


def test_transformer_learns_the_newest_action_only_unless_told(make):
    policy = make("bc_transformer_gmm").eval()
    batch = batch_of(policy)
    early = dataclasses.replace(batch, action=batch.action.clone())
    early.action[:, :-1] += 0.2
    assert policy.loss(early).total == policy.loss(batch).total
    every = make("bc_transformer_gmm", transformer={**TINY["transformer"], "supervise_all_steps": True}).eval()
    assert every.loss(early).total != every.loss(batch).total


def test_evaluation_loss_has_the_learnt_deviation(make):
    """In evaluation robomimic would score with 1e-4, which is a validation loss of millions."""
    policy = make()
    batch = batch_of(policy)
    assert policy.train().loss(batch).total == policy.eval().loss(batch).total < 100


def test_mixture_against_torch_and_its_own_weights():
    generator = torch.Generator().manual_seed(0)
    means, logits = torch.rand(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, generator=generator)
    scales = torch.rand(2, 3, 4, 5, generator=generator) + 0.1
    mixture, action = GaussianMixture(means, scales, logits), torch.rand(2, 3, 5, generator=generator)
    normal = torch.distributions.Independent(torch.distributions.Normal(means, scales), 1)
    reference = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), normal)
    everything = torch.ones(2, 3, 5, dtype=torch.bool)
    torch.testing.assert_close(mixture.log_likelihood(action, everything), reference.log_prob(action))
    # without a channel: the density of the others
    some = everything.clone()
    some[..., 2] = False
    kept = [0, 1, 3, 4]
    less = GaussianMixture(means[..., kept], scales[..., kept], logits)
    torch.testing.assert_close(
        mixture.log_likelihood(action, some), less.log_likelihood(action[..., kept], some[..., kept])
    )
    # how often each mode is drawn
    two = GaussianMixture(
        torch.tensor([-0.5, 0.5])[:, None].expand(4000, 1, 2, 1),
        torch.full((4000, 1, 2, 1), 0.01),
        torch.tensor([0.8, 0.2]).log().expand(4000, 1, 2),
    )
    drawn = two.sample([np.random.default_rng(seed) for seed in range(4000)], low_noise=True).flatten()
    assert float((drawn < 0).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((drawn.abs() - 0.5).std()) == pytest.approx(1e-4, rel=0.1)
    wide = two.sample([np.random.default_rng(seed) for seed in range(4000)], low_noise=False).flatten()
    assert float((wide.abs() - 0.5).std()) == pytest.approx(1e-2, rel=0.1)
    assert (two.mode() == -0.5).all()


def test_it_draws_either_of_two_ways_where_regression_goes_between(make, panda):
    """Same observation, two actions: after a few steps most draws are near one of them."""

    def learnt(kind):
        policy = make(kind, **({"gmm": {"num_modes": 2}} if "gmm" in kind else {}))
        batch = batch_of(policy, rows=1)
        rows = [t.expand(16, *t.shape[1:]).clone() for t in (batch.state, batch.environment_state, batch.action)]
        low, high = (torch.tensor(v, dtype=torch.float32) for v in (panda.action.lower, panda.action.upper))
        side = torch.arange(16) % 2 * 2 - 1
        rows[2][:] = (low + high) / 2
        rows[2][..., 1] += side[:, None] * 0.25 * (high - low)[1]
        counted = torch.zeros_like(rows[2], dtype=torch.bool)
        counted[..., 1] = True
        batch = Batch(rows[0], rows[2], counted, panda.hash, {}, rows[1])
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
        for _ in range(200):
            loss = policy.loss(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seen, middle = observation_of(batch), float((low + high)[1]) / 2
        return np.array([policy.eval().act(seen, rng=seed).values[0, 1] for seed in range(20)]) - middle, high - low

    drawn, span = learnt("bc_rnn_gmm")
    off = np.abs(drawn) / float(span[1])
    assert (np.abs(off - 0.25) < 0.06).all()
    assert 0 < (drawn > 0).sum() < 20
    regressed, _ = learnt("bc_rnn")
    assert (np.abs(regressed) / float(span[1]) < 0.06).all()


def test_two_policies_of_other_observations_and_a_user_of_robomimic_in_one_process(make, panda, normalizer, capsys):
    first = make()
    observations = adapted._robomimic().obs_utils
    observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["mine"], "rgb": ["observation"]}})
    capsys.readouterr()
    mine = observations.OBS_KEYS_TO_MODALITIES
    second = make("bc_gmm", environment_state=False)
    torch.manual_seed(0)
    third = make("bc_rnn_gmm", state=False)
    assert observations.OBS_KEYS_TO_MODALITIES is mine
    assert dict(mine) == {"mine": "low_dim", "observation": "rgb"}
    assert "LSTM" in repr(first)
    assert observations.OBS_KEYS_TO_MODALITIES is mine
    for policy in (third, first, second):
        batch = batch_of(policy)
        assert torch.isfinite(policy.loss(batch).total)
        assert policy.eval().act(observation_of(batch), rng=0).values.shape == (1, 10)
    assert capsys.readouterr().out == "", "robomimic prints; the adapter does not"
    observations.OBS_KEYS_TO_MODALITIES = observations.OBS_MODALITIES_TO_KEYS = None


def test_cameras_go_through_robomimics_encoder(panda, normalizer):
    vision = {"backbone": "CompactConv", "keypoints": 4, "feature_dim": 6, "crop": 64}
    torch.manual_seed(0)
    policy = build_policy(
        "bc_rnn_gmm",
        {"observation_horizon": 2, "prediction_horizon": 2, "environment_state": False, "cameras": ["front"],
         "vision": vision, "rnn": {"hidden_dim": 12}},
        embodiment=panda, normalizer=normalizer,
    )  # fmt: skip
    batch = batch_of(policy, rows=2)
    generator = torch.Generator().manual_seed(0)
    camera = panda.camera("front")
    shape = (2, 2, camera.height, camera.width, 3)
    batch.image = {"front": torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)}
    first = policy.loss(batch, rng=rng(1))
    first.total.backward()
    assert all(p.grad is not None for p in policy.encoder.parameters())
    assert policy.loss(batch, rng=rng(1)).total == first.total
    assert policy.loss(batch, rng=rng(2)).total != first.total, "another crop"
    assert not [m for m in policy.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    features = policy.encoder(batch.state, None, batch.image)
    numbers, seen = features.steps[..., :-6], features.steps[..., -6:]
    activated = policy._activated(features).steps
    assert (seen < 0).any()
    assert torch.equal(activated, torch.cat([numbers, seen.relu()], dim=-1)), "the numbers keep their sign"
    observation = dataclasses.replace(observation_of_images(batch), embodiment=panda.hash)
    assert policy.eval().act(observation, rng=0).values.shape == (1, 10)


def observation_of_images(batch):
    return Observation(
        state=batch.state[0].numpy(),
        time_ns=np.array([1, 2]) * 50_000_000,
        embodiment=batch.embodiment,
        image={name: images[0].numpy() for name, images in batch.image.items()},
    )


def test_goal_is_read(make, panda, normalizer):
    from robopolicy.normalize import Normalizer, StreamNormalizer

    streams = {**normalizer.streams, "goal": StreamNormalizer(np.ones(2), np.zeros(2))}
    for name, kind in (("bc_rnn_gmm", "bc_rnn_gmm"), ("bc_gmm", "bc_vae")):
        parameters = {"algorithm": kind, "goal": 2, **KINDS[kind][1]}
        policy = build_policy(
            name, parameters, embodiment=panda, normalizer=Normalizer(streams), environment_state=E
        ).eval()
        batch = batch_of(policy)
        batch.goal = torch.zeros(4, 2)
        near = policy.loss(batch, rng=rng()).total
        batch.goal = torch.ones(4, 2)
        assert policy.loss(batch, rng=rng()).total != near
        seen = dataclasses.replace(observation_of(batch), goal=np.zeros(2, np.float32))
        assert (policy.act(seen, rng=0).values != policy.act(seen, rng=0, goal=np.ones(2)).values).any()


def test_instruction_is_read(make):
    policy = make("bc_rnn_gmm", language=WORDS).eval()
    batch = batch_of(policy)
    batch.language = ["left"] * 4
    left = policy.loss(batch).total
    batch.language = ["right"] * 4
    assert policy.loss(batch).total != left


WORDS = {"kind": "table", "vocabulary": ["left", "right"]}


def test_how_an_action_is_drawn_may_be_changed_after_training(make):
    policy = make().eval()
    seen = observation_of(batch_of(policy))
    policy.change({"selection": "sample"})
    wide = policy.act(seen, rng=1).values
    policy.change({"selection": "low_noise"})
    assert (policy.act(seen, rng=1).values != wide).all()
    assert (policy.act(seen, rng=1).values == make().eval().act(seen, rng=1).values).all()
    with pytest.raises(ConfigError, match="gmm"):
        policy.change({"gmm": {"num_modes": 2}})


def test_refusals(make, panda, normalizer):
    for name in adapted.REWARDED:
        with pytest.raises(ConfigError, match="rewards"):
            make(algorithm=name)
    with pytest.raises(ConfigError, match="bc_rnn_gmm"):
        make(algorithm="bc_rnn_gm")
    with pytest.raises(ConfigError, match="open_loop"):
        make(action_horizon=4)
    with pytest.raises(ConfigError, match="To=Tp"):
        make(prediction_horizon=16)
    with pytest.raises(ConfigError, match="one observation"):
        make("bc_gmm", prediction_horizon=8)
    with pytest.raises(ConfigError, match="one observation"):
        make("open_loop", observation_horizon=2)
    with pytest.raises(ConfigError, match="increment"):
        make(action_form="increment")
    with pytest.raises(ConfigError, match="robomimic's own"):
        make(observation_mlp=16)
    with pytest.raises(ConfigError, match="divide"):
        make("bc_transformer", transformer={"embed_dim": 10, "num_heads": 4})
    with pytest.raises(ConfigError, match="layers"):
        make("bc_gmm", actor_layer_dims=[])
    with pytest.raises(ConfigError, match="num_modes"):
        make(gmm={"num_modes": 0})
    with pytest.raises(ConfigError, match="observes nothing"):
        make(state=False, environment_state=False)
    policy = make().eval()
    seen = observation_of(batch_of(policy))
    with pytest.raises(EmbodimentMismatchError):
        policy.act(dataclasses.replace(seen, embodiment="0" * 64), rng=0)
    with pytest.raises(ShapeError):
        policy.act(dataclasses.replace(seen, state=seen.state[:5], time_ns=seen.time_ns[:5]), rng=0)
    with torch.no_grad():
        next(policy.network.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        policy.act(seen, rng=0)


def test_open_loop_makes_a_chunk_of_one_observation(make):
    policy = make("open_loop", selection="mode").eval()
    batch = batch_of(policy)
    chunk = policy.act(observation_of(batch), rng=0)
    assert chunk.values.shape == (6, 10)
    assert (np.abs(np.diff(chunk.values, axis=0)).max(1) > 0).all(), "the hidden state goes on"
