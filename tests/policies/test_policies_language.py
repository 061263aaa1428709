"""Policies that are told what to do: in training, in a checkpoint, in a mixture of stores, when acting."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robopolicy import checkpoint
from robopolicy.config import build
from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError, UnknownNameError
from robopolicy.models.vision import VisionConfig
from robopolicy.policies import build_policy, load_policy
from robopolicy.training.recipe import Recipe
from robopolicy.training.run import resume, train
from robopolicy.types import Batch, Observation

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from language_toy import write_sentence_encoder

SIDES = {"go left": 0.1, "go right": -0.1}
TABLE = {"kind": "table", "width": 8}
STREAMS = ("state", "action")
NETWORK = {"unet": {"down": [16, 32], "step_dim": 16}, "sampler": {"steps": 4}}


def write_store(path, instructions, length=20):
    """One motion per instruction from one and the same state: only the words tell them apart."""
    card = load_embodiment("panda")
    with EpisodeStore.create(path, card, task="sides", environment_state=("nothing.x",)) as store:
        for text in instructions:
            s = np.linspace(0, 1, length)[:, None]
            position = np.array([0.5, 0.0, 0.2]) + s * np.array([0.0, SIDES.get(text, 0.0), 0.0])
            turned = np.tile([1, 0, 0, 0, -1, 0.0], (length, 1))
            state = np.concatenate([position, turned, np.ones((length, 1))], axis=1).astype(np.float32)
            joints = np.zeros((length, len(card.joints)), np.float32)
            streams = {
                "state": state,
                "action": np.concatenate([state[1:], state[-1:]]),
                "environment_state": np.zeros((length, 1), np.float32),
                "joint_position": joints,
                "joint_command": joints,
                "time_ns": np.arange(length, dtype=np.int64) * 50_000_000,
            }
            store.append(Episode(streams, language=text))
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("language") / "sides.zarr", [*SIDES] * 3)


def recipe(steps, policy="diffusion", **parameters):
    stage = {
        "policy": policy,
        "steps": steps,
        "batch_size": 12,
        "checkpoint_every": 3,
        "parameters": {**NETWORK, "environment_state": False, "language": TABLE, **parameters},
        "optimizer": {"lr": 5e-3, "warmup_steps": 3, "clip_norm": 1.0},
        "validation": {"fraction": 0.3, "every": 3, "batches": 1},
    }
    if policy == "behaviour_cloning":
        del stage["parameters"]["sampler"]
    return build(Recipe, {"seed": 3, "device": "cpu", "log_every": 2, "stages": {"policy": stage}})


def observation(text="", card=None):
    card = card or load_embodiment("panda")
    state = np.tile([0.5, 0, 0.2, 1, 0, 0, 0, -1, 0, 1], (2, 1)).astype(np.float32)
    return Observation(state, np.array([1_000_000_000, 1_050_000_000]), card.hash, language=text)


def test_the_vocabulary_of_the_store_travels_in_the_checkpoint(store, tmp_path):
    train(recipe(3), store, tmp_path / "run", progress=False)
    described = checkpoint.load(checkpoint.latest(tmp_path / "run")).document("policy")
    assert described["parameters"]["language"]["vocabulary"] == ["go left", "go right"]
    policy = load_policy(tmp_path / "run")
    left, right = (policy.act(observation(text), rng=0).values for text in SIDES)
    assert not np.allclose(left, right)
    assert np.array_equal(left, policy.act(observation("Go  LEFT"), rng=0).values)
    with pytest.raises(UnknownNameError, match=r"not trained on.*'go up'.*'go left', 'go right'"):
        policy.act(observation("go up"), rng=0)
    with pytest.raises(UnknownNameError, match="reads an instruction"):
        policy.act(observation(), rng=0)


def test_three_steps_and_three_more_are_six(store, tmp_path):
    train(recipe(6), store, tmp_path / "whole", progress=False)
    whole = checkpoint.load(checkpoint.latest(tmp_path / "whole"))
    train(recipe(6), store, tmp_path / "cut", progress=False)
    newest = checkpoint.latest(tmp_path / "cut")
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    (tmp_path / "cut" / "train.json").unlink()
    resume(tmp_path / "cut", progress=False)
    again = checkpoint.load(checkpoint.latest(tmp_path / "cut"))
    for kind in ("weights", "ema"):
        one, two = whole.tensors(kind), again.tensors(kind)
        assert one.keys() == two.keys()
        assert "encoder.language.table.weight" in one
        assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def two_ways(store):
    """The first chunk of both motions: one state, two instructions."""
    with EpisodeStore.open(store) as opened:
        state, action = (np.stack([np.array(opened.read(n, i * 20, i * 20 + 16)) for i in range(2)]) for n in STREAMS)
    return Batch(
        state=torch.as_tensor(state[:, :1].repeat(2, 1)),
        action=torch.as_tensor(action),
        action_mask=torch.ones(2, 16, 10, dtype=torch.bool),
        embodiment=load_embodiment("panda").hash,
        language=[*SIDES],
    )


def make(policy, language):
    torch.manual_seed(0)
    card = load_embodiment("panda")
    parameters = {"unet": NETWORK["unet"], "environment_state": False, "language": language}
    return build_policy(policy, parameters, embodiment=card, normalizer=ranges(card))


def test_words_alone_decide_the_motion(two_ways):
    """Regression has one answer per observation: with words one for each, without (the control) one in between."""

    def trained(language):
        policy = make("behaviour_cloning", language)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)
        for _ in range(100):
            optimizer.zero_grad()
            policy.loss(two_ways).total.backward()
            optimizer.step()
        return [policy.eval().act(observation(text)).values[10, 1] for text in SIDES]

    left, right = trained({**TABLE, "vocabulary": sorted(SIDES)})
    assert left > 0.005
    assert right < -0.005
    left, right = trained({"kind": "none"})
    assert left == right
    assert abs(left) < 0.03


@pytest.mark.parametrize("policy", ["behaviour_cloning", "diffusion", "flow"])
def test_the_table_is_learnt_by_every_family(two_ways, policy):
    made = make(policy, {**TABLE, "vocabulary": sorted(SIDES)})
    for parameter in made.network.parameters():
        parameter.data.add_(0.01)  # some networks start with an answer of 0, which nothing changes
    made.loss(two_ways, rng=torch.Generator().manual_seed(0)).total.backward()
    assert (made.encoder.language.table.weight.grad.abs().sum(1) > 0).all()
    swapped = dataclasses.replace(two_ways, language=[*SIDES][::-1])
    losses = [made.loss(b, rng=torch.Generator().manual_seed(0)).total for b in (two_ways, swapped, two_ways)]
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]


def ranges(card):
    from robopolicy.normalize import Normalizer

    low, high = np.r_[0.4, -0.15, 0.1, -np.ones(6), 0.0], np.r_[0.6, 0.15, 0.3, np.ones(6), 1.0]
    return Normalizer.from_statistics({name: {"min": low, "max": high} for name in ("state", "action")}, card)


def test_a_mixture_of_stores_passes_words_on(tmp_path):
    for name, texts in (("a", ["go left"]), ("b", ["go right"])):
        write_store(tmp_path / f"{name}.zarr", texts * 2)
    (tmp_path / "both.yaml").write_text(
        "stores:\n" + "".join(f"  - {{path: {tmp_path}/{name}.zarr, weight: 1}}\n" for name in "ab")
    )
    train(recipe(2), tmp_path / "both.yaml", tmp_path / "run", progress=False)
    policy = load_policy(tmp_path / "run")
    left, right = (policy.act(observation(text), rng=0).values for text in SIDES)
    assert not np.allclose(left, right)
    with pytest.raises(UnknownNameError, match="go left"):
        policy.act(observation("go up"), rng=0)


def test_a_sentence_encoder_is_not_needed_again(store, tmp_path):
    folder = write_sentence_encoder(tmp_path / "mini")
    train(
        recipe(2, language={"kind": "sentence", "width": 8, "weights": str(folder)}),
        store,
        tmp_path / "run",
        progress=False,
    )
    folder.rename(tmp_path / "moved")
    policy = load_policy(tmp_path / "run")
    left, right = (policy.act(observation(text), rng=0).values for text in SIDES)
    assert not np.allclose(left, right)
    with pytest.raises(ConfigError, match="no sentence encoder"):
        policy.act(observation("go up"), rng=0)


def test_data_without_words_are_refused(tmp_path):
    silent = write_store(tmp_path / "silent.zarr", ["", ""])
    with pytest.raises(DataError, match="no instruction"):
        train(recipe(2), silent, tmp_path / "run", progress=False)
    card = load_embodiment("panda")
    with pytest.raises(ConfigError, match="needs a vocabulary"):
        build_policy(
            "diffusion",
            {**NETWORK, "environment_state": False, "language": TABLE},
            embodiment=card,
            normalizer=ranges(card),
        )


def test_pretrained_weights_come_with_the_checkpoint(tmp_path):
    """A policy that was filled from a file of weights is rebuilt without it, frozen statistics included."""
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r.safetensors")
    card = load_embodiment("panda")
    vision = {"backbone": "resnet18", "crop": 64, "shared": True, "weights": str(tmp_path / "r.safetensors")}
    parameters = {**NETWORK, "environment_state": False, "cameras": ["front", "wrist"], "vision": vision}
    policy = build_policy("diffusion", parameters, embodiment=card, normalizer=ranges(card)).eval()
    described = policy.description()["parameters"]
    assert described["vision"]["weights"] == "stored"
    (tmp_path / "r.safetensors").unlink()
    again = build_policy("diffusion", described, embodiment=card, normalizer=ranges(card)).eval()
    again.load_state_dict(policy.state_dict())
    size = (card.camera("front").height, card.camera("front").width)
    image = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    seen = dataclasses.replace(observation(), image={"front": image, "wrist": image})
    assert np.array_equal(policy.act(seen, rng=0).values, again.act(seen, rng=0).values)
    assert build(VisionConfig, described["vision"]).stored() == build(VisionConfig, described["vision"])
