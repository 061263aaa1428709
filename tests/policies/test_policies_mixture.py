"""One policy of three robots: absent slots have no gradient and no influence; binding, refusals, training, resume."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import mixture_toy

import robopolicy as rp
from robopolicy import checkpoint
from robopolicy.config import build
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError, EmbodimentMismatchError, ShapeError
from robopolicy.policies.loading import load_policy
from robopolicy.subject import find_subject
from robopolicy.training.feed import open_source
from robopolicy.training.recipe import Recipe
from robopolicy.training.run import resume, train
from robopolicy.types import Observation

SMALL = {"unet": {"down": [16, 32], "step_dim": 16}, "sampler": {"steps": 3}}
IMAGE = {"cameras": ["front"], "vision": {"backbone": "CompactConv", "keypoints": 8, "feature_dim": 8, "crop": 14}}


def recipe(steps=6, **parameters):
    stage = {
        "policy": "diffusion",
        "steps": steps,
        "batch_size": 12,
        "checkpoint_every": 3,
        "parameters": {**SMALL, "action_form": "increment", **parameters},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "clip_norm": 1.0},
        "validation": {"fraction": 0.3, "every": 3, "batches": 2},
    }
    return {"seed": 3, "device": "cpu", "log_every": 2, "stages": {"policy": stage}}


def write_yaml(folder, *, images=False, **entries):
    path = folder / "mixture.yaml"
    content = {"stores": mixture_toy.three(folder, images=images), **entries}
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def mixture_yaml(tmp_path_factory):
    return write_yaml(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def image_yaml(tmp_path_factory):
    return write_yaml(tmp_path_factory.mktemp("images"), images=True, image_size=[16, 16])


def feed(path, **parameters):
    built = build(Recipe, recipe(**parameters))
    return open_source(path).feed(built.stages["policy"], "policy", built, 12)


def first_batch(found, steps=1):
    order = found.order(3, 0, steps, 12).reshape(-1)
    return next(iter(found.train.batches(order)))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(policy, batch):
    """Gradient of the loss with respect to the actions and to what the network says, over the slots in use."""
    said = []
    denoise = policy.inner.network.denoise

    def recorded(x, films):
        out = denoise(x, films)
        out.retain_grad()
        said.append(out)
        return out

    policy.inner.network.denoise = recorded
    try:
        action = batch.action.clone().requires_grad_(True)
        policy.zero_grad()
        policy.loss(dataclasses.replace(batch, action=action), rng=rng()).total.backward()
    finally:
        del policy.inner.network.denoise
    return action.grad[..., policy.action_at], said[0].grad


def test_masked_slots_have_exactly_no_gradient(mixture_yaml):
    found = feed(mixture_yaml)
    batch = first_batch(found)
    assert sorted(set(batch.embodiment_index.tolist())) == [0, 1, 2], "three robots in one batch"
    mask = batch.action_mask[..., found.policy.action_at]
    absent = ~mask.any(1)[:, None].expand_as(mask)
    assert absent.any()
    of_action, of_output = gradients(found.policy, batch)
    assert (of_action[absent] == 0).all()
    assert (of_output[~mask] == 0).all(), "absent slots and padding alike"
    assert (of_action[~absent] != 0).any()
    assert (of_output[mask] != 0).any()
    one = batch.embodiment_index == 0  # of the first robot alone: the others' rows of the head learn nothing
    alone = dataclasses.replace(
        batch, action_mask=batch.action_mask & one[:, None, None], state_mask=batch.state_mask & one[:, None]
    )
    gradients(found.policy, alone)
    head, own = found.policy.inner.network.head[-1], found.policy.action_mask[0, found.policy.action_at]
    assert (head.weight.grad[~own] == 0).all()
    assert (head.bias.grad[~own] == 0).all()
    assert (head.weight.grad[own] != 0).any()
    unmasked = dataclasses.replace(batch, action_mask=torch.ones_like(batch.action_mask))  # control: no mask
    assert all((gradient[absent] != 0).any() for gradient in gradients(found.policy, unmasked))


def test_masked_slots_do_not_influence_the_loss(mixture_yaml):
    found = feed(mixture_yaml)
    batch = first_batch(found)
    wanted = found.policy.loss(batch, rng=rng()).total
    spoiled = dataclasses.replace(batch, action=batch.action.clone(), state=batch.state.clone())
    spoiled.action[~batch.action_mask.any(1)[:, None].expand_as(batch.action)] = 9.0
    spoiled.state[~batch.state_mask[:, None].expand_as(batch.state)] = -9.0
    assert found.policy.loss(spoiled, rng=rng()).total == wanted
    spoiled.state[batch.state_mask[:, None].expand_as(batch.state)] += 0.5  # control: present slots do
    assert found.policy.loss(spoiled, rng=rng()).total != wanted


def test_absent_cameras_contribute_nothing(image_yaml):
    found = feed(image_yaml, **IMAGE)
    batch = first_batch(found)
    absent = ~batch.image_mask["front"]
    assert absent.any()
    assert not absent.all()
    wanted = found.policy.eval().loss(batch, rng=rng()).total
    spoiled = dataclasses.replace(batch, image={"front": batch.image["front"].clone()})
    spoiled.image["front"][absent] = 255
    assert found.policy.loss(spoiled, rng=rng()).total == wanted
    spoiled.image["front"][~absent] = 255
    assert found.policy.loss(spoiled, rng=rng()).total != wanted


def test_loss_is_reported_per_robot(mixture_yaml):
    found = feed(mixture_yaml)
    batch = first_batch(found)
    losses = found.policy.loss(batch, rng=rng())
    assert {k for k in losses.parts if "/" in k} == {f"denoising/{n}" for n in ("panda", "ur5e_2f85", "two_arms")}
    weights = torch.bincount(batch.embodiment_index, minlength=3) / len(batch.embodiment_index)
    parts = torch.stack([losses.parts[f"denoising/{c.name}"] for c in found.policy.embodiments])
    torch.testing.assert_close((weights * parts).sum(), losses.total.detach())


def observe(card, view, horizon=2, environment=3, seed=0):
    state, _ = mixture_toy.smooth(card, np.random.default_rng(seed), 30)
    step = round(1e9 / card.control_hz)
    return Observation(
        state=state[:horizon],
        time_ns=1_000_000_000 + step * np.arange(horizon, dtype=np.int64),
        embodiment=card.hash,
        environment_state=np.zeros((horizon, environment), np.float32) if environment else None,
    )


@pytest.mark.parametrize("name", ["panda", "two_arms"])
def test_bound_policy_acts_in_physical_units_and_is_blind_to_absent_slots(mixture_yaml, name):
    policy = feed(mixture_yaml).policy.eval()
    bound = policy.bind(name)
    spec = bound.spec
    observation = observe(spec.embodiment, bound.view, environment=spec.environment_state)
    chunk = bound.act(observation, rng=1)
    assert chunk.values.shape == (15, len(spec.embodiment.action))
    assert (chunk.horizon, chunk.dt_s, chunk.embodiment) == (8, 0.05, spec.embodiment.hash)
    assert spec.environment_state == (3 if name == "panda" else 0)
    assert (policy.act(observation, rng=1).values == chunk.values).all(), "by the observation's embodiment"
    shown = []
    denoise = policy.inner.network.denoise
    policy.inner.network.denoise = lambda x, films: shown.append(x.clone()) or denoise(x, films) + 3.0 * ~mask
    mask = policy.action_mask[bound.index, policy.action_at]
    again = bound.act(observation, rng=1).values
    del policy.inner.network.denoise
    assert (again == chunk.values).all(), "what is said of absent slots is not heard at the next step"
    assert len(shown) == 3
    assert all((x[..., ~mask] == 0).all() and (x[..., mask] != 0).any() for x in shown)
    assert (bound.act(observation, rng=2).values != chunk.values).any()
    first = chunk.values[0, :3] if name == "panda" else chunk.values[0, :6]
    assert np.isfinite(first).all()


def test_refusals_name_the_embodiments(mixture_yaml):
    policy = feed(mixture_yaml).policy
    with pytest.raises(EmbodimentMismatchError, match="allowed: panda, ur5e_2f85, two_arms"):
        policy.bind("xarm")
    with pytest.raises(EmbodimentMismatchError, match="several embodiments"):
        policy.bind(None)
    altered = dataclasses.replace(load_embodiment("panda"), control_hz=10.0)
    with pytest.raises(EmbodimentMismatchError, match="panda"):
        policy.bind(altered)
    single = Path(yaml.safe_load(mixture_yaml.read_text())["stores"][0]["path"])
    found = feed(single)
    with pytest.raises(ConfigError, match="batches of a mixture"):
        policy.loss(next(iter(found.train.batches(np.arange(12)))))


def test_the_normaliser_of_a_robot_is_that_of_its_store_alone(mixture_yaml):
    policy = feed(mixture_yaml, action_form="absolute").policy
    for view, entry in zip(policy.views, yaml.safe_load(mixture_yaml.read_text())["stores"], strict=True):
        alone = feed(Path(entry["path"]), action_form="absolute", environment_state=bool(view.environment_names))
        for name, stream in alone.normalizer.streams.items():
            np.testing.assert_array_equal(view.normalizer.stream(name).scale, stream.scale)
            np.testing.assert_array_equal(view.normalizer.stream(name).offset, stream.offset)
    a, b = policy.views[:2]
    assert (a.normalizer.stream("state").scale != b.normalizer.stream("state").scale).any()


@pytest.fixture(scope="module")
def trained(mixture_yaml, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return out, train(recipe(), mixture_yaml, out, progress=False)


def test_train_save_load_bind(trained, mixture_yaml):
    out, summary = trained
    assert {"validation_loss/panda", "validation_loss/ur5e_2f85", "validation_loss/two_arms"} <= set(
        summary["stages"]["policy"]
    )
    bound = rp.load_policy(out, embodiment="panda")
    card = load_embodiment("panda")
    assert bound.spec.embodiment.hash == card.hash
    chunk = bound.act(observe(card, bound.view), rng=0)
    by_card = load_policy(out, embodiment=card).act(observe(card, bound.view), rng=0)
    assert (chunk.values == by_card.values).all()
    with pytest.raises(EmbodimentMismatchError, match="ur5e_2f85"):
        rp.load_policy(out)
    stored = checkpoint.load(checkpoint.find(out))
    views = stored.document("policy")["parameters"]["views"]
    assert [v["embodiment"]["name"] for v in views] == ["panda", "ur5e_2f85", "two_arms"]
    assert stored.document("data")["stores"][2]["embodiment"]["name"] == "two_arms"


def test_resume_gives_the_same_bits(trained, tmp_path):
    out, _ = trained
    shutil.copytree(out, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints" / "0_policy"
    last, earlier = (checkpoint.load(checkpoint.find(checkpoints / f"step_{n:08d}")) for n in (6, 3))
    assert any((last.tensors("ema")[k] != v).any() for k, v in earlier.tensors("ema").items())  # control
    shutil.rmtree(last.path)
    resume(tmp_path / "run", progress=False)
    again = checkpoint.load(last.path)
    for kind in ("weights", "ema", "optimizer"):
        wanted = checkpoint.load(out / last.path.relative_to(tmp_path / "run")).tensors(kind)
        assert all((again.tensors(kind)[k] == v).all() for k, v in wanted.items())


def test_subject_of_a_mixture_has_to_be_told_which_robot(trained):
    from robopolicy.assess import evaluate

    subject = find_subject(trained[0])
    assert subject.embodiment is None
    with pytest.raises(EmbodimentMismatchError, match="panda, ur5e_2f85, two_arms"):
        evaluate(subject, "pick_place", episodes=range(1))
    with pytest.raises(EmbodimentMismatchError, match="panda, ur5e_2f85, two_arms"):
        evaluate(subject, "pick_place", embodiment="xarm7", episodes=range(1))


def test_the_daemon_takes_the_policy_of_its_robot(trained):
    from robopolicy.deploy.policy_source import build_policy, cameras_of

    out, _ = trained
    panda = load_embodiment("panda")
    assert cameras_of(str(out), panda) == ()
    deploy = types.SimpleNamespace(device="cpu", weights="ema")
    config = types.SimpleNamespace(policy=str(out), deploy=deploy, cameras=())
    assert build_policy(config, panda).spec.embodiment.hash == panda.hash
    with pytest.raises(EmbodimentMismatchError, match="panda, ur5e_2f85, two_arms"):
        cameras_of(str(out), load_embodiment("xarm7"))


def test_left_out_channels_can_be_trained_on_but_not_driven(tmp_path):
    card = dataclasses.replace(load_embodiment("panda"))
    path = mixture_toy.write(tmp_path / "a.zarr", card)
    other = mixture_toy.bimanual(name="odd")
    arms = (other.arms[0], dataclasses.replace(other.arms[1], name="third", gripper="right.gripper"))
    odd = mixture_toy.write(tmp_path / "odd.zarr", dataclasses.replace(other, arms=arms))
    content = {"stores": [{"path": str(path)}, {"path": str(odd), "leave_out_unknown": True}]}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    policy = feed(tmp_path / "m.yaml", environment_state=False).policy
    policy.bind("panda")
    with pytest.raises(ShapeError, match=r"right\.joint0"):
        policy.bind("odd")


def test_another_rate_than_the_robot(tmp_path):
    content = {"stores": mixture_toy.three(tmp_path), "rate_hz": 10.0}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    policy = feed(tmp_path / "m.yaml").policy.eval()
    bound = policy.bind("panda")
    assert bound.spec.observation_horizon == 3  # two observations 100 ms apart are three of the robot's 50 ms
    assert bound.spec.action_horizon == 16
    chunk = bound.act(observe(bound.spec.embodiment, bound.view, horizon=3), rng=0)
    assert chunk.values.shape == (30, 10)
    assert chunk.dt_s == 0.05
    middle = (chunk.values[1, :3] + chunk.values[3, :3]) / 2
    np.testing.assert_allclose(chunk.values[2, :3], middle, atol=1e-9)


def test_the_form_is_the_mixtures_or_else_the_recipes(tmp_path, mixture_yaml):
    assert {v.form for v in feed(mixture_yaml).policy.views} == {"increment"}
    assert {v.form for v in feed(mixture_yaml, action_form="absolute").policy.views} == {"absolute"}
    content = {**yaml.safe_load(mixture_yaml.read_text()), "form": "relative", "frame": "tool"}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    policy = feed(tmp_path / "m.yaml").policy
    assert {(v.form, v.frame) for v in policy.views} == {("relative", "tool")}
    assert policy.inner.config.action_form == "absolute", "what the view undoes is not done twice"


def test_privileged_state_that_nobody_has_is_refused(tmp_path):
    path = mixture_toy.write(tmp_path / "a.zarr", mixture_toy.bimanual())
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"stores": [{"path": str(path)}]}))
    with pytest.raises(ConfigError, match="environment_state"):
        feed(tmp_path / "m.yaml")
    assert feed(tmp_path / "m.yaml", environment_state=False).policy.spec.environment_state == 0


def test_a_role_that_nobody_plays_is_refused(image_yaml):
    with pytest.raises(ConfigError, match="wrist"):
        feed(image_yaml, **{**IMAGE, "cameras": ["front", "wrist"]})


def test_an_empty_store_is_refused(tmp_path):
    entries = mixture_toy.three(tmp_path)
    mixture_toy.write(tmp_path / "none.zarr", mixture_toy.bimanual(name="none"), episodes=0)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"stores": [*entries, {"path": str(tmp_path / "none.zarr")}]}))
    with pytest.raises(DataError, match="no episodes"):
        open_source(tmp_path / "m.yaml")
