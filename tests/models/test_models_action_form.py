"""Increments from the measured pose: what they are, that adding up undoes them, and why they are there."""

import numpy as np
import pytest
import torch

from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError
from robopolicy.models.action_form import INCREMENT_STREAM, ActionForm, increment_range
from robopolicy.normalize import Normalizer

TO, TP = 2, 16


@pytest.fixture
def card():
    return load_embodiment("panda")


def windows(card, seed=0, n=40):
    """Random walks of the TCP, and states near the action of index To-2."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0.3, 0.6, (n, 1, len(card.action)))
    action = start + rng.normal(0, 0.01, (n, TP, len(card.action))).cumsum(1)
    state = action[:, :TO] + rng.normal(0, 0.002, (n, TO, len(card.action)))
    return {"state": state, "action": action, "action_mask": np.ones(action.shape, bool)}


def form_of(card, kind, data):
    ranges = {"action": {"min": data["action"].min((0, 1)), "max": data["action"].max((0, 1))}}
    if kind != "absolute":
        ranges[INCREMENT_STREAM] = increment_range(data, card, TO, kind)
    return ActionForm(kind, card, Normalizer.from_statistics(ranges, card), TO, TP)


@pytest.mark.parametrize("kind", ["absolute", "increment", "delta"])
def test_decode_undoes_encode(card, kind):
    data = windows(card)
    form = form_of(card, kind, data)
    action, state = torch.tensor(data["action"]), torch.tensor(data["state"])
    encoded = form.encode(action, state)
    np.testing.assert_allclose(form.decode(encoded, state), action, atol=1e-9)
    if kind != "absolute":
        assert encoded.abs().max() <= 1 + 1e-9


def test_what_an_increment_is(card):
    data = windows(card)
    form = form_of(card, "increment", data)
    action, state = torch.tensor(data["action"]), torch.tensor(data["state"])
    physical = ((form.encode(action, state) - form.offset) / form.scale).numpy()
    x = card.action.index("ee_position.x")
    sx = card.state.index("ee_position.x")
    for k in range(TP):
        before = data["state"][:, -1, sx] if k < TO else data["action"][:, k - 1, x]
        np.testing.assert_allclose(physical[:, k, x], data["action"][:, k, x] - before, atol=1e-12)
    grip = card.action.index(card.gripper)
    np.testing.assert_allclose(physical[:, :, grip], data["action"][:, :, grip], atol=1e-12)


def test_what_a_delta_is(card):
    data = windows(card)
    form = form_of(card, "delta", data)
    action, state = torch.tensor(data["action"]), torch.tensor(data["state"])
    physical = ((form.encode(action, state) - form.offset) / form.scale).numpy()
    x, sx = card.action.index("ee_position.x"), card.state.index("ee_position.x")
    for k in range(TP):
        seen_from = data["state"][:, min(k, TO - 1), sx]
        np.testing.assert_allclose(physical[:, k, x], data["action"][:, k, x] - seen_from, atol=1e-12)
    assert np.abs(data["state"][:, 0, sx] - data["state"][:, 1, sx]).max() > 1e-3  # control: the anchors differ
    # of a sequence only the newest state is needed to undo the present action
    moved = state.clone()
    moved[:, 0] += 1.0
    late = form.decode(form.encode(action, state), moved)[:, TO - 1 :]
    np.testing.assert_allclose(late, action[:, TO - 1 :], atol=1e-9)


def test_a_white_error_becomes_a_smooth_path(card):
    """The same error in normalised units: second differences of the path, increments against absolute (the control)."""
    data = windows(card)
    noise = (
        torch.randn(40, TP, len(card.action), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.05
    )
    state, columns = torch.tensor(data["state"]), card.action.select("ee_position")
    rough = {}
    for kind in ("absolute", "increment"):
        form = form_of(card, kind, data)
        path = form.decode(form.encode(torch.tensor(data["action"]), state) + noise, state) - torch.tensor(
            data["action"]
        )
        rough[kind] = float(np.abs(np.diff(path[:, TO - 1 :, columns], 2, axis=1)).mean())
    assert rough["increment"] < rough["absolute"] / 3


def test_padding_does_not_widen_the_range(card):
    data = windows(card)
    narrow = increment_range(data, card, TO)
    data["action"][:, -1] += 5.0
    data["action_mask"][:, -1] = False
    np.testing.assert_allclose(increment_range(data, card, TO)["max"], narrow["max"], rtol=0.2)
    data["action_mask"][:] = True
    assert increment_range(data, card, TO)["max"].max() > 4  # the control: counted, it does


def test_what_is_refused(card):
    data = windows(card)
    plain = Normalizer.from_statistics({"action": {"min": np.zeros(10), "max": np.ones(10)}}, card)
    with pytest.raises(ConfigError, match="unknown action_form"):
        ActionForm("differences", card, plain, TO, TP)
    with pytest.raises(DataError, match=INCREMENT_STREAM):
        ActionForm("increment", card, plain, TO, TP)
    other = Normalizer.from_statistics(
        {"action": {"min": np.zeros(10), "max": np.ones(10)}, INCREMENT_STREAM: increment_range(data, card, TO)}, card
    )
    with pytest.raises(DataError, match="width"):
        ActionForm("increment", card, other, TO, TP - 4)


def test_two_arms():
    """Grippers of all arms stay absolute."""
    aloha = load_embodiment("aloha")
    low, high = aloha.action.lower, aloha.action.upper
    box = {"min": np.tile(low, 4), "max": np.tile(high, 4)}
    stats = {"action": {"min": low, "max": high}, INCREMENT_STREAM: box}
    form = ActionForm("increment", aloha, Normalizer.from_statistics(stats, aloha), 1, 4)
    action = torch.tensor(np.tile((low + high) / 2, (1, 4, 1)))
    state = torch.tensor(np.asarray(aloha.state.lower))[None, None]
    torch.testing.assert_close(form.decode(form.encode(action, state).double(), state), action, atol=1e-5, rtol=1e-5)
    grippers = {arm.gripper for arm in aloha.arms}
    kept = {aloha.action.names[i] for i in range(len(low))} - {aloha.action.names[i] for i in form.layout.action}
    assert len(grippers) == 2
    assert kept == grippers
