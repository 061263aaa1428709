"""BESO: goals by name, guidance, samplers chosen after training, and training on goals in hindsight end to end."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from robopolicy import checkpoint
from robopolicy.cli.eval import split_overrides
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.errors import ConfigError, ShapeError
from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy, load_policy
from robopolicy.protocols import Policy, TrainablePolicy
from robopolicy.schema import build as build_config
from robopolicy.subject import find_subject
from robopolicy.training.recipe import Recipe
from robopolicy.training.run import resume, train
from robopolicy.types import Batch

GPT = {"width": 16, "layers": 2, "heads": 2, "attention_dropout": 0.3}
GOAL = {"names": ["cube.x", "lamp"], "future": [1, 12], "draws": 2}
ENVIRONMENT = ("cube.x", "cube.y", "lamp")
TASK_GOAL = ("bit", "lamp", "cube.x")
"""Names of the goal that an environment gives; the policy reads two of them, in another order."""


@pytest.fixture
def beso(panda, normalizer):
    stream = normalizer.stream("environment_state")
    goal = type(stream)(stream.scale[[0, 2]], stream.offset[[0, 2]])
    ranges = Normalizer({**normalizer.streams, "goal": goal})

    def build(**parameters):
        torch.manual_seed(0)
        return build_policy(
            "beso", {"gpt": GPT, "goal": GOAL, **parameters}, embodiment=panda, normalizer=ranges, environment_state=3
        ).eval()

    return build


@pytest.fixture
def seen(observation):
    return dataclasses.replace(
        observation,
        environment_names=ENVIRONMENT,
        goal=np.array([1.0, 0.25, -0.5], np.float32),
        goal_names=TASK_GOAL,
    )


def batch_for(policy, n=8):
    draw = torch.Generator().manual_seed(0)
    card = policy.spec.embodiment
    low, high = (torch.tensor(v).float() for v in (card.action.lower, card.action.upper))
    action = low + (high - low) * torch.rand(n, policy.spec.prediction_horizon, len(low), generator=draw)
    return Batch(
        state=action[:, : policy.spec.observation_horizon].clone(),
        action=action,
        action_mask=torch.ones(action.shape, dtype=torch.bool),
        embodiment=card.hash,
        environment_state=torch.rand(n, policy.spec.observation_horizon, 3, generator=draw),
        goal=torch.rand(n, 2, generator=draw),
    )


def test_protocols_and_spec(beso):
    policy = beso()
    assert isinstance(policy, Policy)
    assert isinstance(policy, TrainablePolicy)
    assert (policy.spec.goal, policy.spec.goal_names) == (2, ("cube.x", "lamp"))
    assert policy.process.prediction == "edm"
    np.testing.assert_allclose(policy.grid.sigma, [1.0, 0.005**0.5, 0.005, 0.0], rtol=1e-6)  # exponential, three steps


def test_goal_is_taken_by_name(beso, seen):
    policy = beso()
    chunk = policy.act(seen, rng=0).values
    cut = dataclasses.replace(seen, goal=np.array([-0.5, 0.25], np.float32), goal_names=())
    assert (policy.act(cut, rng=0).values == chunk).all()
    assert (policy.act(seen, rng=0, goal=[-0.5, 0.25]).values == chunk).all()
    unread = dataclasses.replace(seen, goal=np.array([0.0, 0.25, -0.5], np.float32))
    assert (policy.act(unread, rng=0).values == chunk).all()
    other = dataclasses.replace(seen, goal=np.array([1.0, 0.25, 0.5], np.float32))
    assert (policy.act(other, rng=0).values != chunk).any()  # control


def test_privileged_state_is_taken_by_name(beso, seen):
    policy = beso(environment_names=["lamp", "cube.x", "cube.y"])
    more = np.array([[9.0, 0.1, 0.2, 0.3]] * 2, np.float32)
    wide = dataclasses.replace(seen, environment_state=more, environment_names=("wanted", "cube.x", "cube.y", "lamp"))
    same = dataclasses.replace(seen, environment_state=more[:, [3, 1, 2]], environment_names=())
    assert (policy.act(wide, rng=0).values == policy.act(same, rng=0).values).all()
    swapped = dataclasses.replace(same, environment_state=more[:, [1, 3, 2]])
    assert (policy.act(swapped, rng=0).values != policy.act(same, rng=0).values).any()  # control


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goal": None}, "reads 'goal', the observation has none"),
        ({"goal_names": ("bit", "lamp", "cube.y")}, r"no entries \['cube.x'\].*bit, lamp, cube.y"),
        ({"goal_names": ()}, "'goal' has the wrong shape"),
    ],
)
def test_observations_without_the_goal(beso, seen, change, words):
    with pytest.raises(ShapeError, match=words):
        beso().act(dataclasses.replace(seen, **change), rng=0)


def test_guidance_mixes_with_and_without_goal(beso, seen):
    other = dataclasses.replace(seen, goal=np.array([1.0, 1.0, 0.9], np.float32))
    blind, plain = beso(guidance=0.0), beso()
    assert (blind.act(seen, rng=0).values == blind.act(other, rng=0).values).all()
    assert (plain.act(seen, rng=0).values != plain.act(other, rng=0).values).any()
    # one step of DDIM is the prediction itself, so guidance shows as the line through its two ends
    one = {"kind": "ddim", "steps": 1, "spacing": "exponential"}
    found = {g: beso(guidance=g, sampler=one).act(seen, rng=0).values for g in (0.0, 0.5, 1.0, 1.5)}
    np.testing.assert_allclose(found[0.5], (found[0.0] + found[1.0]) / 2, atol=1e-6)
    np.testing.assert_allclose(found[1.5], found[0.0] + 1.5 * (found[1.0] - found[0.0]), atol=1e-6)
    assert abs(found[1.0] - found[0.0]).max() > 1e-4


def test_goals_are_withheld_per_sample(beso, monkeypatch):
    policy = beso(goal_dropout=0.4).train()
    told = []
    original = policy.network.condition
    monkeypatch.setattr(policy.network, "condition", lambda t, f: told.append(f.goal) or original(t, f))
    for seed in range(40):
        policy.loss(batch_for(policy), rng=torch.Generator().manual_seed(seed))
    rows = torch.cat(told)
    given = rows[:, -1] == 1
    assert (rows[~given] == 0).all()  # every entry of it, or none
    assert ((rows[given, :-1] != 0).any(1)).all()
    assert abs(1 - given.float().mean() - 0.4) < 4 * (0.24 / len(rows)) ** 0.5


@pytest.mark.parametrize("kind", ["ddim", "euler_ancestral", "heun", "dpmpp_2m"])
def test_samplers_after_training(beso, seen, panda, kind):
    policy = beso()
    before, weights = policy.act(seen, rng=0).values, [p.clone() for p in policy.parameters()]
    policy.change({"sampler": {"kind": kind, "steps": 5, "spacing": "karras"}, "guidance": 1.5, "action_horizon": 4})
    chunk = policy.act(seen, rng=0)
    assert chunk.horizon == policy.spec.action_horizon == 4
    assert (chunk.values >= panda.action.lower - 1e-6).all()
    assert (chunk.values <= panda.action.upper + 1e-6).all()
    assert (chunk.values != before).any()
    assert (policy.act(seen, rng=0).values == chunk.values).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, policy.parameters(), strict=True))
    stored = policy.description()
    assert stored["parameters"]["sampler"]["kind"] == stored["schedule"]["sampler"]["kind"] == kind


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpt": {"width": 32}}, "policy.gpt: decides the weights.*allowed: action_horizon, guidance, sampler"),
        ({"karras": {"sigma_min": 0.1}}, "policy.karras: decides the weights or what they mean"),
        ({"prediction_horizon": 8, "goal": 0}, "(?s)policy.prediction_horizon.*policy.goal"),
        ({"guidanse": 1.5}, "did you mean 'guidance'"),
        ({"sampler": {"kind": "ddpm"}}, "'ddpm' cannot sample a process"),
        ({"sampler": {"spacing": "trailing"}}, "unknown spacing"),
        ({"sampler": {"step": 5}}, "policy.sampler.step: unknown key"),
        ({"action_horizon": 16}, "To-1"),
    ],
)
def test_what_may_not_be_changed_is_refused_and_changes_nothing(beso, seen, changes, words):
    policy = beso()
    before, config, spec = policy.act(seen, rng=0).values, policy.config, policy.spec
    with pytest.raises(ConfigError, match=words):
        policy.change({"guidance": 0.5, **changes})
    assert (policy.config, policy.spec) == (config, spec)
    assert (policy.act(seen, rng=0).values == before).all()


def test_guidance_needs_a_goal_that_was_withheld(beso):
    with pytest.raises(ConfigError, match="trained with and without its goal"):
        beso(goal_dropout=0.0, guidance=1.5)
    policy = beso(goal_dropout=0.0)
    with pytest.raises(ConfigError, match="trained with and without its goal"):
        policy.change({"guidance": 1.5})


def test_single_actions_as_published(beso, seen):
    policy = beso(observation_horizon=2, prediction_horizon=2, action_horizon=1)
    assert policy.act(seen, rng=0).values.shape == (1, 10)
    assert torch.isfinite(policy.loss(batch_for(policy), rng=torch.Generator().manual_seed(0)).total)


def test_acting_knows_no_dropout(beso, seen):
    policy = beso()
    quiet = policy.act(seen, rng=0).values
    policy.train()
    assert (policy.act(seen, rng=0).values == quiet).all()
    assert policy.training
    draws = [policy.loss(batch_for(policy), rng=torch.Generator().manual_seed(0)).total.item() for _ in range(2)]
    assert draws[0] != draws[1]  # control: there is dropout to be left out


def write_play(path, card, episodes=5, length=24):
    """Episodes in which the hand goes where the cube then is."""
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, card, task="reach", environment_state=ENVIRONMENT) as store:
        for _ in range(episodes):
            start, goal = (rng.uniform([0.35, -0.25, 0.05], [0.65, 0.25, 0.4]) for _ in range(2))
            s = np.linspace(0, 1, length)[:, None]
            state = np.concatenate([start + (goal - start) * s, np.tile([1, 0, 0, 0, -1, 0.0], (length, 1)), 1 - s], 1)
            joints = np.zeros((length, len(card.joints)), np.float32)
            streams = {"state": state, "action": np.concatenate([state[1:], state[-1:]]), "joint_position": joints}
            streams |= {"joint_command": joints, "environment_state": np.concatenate([state[:, :2], s > 0.5], 1)}
            streams = {name: np.asarray(values, np.float32) for name, values in streams.items()}
            store.append(Episode({**streams, "time_ns": np.arange(length) * 50_000_000}))
    return path


def play_recipe(**parameters):
    stage = {
        "policy": "beso",
        "steps": 10,
        "batch_size": 12,
        "checkpoint_every": 5,
        "parameters": {"gpt": GPT, "goal": GOAL, **parameters},
        "validation": {"fraction": 0.2, "every": 4, "batches": 2},
    }
    return build_config(Recipe, {"seed": 3, "device": "cpu", "log_every": 2, "stages": {"policy": stage}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory, panda):
    folder = tmp_path_factory.mktemp("beso")
    store = write_play(folder / "play.zarr", panda)
    train(play_recipe(environment_names=["cube.y", "lamp"]), store, folder / "run", progress=False)
    return folder


def test_five_and_five_steps_are_ten(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "five")
    for path in (tmp_path / "five/checkpoints").glob("*/step_*"):
        if int(path.name.split("_")[1]) > 5:
            shutil.rmtree(path)
    (tmp_path / "five/train.json").unlink(missing_ok=True)
    half = checkpoint.load(checkpoint.latest(tmp_path / "five"))
    resume(tmp_path / "five", progress=False)
    ten, five = (checkpoint.load(checkpoint.latest(run)) for run in (trained / "run", tmp_path / "five"))
    for kind in ("weights", "ema", "optimizer"):
        one, two = ten.tensors(kind), five.tensors(kind)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(half.tensors("weights")[name], t) for name, t in ten.tensors("weights").items())


def test_ranges_are_those_of_the_columns(trained):
    policy = load_policy(trained / "run", device="cpu")
    assert policy.spec.environment_names == ("cube.y", "lamp")
    found = EpisodeStore.open(trained / "play.zarr").statistics("environment_state")
    for stream, columns in (("goal", [0, 2]), ("environment_state", [1, 2])):
        ends = policy.normalizer.stream(stream).normalize(np.stack([found.min[columns], found.max[columns]]))
        np.testing.assert_allclose(ends, [[-1, -1], [1, 1]])


def test_loading_with_other_parameters(trained, seen):
    run = trained / "run"
    policy = load_policy(run, device="cpu", overrides={"sampler": {"kind": "heun", "steps": 2}, "guidance": 0.5})
    assert (policy.sampler.kind, policy.sampler.steps, policy.sampler.spacing) == ("heun", 2, "exponential")
    assert policy.config.guidance == 0.5
    plain = load_policy(run, device="cpu")
    assert (policy.act(seen, rng=0).values != plain.act(seen, rng=0).values).any()
    with pytest.raises(ConfigError, match=r"policy\.network: decides the weights"):
        load_policy(run, device="cpu", overrides={"network": "unet"})


def test_subjects_with_other_parameters(trained, panda):
    run = trained / "run"
    subject = find_subject(run, device="cpu", overrides={"sampler": {"steps": 2}, "action_horizon": 3})
    assert subject.name == "beso[action_horizon=3 sampler.steps=2]"
    assert find_subject(run, overrides={}).name == find_subject(run).name == "beso"
    assert subject.factory(None).spec.action_horizon == 3
    with pytest.raises(ConfigError, match=r"policy\.goal_dropout: decides"):
        find_subject(run, overrides={"goal_dropout": 0.5})
    with pytest.raises(ConfigError, match="'null' has no parameters"):
        find_subject("null", overrides={"guidance": 1.0})


def test_stores_that_do_not_have_what_is_named(trained, tmp_path):
    from robopolicy.errors import DataError

    for parameters, words in (
        ({"goal": {**GOAL, "names": ["cube.z"]}}, "no entries.*cube.z"),
        ({"environment_names": ["lamp", "drawer"]}, "no entries.*drawer"),
        ({"goal": 4}, "no goal to take goals from"),
    ):
        with pytest.raises(DataError, match=words):
            train(play_recipe(**parameters), trained / "play.zarr", tmp_path / "run", progress=False)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_words_of_eval():
    words = ["runs/a", "policy.sampler.kind=heun", "policy.sampler.steps=5", "episodes=3", "policy.guidance=1.5"]
    own, overrides = split_overrides(words)
    assert own == ["runs/a", "episodes=3"]
    assert overrides == {"sampler": {"kind": "heun", "steps": 5}, "guidance": 1.5}
    assert split_overrides(["policy=null"]) == (["policy=null"], {})
    for faulty in (["policy.guidance"], ["policy.guidance="], ["policy.=1"], ["policy.sampler={"]):
        with pytest.raises(ConfigError, match=r"policy\."):
            split_overrides(faulty)
    for twice in (["policy.a=1", "policy.a=2"], ["policy.sampler=5", "policy.sampler.steps=5"]):
        with pytest.raises(ConfigError, match="given twice"):
            split_overrides(twice)


def test_the_difference_to_the_goal_is_a_feature_and_is_withheld_with_it(beso):
    policy = beso(goal={**GOAL, "difference": True}, environment_names=list(ENVIRONMENT))
    plain = beso(environment_names=list(ENVIRONMENT))
    assert policy.encoder.widths.goal == plain.encoder.widths.goal + 2
    state = torch.zeros(1, policy.spec.observation_horizon, len(policy.spec.embodiment.state))
    environment = torch.tensor([[[0.1, 0.2, 0.0], [0.3, 0.1, 1.0]]])[:, -policy.spec.observation_horizon :]

    def told(goal, **more):
        with torch.no_grad():
            return policy.encoder(state, environment, {}, goal=goal, **more).goal[0]

    there = told(torch.tensor([[0.3, 1.0]]))  # entries cube.x and lamp, as they are in the last observation
    assert there[2:4].tolist() == [0.0, 0.0]
    other = told(torch.tensor([[0.5, 0.0]]))
    scale = policy.encoder.goal.scale
    assert other[2:4].tolist() == pytest.approx([0.2 * scale[0].item(), -1.0 * scale[1].item()], rel=1e-5)
    assert not told(None).any()
    assert not told(torch.tensor([[0.5, 0.0]]), keep_goal=torch.tensor([False])).any()


def test_a_difference_to_what_is_not_observed_is_refused(beso):
    with pytest.raises(ConfigError, match=r"goal.difference needs every entry"):
        beso(goal={**GOAL, "difference": True})
