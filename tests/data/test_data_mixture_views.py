"""A view forward and backward is the identity; its ranges are its own robot's; forms are what they say."""

from __future__ import annotations

import mixture_toy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.chunk_forms import CHUNK_FORMS, CHUNK_FRAMES, ChunkForm
from robopolicy.data.mixture import Mixture
from robopolicy.data.store import EpisodeStore
from robopolicy.data.view_fit import fit_normalizer
from robopolicy.embodiment import load_embodiment
from robopolicy.embodiment_view import EmbodimentView, find_view, stored_views
from robopolicy.errors import ConfigError, EmbodimentMismatchError
from robopolicy.normalize import Normalizer
from robopolicy.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from robopolicy.slots import SLOTS, channel_slots

CARDS = {
    "panda": load_embodiment("panda"),
    "joints": mixture_toy.bimanual(),
    "hands": mixture_toy.bimanual(hands=6),
    "two_poses": load_embodiment("umi_bimanual"),
}


def chunk_of(card, seed, horizon=8):
    """(action [horizon, A], newest state [S]) of a smooth reach, f64."""
    state, action = mixture_toy.smooth(card, np.random.default_rng(seed), horizon + 2)
    return action[:horizon].astype(float), state[1].astype(float)


def view_of(tmp_path, card, form="increment", frame="base"):
    store = EpisodeStore.open(mixture_toy.write(tmp_path / f"{card.name}.zarr", card))
    episodes = np.arange(store.num_episodes)
    return EmbodimentView(
        embodiment=card,
        normalizer=fit_normalizer([(store, episodes)], form, frame, 2, 8),
        state_slots=channel_slots(card, "state"),
        action_slots=channel_slots(card, "action"),
        observation_horizon=2,
        form=form,
        frame=frame,
        task="reach",
    )


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("form", CHUNK_FORMS)
@pytest.mark.parametrize("frame", CHUNK_FRAMES)
def test_a_form_and_back(name, form, frame) -> None:
    card = CARDS[name]

    @settings(max_examples=15)
    @given(st.integers(0, 10_000))
    def identity(seed: int) -> None:
        action, newest = chunk_of(card, seed)
        between = ChunkForm(card, form, 2, frame)
        seen = between.encode(action, newest)
        np.testing.assert_allclose(between.decode(seen, newest), action, atol=1e-6)
        assert (np.abs(seen - action).max() > 1e-3) == (form != "absolute")  # control: it is another thing in between

    identity()


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("form", CHUNK_FORMS)
def test_a_view_and_back(tmp_path, name, form) -> None:
    card = CARDS[name]
    view = view_of(tmp_path, card, form)
    again = EmbodimentView.from_dict(view.to_dict())
    assert again.embodiment.hash == card.hash
    absent = ~view.action_mask

    @settings(max_examples=15)
    @given(st.integers(0, 10_000))
    def identity(seed: int) -> None:
        action, newest = chunk_of(card, seed)
        batch, rows = np.stack([action, action[::-1]]), np.stack([newest, action[0]])
        slots = view.forward_action(batch, rows)
        assert slots.shape == (2, 8, len(SLOTS))
        assert (slots[..., absent] == 0).all()
        np.testing.assert_allclose(again.backward_action(slots, rows), batch, atol=1e-6)
        np.testing.assert_allclose(again.backward_state(view.forward_state(rows)), rows, atol=1e-9)
        spoiled = np.where(absent, 5.0, slots)
        assert (again.backward_action(spoiled, rows) == again.backward_action(slots, rows)).all()

    identity()


def test_relative_poses_are_those_of_the_group() -> None:
    card = CARDS["panda"]
    action, newest = chunk_of(card, 3)
    base, at = rotation_6d_to_matrix(newest[3:9]), rotation_6d_to_matrix(action[:, 3:9])
    tool = ChunkForm(card, "relative", 2, "tool").encode(action, newest)
    np.testing.assert_allclose(tool[:, :3], (action[:, :3] - newest[:3]) @ base, atol=1e-9)
    np.testing.assert_allclose(rotation_6d_to_matrix(tool[:, 3:9]), base.T @ at, atol=1e-7)
    about = ChunkForm(card, "relative", 2, "base").encode(action, newest)
    np.testing.assert_allclose(about[:, :3], action[:, :3] - newest[:3], atol=1e-12)
    np.testing.assert_allclose(rotation_6d_to_matrix(about[:, 3:9]), at @ base.T, atol=1e-7)
    assert (about[:, 9] == action[:, 9]).all(), "the gripper stays absolute"
    assert np.abs(action[:, 3:9] - newest[3:9] - about[:, 3:9]).max() > 0.1  # control: not a difference of numbers
    # Moving robot and target together changes nothing that is said about the tool's own axes.
    turn, shift = axis_angle_to_matrix(np.array([0.3, -0.2, 0.9])), np.array([0.1, 0.2, -0.3])

    def moved(rows):
        pose = turn @ rotation_6d_to_matrix(rows[..., 3:9])
        six = np.concatenate([pose[..., 0], pose[..., 1]], -1)
        return np.concatenate([rows[..., :3] @ turn.T + shift, six, rows[..., 9:]], -1)

    np.testing.assert_allclose(
        ChunkForm(card, "relative", 2, "tool").encode(moved(action), moved(newest)), tool, atol=1e-6
    )


def test_increments_are_steps() -> None:
    card = CARDS["joints"]
    action, newest = chunk_of(card, 1)
    seen = ChunkForm(card, "increment", 2).encode(action, newest)
    at = card.action.index("left.joint2")
    np.testing.assert_allclose(seen[:2, at], action[:2, at] - newest[at])
    np.testing.assert_allclose(seen[2:, at], np.diff(action[1:, at]))
    gripper = card.action.index("left.gripper")
    assert (seen[:, gripper] == action[:, gripper]).all()


def test_forms_refuse_what_they_cannot_mean() -> None:
    import dataclasses

    panda = CARDS["panda"]
    with pytest.raises(ConfigError, match="unknown form"):
        ChunkForm(panda, "delta", 2)
    with pytest.raises(ConfigError, match="delta"):
        ChunkForm(dataclasses.replace(panda, action_reference="delta"), "absolute", 2)
    unmeasured = dataclasses.replace(panda, action_space="joint_position")
    ChunkForm(unmeasured, "absolute", 2)
    with pytest.raises(ConfigError, match="form: absolute"):
        ChunkForm(unmeasured, "increment", 2)


@pytest.mark.parametrize("form", CHUNK_FORMS)
def test_ranges_are_of_this_robot_and_this_form(tmp_path, form) -> None:
    view = view_of(tmp_path, CARDS["panda"], form)
    store = EpisodeStore.open(tmp_path / "panda.zarr")
    alone = Normalizer.from_statistics({n: store.statistics(n) for n in ("state", "action")}, store.embodiment)
    for name in ("state", "action"):
        np.testing.assert_array_equal(view.normalizer.stream(name).scale, alone.stream(name).scale)
    from robopolicy.data.windows import WindowDataset, WindowSpec

    windows = WindowDataset(store, WindowSpec(2, 8, environment_state=False))
    part = windows.gather(np.arange(len(windows)))
    slots = view.forward_action(part["action"], part["state"][:, -1])
    held = np.where(part["action_mask"][..., :1], slots, 0.0)
    assert np.abs(held).max() <= 1 + 1e-6
    moving = [SLOTS.index(f"right.ee_position.{a}") for a in "xyz"]
    assert (np.abs(held[..., moving]).max((0, 1)) > 0.999).all(), "the range is used, not merely kept"


def test_statistics_of_a_mixture_belong_to_none_of_its_parts(tmp_path) -> None:
    mixture = Mixture.open({"stores": mixture_toy.three(tmp_path)})
    training, _ = mixture.split(0.0, 0)
    views = mixture.views(2, 8, form="absolute", environment_state=True, roles=(), episodes=training)
    for view, store in zip(views, mixture.stores, strict=True):
        names = ["state", "action", *(["environment_state"] if view.environment_names else [])]
        alone = Normalizer.from_statistics({n: store.statistics(n) for n in names}, store.embodiment)
        assert view.normalizer.to_dict() == alone.to_dict()
    panda, ur5e = (v.normalizer.stream("state") for v in views[:2])
    assert (panda.offset[:3] != ur5e.offset[:3]).all()  # control: a pooled range would be the same for both


def test_two_stores_of_one_robot_share_a_view(tmp_path) -> None:
    panda = load_embodiment("panda")
    a, b = (mixture_toy.write(tmp_path / f"{n}.zarr", panda, seed=n, episodes=2) for n in (1, 2))
    mixture = Mixture.open({"stores": [{"path": str(a)}, {"path": str(b)}]})
    views = mixture.views(
        2, 8, form="absolute", environment_state=False, roles=(), episodes=[np.arange(2), np.arange(2)]
    )
    assert (len(views), mixture.members) == (1, [0, 0])
    rows = np.concatenate([EpisodeStore.open(p).read("state") for p in (a, b)])
    slots = views[0].forward_state(rows)
    assert np.isclose(slots[:, :].max(), 1.0, atol=1e-6)
    assert np.abs(slots).max() <= 1 + 1e-6


def test_finding_a_view(tmp_path) -> None:
    views = [view_of(tmp_path, CARDS["panda"]), view_of(tmp_path, CARDS["joints"])]
    assert find_view(views, "two_arms", where="it") == find_view(views, CARDS["joints"], where="it") == 1
    assert find_view(views, CARDS["panda"].hash, where="it") == 0
    assert find_view(views[:1], None, where="it") == 0
    with pytest.raises(EmbodimentMismatchError, match="did you mean 'panda'"):
        find_view(views, "pnda", where="it")
    assert stored_views({"parameters": {}}) is None
    assert len(stored_views({"parameters": {"views": [views[0].to_dict()]}}) or []) == 1
