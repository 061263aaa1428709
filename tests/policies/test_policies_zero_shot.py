"""A robot that a mixture has not seen: driven with the ranges of one that is named, and never without."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import mixture_toy

import robopolicy as rp
from robopolicy.borrowed_view import borrow_view
from robopolicy.channels import ChannelGroup
from robopolicy.config import build
from robopolicy.data.mixture import Mixture
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, EmbodimentMismatchError, UnknownNameError
from robopolicy.subject import find_subject
from robopolicy.training.feed import open_source
from robopolicy.training.recipe import Recipe
from robopolicy.training.run import train
from robopolicy.types import Observation

PANDA, UR5E, XARM = (load_embodiment(name) for name in ("panda", "ur5e_2f85", "xarm7"))


def recipe():
    stage = {
        "policy": "diffusion",
        "steps": 2,
        "batch_size": 8,
        "parameters": {
            "unet": {"down": [16, 32], "step_dim": 16},
            "sampler": {"steps": 2},
            "action_form": "increment",
            "environment_state": False,
        },
        "optimizer": {"lr": 1e-3, "warmup_steps": 1, "clip_norm": 1.0},
        "validation": {"fraction": 0.3, "every": 2, "batches": 1},
    }
    return {"seed": 3, "device": "cpu", "stages": {"policy": stage}}


def stores(folder):
    return [
        {"path": str(mixture_toy.write(folder / f"{card.name}.zarr", card, seed=seed))}
        for seed, card in enumerate((PANDA, UR5E))
    ]


@pytest.fixture(scope="module")
def mixture_yaml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"stores": stores(folder)}))
    return path


@pytest.fixture(scope="module")
def policy(mixture_yaml):
    made = build(Recipe, recipe(), where="recipe")
    return open_source(mixture_yaml).feed(made.stages["policy"], "policy", made, 8).policy.eval()


def seen(card):
    rows = 2
    state, _ = mixture_toy.smooth(PANDA, np.random.default_rng(4), rows)
    return Observation(state, np.arange(rows, dtype=np.int64) * 50_000_000, card.hash)


def test_the_new_robot_is_driven_with_the_numbers_of_the_lender(policy):
    lent = policy.bind("xarm7", like="panda")
    assert lent.spec.embodiment.hash == XARM.hash
    chunk = lent.act(seen(XARM), rng=0)
    assert chunk.embodiment == XARM.hash
    own = policy.bind("panda").act(seen(PANDA), rng=0)
    assert np.array_equal(chunk.values, own.values)
    other = policy.bind("xarm7", like="ur5e_2f85").act(seen(XARM), rng=0)
    assert not np.array_equal(chunk.values, other.values), "control: another lender, other numbers"


def test_never_without_being_asked(policy):
    for robot in ("xarm7", XARM):
        with pytest.raises(EmbodimentMismatchError, match="like=NAME"):
            policy.bind(robot)


def test_only_a_robot_of_the_mixture_lends_and_only_to_a_new_one(policy):
    with pytest.raises(EmbodimentMismatchError, match=r"'like'.*panda, ur5e_2f85"):
        policy.bind("xarm7", like="xarm7")
    with pytest.raises(EmbodimentMismatchError, match="ranges of its own"):
        policy.bind("ur5e_2f85", like="panda")
    with pytest.raises(UnknownNameError, match="xarm7"):
        policy.bind("xarm8", like="panda")


def test_joints_are_not_lent(policy):
    with pytest.raises(EmbodimentMismatchError, match=r"robot's own.*shoulder_pan"):
        policy.bind("so101", like="panda")
    tall = dataclasses.replace(XARM, action_space="joint_position")
    with pytest.raises(EmbodimentMismatchError, match=r"action channels.*joint1"):
        policy.bind(tall, like="panda")


def test_a_camera_that_is_missing_is_told(policy):
    views = [dataclasses.replace(policy.views[0], cameras={"front": "front"})]
    blind = dataclasses.replace(XARM, cameras=())
    with pytest.raises(EmbodimentMismatchError, match="no camera 'front'"):
        borrow_view(views, blind, "panda", where="it")
    assert borrow_view(views, XARM, "panda", where="it")[1].cameras == {"front": "front"}


def test_ranges_follow_the_meaning_of_a_channel_and_not_its_place(policy):
    def turned(group):
        return ChannelGroup(tuple(reversed(group.channels)))

    card = dataclasses.replace(
        XARM,
        state_space="custom",
        action_space="custom",
        custom_state=turned(XARM.state),
        custom_action=turned(XARM.action),
    )
    _, straight = borrow_view(policy.views, XARM, "panda", where="it")
    _, reverse = borrow_view(policy.views, card, "panda", where="it")
    state, action = mixture_toy.smooth(PANDA, np.random.default_rng(4), 5)
    assert np.array_equal(straight.forward_state(state), reverse.forward_state(state[:, ::-1]))
    ranges = straight.normalizer.stream("action").scale, reverse.normalizer.stream("action").scale
    assert np.array_equal(ranges[0], ranges[1][::-1])
    assert not np.array_equal(ranges[0], ranges[1])
    # and back: what is said comes out in this robot's order
    chunk = np.repeat(action[:1], 4, axis=0)
    there = reverse.forward_action(chunk[:, ::-1], state[0, ::-1])
    assert np.allclose(reverse.backward_action(there, state[0, ::-1]), chunk[:, ::-1], atol=1e-6)


def test_from_a_checkpoint_to_a_report_that_says_so(mixture_yaml, tmp_path):
    from robopolicy.assess import evaluate

    run = tmp_path / "run"
    train(recipe(), str(mixture_yaml), run, progress=False)
    with pytest.raises(EmbodimentMismatchError, match="like=NAME"):
        rp.load_policy(run, embodiment="xarm7")
    with pytest.raises(EmbodimentMismatchError, match="names no robot"):
        rp.load_policy(run, like="panda")
    lent = rp.load_policy(run, embodiment="xarm7", like="panda")
    assert lent.spec.embodiment.hash == XARM.hash
    with pytest.raises(EmbodimentMismatchError, match="like=NAME"):
        evaluate(find_subject(run), "pick_place", embodiment="xarm7", episodes=range(1))
    report = evaluate(run, "pick_place", embodiment="xarm7", like="panda", episodes=range(1), out=tmp_path / "eval")
    assert report["header"]["embodiment"] == "xarm7"
    assert report["header"]["extra"]["like"] == "panda"
    own = evaluate(run, "pick_place", embodiment="panda", episodes=range(1))
    assert "like" not in own["header"]["extra"]


def test_a_baseline_has_nothing_to_lend():
    from robopolicy.assess import evaluate

    with pytest.raises(EmbodimentMismatchError, match="nothing to lend"):
        evaluate("null", "pick_place", embodiment="xarm7", like="panda", episodes=range(1))


def views_of(entries, privileged=False):
    mixture = Mixture.open({"stores": entries})
    training, _ = mixture.split(0.0, 0)
    return mixture, mixture.views(2, 8, form="increment", environment_state=privileged, roles=(), episodes=training)


def test_robots_of_a_mixture_share_the_ranges_of_one_where_asked(tmp_path):
    entries = stores(tmp_path)
    apart, own = views_of(entries)
    together, shared = views_of([entries[0], {**entries[1], "like": "panda"}])
    assert apart.content_hash != together.content_hash
    scales = [view.normalizer.stream("state").scale for view in shared]
    assert np.array_equal(*scales)
    assert not np.array_equal(scales[1], own[1].normalizer.stream("state").scale)
    assert shared[1].embodiment.hash == UR5E.hash
    assert shared[0].to_dict() == own[0].to_dict()
    with pytest.raises(EmbodimentMismatchError, match="'like'"):
        views_of([{**entries[0], "like": "ur5e_2f85"}, {**entries[1], "like": "panda"}])
    again = {"path": str(mixture_toy.write(tmp_path / "more.zarr", UR5E, seed=8)), "like": "xarm7"}
    with pytest.raises(ConfigError, match="like several"):
        views_of([entries[0], {**entries[1], "like": "panda"}, again])


def test_ranges_of_privileged_state_are_not_mixed_up(tmp_path):
    names = ((PANDA, ("cube.x", "goal.x")), (UR5E, ("goal.x", "cube.x")))
    entries = [
        {"path": str(mixture_toy.write(tmp_path / f"{card.name}.zarr", card, environment=own))} for card, own in names
    ]
    entries[1]["like"] = "panda"
    assert len(views_of(entries)[1]) == 2
    with pytest.raises(ConfigError, match="environment_state"):
        views_of(entries, privileged=True)
