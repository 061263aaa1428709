"""Pictures as goals: one encoder for what is seen and what is wanted; withheld as a whole; trained and resumed."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robopolicy import checkpoint
from robopolicy.cli.main import main
from robopolicy.data.goal_pictures import encode_goal_images
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.deploy.policy_source import check_policy
from robopolicy.errors import ConfigError, DataError, DeployError, ShapeError
from robopolicy.export import export_policy
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy, load_policy
from robopolicy.schema import build as build_config
from robopolicy.training.feed import MixtureSource
from robopolicy.training.recipe import Recipe
from robopolicy.training.run import resume, train
from robopolicy.types import Batch

SIDE = 32
VISION = {"backbone": "CompactConv", "keypoints": 8, "feature_dim": 6, "crop": 28}
NETWORKS = {
    "unet": {"unet": {"down": [16, 32], "step_dim": 16}},
    "dit": {"dit": {"width": 16, "layers": 1, "heads": 2}},
    "robomimic": {"actor_layer_dims": [16]},
    "gpt": {"gpt": {"width": 16, "layers": 2, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0}},
}
SEEN = {"environment_state": False, "cameras": ["front"], "vision": VISION}
PICTURE = {"cameras": ["front"], "future": [1, 12]}


@pytest.fixture(scope="module")
def card(panda):
    cameras = tuple(dataclasses.replace(c, width=SIDE, height=SIDE) for c in panda.cameras)
    return dataclasses.replace(panda, cameras=cameras)


@pytest.fixture
def make(card, normalizer):
    stream = normalizer.stream("environment_state")
    goal = type(stream)(stream.scale[:2], stream.offset[:2])
    ranges = Normalizer({**normalizer.streams, "goal": goal})

    def build(goal=PICTURE, network="gpt", family="beso", **parameters):
        torch.manual_seed(0)
        own = {**NETWORKS[network], **SEEN, "network": network, "goal": goal, **parameters}
        return build_policy(family, own, embodiment=card, normalizer=ranges, environment_state=3).eval()

    return build


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def seen(card, observation):
    image = {"front": pixels(0, 2), "wrist": pixels(1, 2)}
    wanted = {"front": pixels(2), "wrist": pixels(3)}
    return dataclasses.replace(observation, embodiment=card.hash, image=image, goal_image=wanted)


def with_goal(seen, camera, seed):
    return dataclasses.replace(seen, goal_image={**seen.goal_image, camera: pixels(seed)})


def batch_for(policy, n=4, goal=2):
    draw, spec = torch.Generator().manual_seed(0), policy.spec
    low, high = (torch.tensor(v).float() for v in (spec.embodiment.action.lower, spec.embodiment.action.upper))
    action = low + (high - low) * torch.rand(n, spec.prediction_horizon, len(low), generator=draw)
    return Batch(
        state=action[:, : spec.observation_horizon].clone(),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=spec.embodiment.hash,
        image={c: torch.from_numpy(pixels(i, n, 2)) for i, c in enumerate(spec.cameras)},
        goal=torch.rand(n, spec.goal, generator=draw) if spec.goal else None,
        goal_image={c: torch.from_numpy(pixels(goal + i, n)) for i, c in enumerate(spec.goal_cameras)},
    )


def features(policy, batch, **options):
    told = {"goal": batch.goal, "goal_images": batch.goal_image, **options}
    return policy.encoder(batch.state, None, batch.image, **told)


@pytest.mark.parametrize("network", ["unet", "dit", "gpt"])
def test_the_picture_reaches_every_network(make, seen, network):
    policy = make(network=network, family="diffusion" if network == "unet" else "beso")
    assert policy.spec.goal_cameras == ("front",)
    assert (policy.spec.goal, policy.encoder.widths.goal) == (0, 6 + 1)
    chunk = policy.act(seen, rng=0).values
    assert (policy.act(seen, rng=0).values == chunk).all()  # crops in the centre
    assert (policy.act(with_goal(seen, "wrist", 9), rng=0).values == chunk).all()  # not read
    bare = dataclasses.replace(seen, goal_image={})
    assert (policy.act(bare, rng=0, goal={"front": pixels(2)}).values == chunk).all()
    # fresh networks answer 0 or nearly so; what goes into them has to differ, and with weights what comes out too
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    other = policy.act(with_goal(seen, "front", 9), rng=0).values
    assert (other != policy.act(seen, rng=0).values).any()


def test_a_camera_that_is_seen_has_one_encoder(make):
    shared, own = make(), make(goal={"cameras": ["wrist"]})
    assert set(shared.encoder.vision) == {"front"}
    assert set(own.encoder.vision) == {"front", "wrist"}
    assert shared.encoder.widths == own.encoder.widths
    weights = [sum(p.numel() for p in policy.encoder.parameters()) for policy in (shared, own)]
    assert weights[1] == 2 * weights[0]
    # the goal alone has a gradient in the camera's encoder, or in its own one
    for policy, gets in ((shared, "front"), (own, "wrist")):
        features(policy, batch_for(policy)).goal.sum().backward()
        for name, part in policy.encoder.vision.items():
            moved = [p.grad is not None and bool(p.grad.any()) for p in part.parameters()]
            assert any(moved) == (name == gets)


def test_pictures_are_encoded_as_frames_are(make):
    policy = make()
    batch = batch_for(policy)
    found = features(policy, batch)
    still = dataclasses.replace(batch, image={"front": batch.goal_image["front"][:, None].repeat(1, 2, 1, 1, 1)})
    torch.testing.assert_close(found.goal[:, :-1], features(policy, still).steps[:, 0, -6:])
    assert (found.goal[:, -1] == 1).all()
    plain = features(policy, batch, goal_images=None)  # what is seen does not depend on what is wanted
    torch.testing.assert_close(found.steps, plain.steps)
    # random crops in training, as of frames
    crops = [features(policy, batch, augment=True, rng=torch.Generator().manual_seed(s)).goal for s in (0, 0, 1)]
    assert (crops[0] == crops[1]).all()
    assert (crops[0] != crops[2]).any()


def test_one_encoder_for_all_cameras(make, seen):
    policy = make(goal={"cameras": ["wrist"]}, vision={**VISION, "shared": True})
    assert set(policy.encoder.vision) == {"shared"}
    batch = batch_for(policy)
    assert (features(policy, batch).goal != features(policy, batch_for(policy, goal=7)).goal).any()
    assert policy.act(seen, rng=0).values.shape == (15, 10)


def test_a_withheld_picture_is_exactly_nothing(make):
    policy = make(goal={"names": ["cube.x", "lamp"], "cameras": ["front"]})
    keep = torch.tensor([True, False, True, False])
    batch, other = batch_for(policy), batch_for(policy, goal=7)
    assert policy.encoder.widths.goal == 2 + 6 + 1
    one, two = (features(policy, b, keep_goal=keep) for b in (batch, other))
    assert (one.goal[1::2] == 0).all()
    assert (one.goal[::2, 2:] != two.goal[::2, 2:]).any(1).all()  # control
    assert (one.goal[::2, :2] == two.goal[::2, :2]).all()  # the vector is before the picture
    assert (one.steps == two.steps).all()
    nothing = features(policy, batch, goal=None, goal_images=None)
    assert nothing.goal.shape == one.goal.shape
    assert (nothing.goal == 0).all()
    assert (features(policy, batch).with_and_without_goal().goal[4:] == 0).all()


def test_goals_are_withheld_per_sample_in_the_loss(make, monkeypatch):
    policy = make(goal_dropout=0.5).train()
    told = []
    original = policy.network.condition
    monkeypatch.setattr(policy.network, "condition", lambda t, f: told.append(f.goal.detach()) or original(t, f))
    losses = [
        policy.loss(batch_for(policy, 12, goal), rng=torch.Generator().manual_seed(3)).per_sample for goal in (2, 7)
    ]
    kept = told[0][:, -1] == 1
    assert 0 < kept.sum() < 12
    assert (told[0][~kept] == 0).all()
    assert (told[1][~kept] == 0).all()
    assert (told[0][kept] != told[1][kept]).any(1).all()
    assert (losses[0] == losses[1])[~kept].all()
    assert (losses[0] != losses[1])[kept].any()  # control


def test_guidance_without_its_goal_ignores_the_picture(make, seen):
    other = with_goal(seen, "front", 9)
    blind, plain, strict = (make(guidance=g) for g in (0.0, 1.0, 2.0))
    assert (blind.act(seen, rng=0).values == blind.act(other, rng=0).values).all()
    assert (plain.act(seen, rng=0).values != plain.act(other, rng=0).values).any()  # control
    assert (strict.act(seen, rng=0).values != plain.act(seen, rng=0).values).any()


def test_several_observations_at_once(make, seen):
    policy = make()
    asked = [with_goal(seen, "front", seed) for seed in (2, 9)]
    together = policy.act_batch(asked, [0, 0])
    for one, chunk in zip(asked, together, strict=True):
        np.testing.assert_allclose(chunk.values, policy.act(one, rng=0).values, atol=1e-5)
    assert abs(together[0].values - together[1].values).max() > 0


@pytest.mark.parametrize(
    ("goal_image", "words"),
    [
        ({}, r"picture of the goal from camera 'front'; given: .*allowed: .*front"),
        ({"wrist": pixels(0)}, r"picture of the goal from camera 'front'; given: .*wrist"),
        ({"front": pixels(0)[:-1]}, r"picture of the goal from camera 'front'.*31, 32, 3.*uint8 \(32, 32, 3\)"),
        ({"front": pixels(0, 2)}, r"camera 'front'.*2, 32, 32, 3.*uint8 \(32, 32, 3\)"),
        ({"front": pixels(0).astype(np.float32)}, r"camera 'front'.*float32.*uint8 \(32, 32, 3\)"),
    ],
)
def test_observations_without_a_sound_picture(make, seen, goal_image, words):
    with pytest.raises(ShapeError, match=words):
        make().act(dataclasses.replace(seen, goal_image=goal_image), rng=0)


def test_batches_without_the_goal_are_no_goal_withheld(make):
    policy = make(goal={"names": ["cube.x", "lamp"], "cameras": ["front"]})
    batch = batch_for(policy)
    with pytest.raises(ShapeError, match="picture of the goal from camera 'front' is missing"):
        policy.loss(dataclasses.replace(batch, goal_image={}))
    with pytest.raises(ShapeError, match="a vector and pictures, and only one"):
        policy.loss(dataclasses.replace(batch, goal=None))
    assert torch.isfinite(policy.loss(batch).total)


@pytest.mark.parametrize(
    ("family", "network"),
    [("flow", "unet"), ("streaming_diffusion", "dit"), ("behaviour_cloning", "unet"), ("bc_gmm", "robomimic")],
)
def test_other_families_read_pictures_too(make, seen, family, network):
    policy = make(family=family, network=network)
    if family == "bc_gmm":
        seen = dataclasses.replace(
            seen, state=seen.state[1:], time_ns=seen.time_ns[1:], image={k: v[1:] for k, v in seen.image.items()}
        )
    assert policy.spec.goal_cameras == ("front",)
    batch = batch_for(policy)
    batch.image = {"front": batch.image["front"][:, : policy.spec.observation_horizon]}
    policy.loss(batch, rng=torch.Generator().manual_seed(0)).total.backward()
    assert all(p.grad is not None for p in policy.encoder.parameters())
    with torch.no_grad():
        for weight in policy.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    chunk = policy.act(seen, rng=0).values
    assert (policy.act(with_goal(seen, "front", 9), rng=0).values != chunk).any()


def test_who_cannot_read_pictures_says_so(make, tmp_path):
    with pytest.raises(ConfigError, match="feature maps takes no picture of its goal"):
        build_policy("act", {**SEEN, "goal": PICTURE}, embodiment=make().spec.embodiment, normalizer=make().normalizer)
    with pytest.raises(ConfigError, match=r"picture of its goal cannot be exported.*front"):
        export_policy(make(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_mixtures_have_no_goals():
    recipe = play_recipe(PICTURE)
    source = MixtureSource.__new__(MixtureSource)
    source.mixture = SimpleNamespace(stores=())
    with pytest.raises(ConfigError, match=r"mixture hold no goals.*front"):
        source.feed(recipe.stages["policy"], "policy", recipe, 4)


# ------------------------------------------------------------------------------------------------------------ training
def write_play(path, card, pictures=True, episodes=4, length=16):
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, card, task="reach", cameras=("front",)) as store:
        for index in range(episodes):
            start, goal = (rng.uniform([0.35, -0.25, 0.05], [0.65, 0.25, 0.4]) for _ in range(2))
            s = np.linspace(0, 1, length)[:, None]
            state = np.concatenate([start + (goal - start) * s, np.tile([1, 0, 0, 0, -1, 0.0], (length, 1)), 1 - s], 1)
            joints = np.zeros((length, len(card.joints)))
            streams = {"state": state, "action": np.concatenate([state[1:], state[-1:]]), "joint_position": joints}
            streams = {k: v.astype(np.float32) for k, v in (streams | {"joint_command": joints}).items()}
            streams |= {"image/front": pixels(index, length), "time_ns": np.arange(length) * 50_000_000}
            kept = {"goal_image": encode_goal_images({"front": pixels(100 + index)})} if pictures else {}
            store.append(Episode(streams, metadata=kept))
    return path


def play_recipe(goal, **parameters):
    stage = {
        "policy": "beso",
        "steps": 10,
        "batch_size": 6,
        "checkpoint_every": 5,
        "parameters": {**NETWORKS["gpt"], **SEEN, "goal": goal, **parameters},
        "validation": {"fraction": 0.25, "every": 5, "batches": 1},
    }
    return build_config(Recipe, {"seed": 3, "device": "cpu", "log_every": 2, "stages": {"policy": stage}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, card):
    folder = tmp_path_factory.mktemp("goal_images")
    write_play(folder / "play.zarr", card)
    train(play_recipe({**PICTURE, "draws": 2}), folder / "play.zarr", folder / "run", progress=False)
    return folder


def test_five_and_five_steps_are_ten(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "five")
    for path in (tmp_path / "five/checkpoints").glob("*/step_*"):
        if int(path.name.split("_")[1]) > 5:
            shutil.rmtree(path)
    (tmp_path / "five/train.json").unlink(missing_ok=True)
    half = checkpoint.load(checkpoint.latest(tmp_path / "five")).tensors("weights")
    resume(tmp_path / "five", progress=False)
    ten, five = (checkpoint.load(checkpoint.latest(run)) for run in (trained / "run", tmp_path / "five"))
    for kind in ("weights", "ema", "optimizer"):
        one, two = ten.tensors(kind), five.tensors(kind)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(half[name], t) for name, t in ten.tensors("weights").items())  # control


def test_a_checkpoint_reads_the_picture(trained, seen):
    policy = load_policy(trained / "run", device="cpu")
    assert (policy.spec.goal, policy.spec.goal_cameras) == (0, ("front",))
    chunk = policy.act(seen, rng=0).values
    assert (policy.act(with_goal(seen, "front", 9), rng=0).values != chunk).any()
    with pytest.raises(DeployError, match="reads a goal, and the daemon has none"):
        check_policy(str(trained / "run"))


def test_recorded_pictures_are_trained_on(trained, card, tmp_path):
    recipe = play_recipe({"cameras": ["front"], "source": "recorded"})
    train(recipe, trained / "play.zarr", tmp_path / "run", progress=False)
    assert load_policy(tmp_path / "run", device="cpu").spec.goal_cameras == ("front",)
    without = write_play(tmp_path / "without.zarr", card, pictures=False, episodes=2)
    with pytest.raises(DataError, match=r"without\.zarr, episode \d: the episode has no picture of its goal"):
        train(recipe, without, tmp_path / "other", progress=False)


def test_the_recipe_trains(trained, tmp_path):
    stage = "recipe.stages.policy"
    small = (f"{stage}.steps=2", f"{stage}.batch_size=4", f"{stage}.optimizer.warmup_steps=1")
    small += (f"{stage}.parameters.vision.crop=28", f"{stage}.validation.every=0", "recipe.threads=1")
    words = ["train", "recipe=play/beso_image", "progress=false", *small]
    assert main([*words, f"data={trained / 'play.zarr'}", f"out={tmp_path / 'run'}"]) == 0
    spec = load_policy(tmp_path / "run", device="cpu").spec
    assert (spec.cameras, spec.goal_cameras, spec.environment_state) == (("front",), ("front",), 0)
