"""Cards: packing by name, hashes, mismatches."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.embodiment import Channel, ChannelGroup, Embodiment, load_embodiment
from robopolicy.errors import EmbodimentError, EmbodimentMismatchError, UnknownNameError
from robopolicy.registry import registry

NAMES = registry("embodiment").names()


def group(n: int = 4) -> ChannelGroup:
    return ChannelGroup(tuple(Channel(f"c{i}", "m", -1.0, 1.0) for i in range(n)))


@given(st.permutations(range(4)))
def test_pack_ignores_the_order_of_the_mapping(order):
    values = {f"c{i}": float(i) for i in order}
    np.testing.assert_array_equal(group().pack(values), [0, 1, 2, 3])


def test_pack_unpack_round_trip_with_batch_axes():
    vector = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(group().pack(group().unpack(vector)), vector)


def test_pack_names_the_missing_and_the_unknown_and_suggests():
    with pytest.raises(EmbodimentError, match=r"missing \['c3'\], unknown \['c33'\].*did you mean 'c3'"):
        group().pack({"c0": 0, "c1": 0, "c2": 0, "c33": 0})


def test_unpack_refuses_wrong_width():
    with pytest.raises(EmbodimentError, match="wrong width"):
        group().unpack(np.zeros(5))


@pytest.mark.parametrize(
    "bad",
    [{"lower": 1.0, "upper": 1.0}, {"lower": float("nan"), "upper": 1.0}, {"lower": 0, "upper": 1, "max_jerk": 0}],
)
def test_channel_limits_are_checked(bad):
    with pytest.raises(EmbodimentError):
        Channel("c", "m", **bad)


def test_there_are_cards():
    assert {"panda", "ur5e_2f85"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_round_trip_keeps_the_hash(name):
    card = load_embodiment(name)
    again = Embodiment.from_dict(card.to_dict())
    assert again == card
    assert again.hash == card.hash


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_of_a_card_is_finite(name):
    card = load_embodiment(name)
    for kind in ("max_velocity", "max_acceleration", "max_jerk"):
        assert np.isfinite(card.joints.limit(kind)).all()
    home = card.home_position
    assert (home > card.joints.lower).all()
    assert (home <= card.joints.upper).all()


def test_description_does_not_change_the_hash_but_a_limit_does():
    card = load_embodiment("panda")
    assert dataclasses.replace(card, description="another").hash == card.hash
    slower = dataclasses.replace(card.joints.channels[0], max_velocity=1.0)
    changed = dataclasses.replace(card, joints=ChannelGroup((slower, *card.joints.channels[1:])))
    assert changed.hash != card.hash


def test_mismatch_names_both_sides_and_what_differs():
    a, b = load_embodiment("panda"), load_embodiment("ur5e_2f85")
    with pytest.raises(
        EmbodimentMismatchError, match=r"the dataset is for 'panda'.*the robot is for 'ur5e_2f85'.*joints"
    ):
        a.require_same(b, mine="the dataset", theirs="the robot")
    a.require_same(load_embodiment("panda"), mine="a", theirs="b")


def test_unknown_card_suggests():
    with pytest.raises(UnknownNameError, match="did you mean 'panda'"):
        load_embodiment("pandas")


def test_card_faults_are_told():
    card = load_embodiment("panda").to_dict()
    with pytest.raises(EmbodimentError, match="integer"):
        Embodiment.from_dict({**card, "setpoint_hz": 30.0})
    with pytest.raises(EmbodimentError, match="action_space"):
        Embodiment.from_dict({**card, "action_space": "joints"})
    with pytest.raises(EmbodimentError, match="home"):
        Embodiment.from_dict({k: v for k, v in card.items() if k != "home"})
    with pytest.raises(EmbodimentError, match="colour"):
        Embodiment.from_dict({**card, "colour": "white"})
