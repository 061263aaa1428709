"""Slots by meaning: every card of the project finds its own, overrides win, what is unknown is refused by name."""

from __future__ import annotations

import dataclasses

import mixture_toy
import numpy as np
import pytest

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.data.convert.unify import generic_card
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import EmbodimentError
from robopolicy.registry import registry
from robopolicy.slots import NUM_SLOTS, SLOTS, channel_slots, slot_indices, slot_mask, to_rdt


def test_the_table_does_not_move() -> None:
    assert NUM_SLOTS == len(set(SLOTS)) == 144
    assert sum(s.startswith("right.hand.") for s in SLOTS) == sum(s.startswith("left.hand.") for s in SLOTS) == 24
    wanted = {0: "right.joint.0", 10: "right.gripper", 11: "right.hand.0", 35: "right.ee_position.x"}
    wanted |= {38: "right.ee_rotation.0", 44: "right.joint_velocity.0", 54: "right.ee_velocity.x", 60: "left.joint.0"}
    wanted |= {120: "torso.0", 126: "head.0", 130: "base_velocity.x", 133: "reserve.0"}
    assert {i: SLOTS[i] for i in wanted} == wanted


BENCHMARKS = {registry("benchmark").config(name)["embodiment"] for name in registry("benchmark").names()}
"""Their numbers follow the benchmark's own rule, so not all of them mean something beside those of a robot."""
ROBOTS = [name for name in registry("embodiment").names() if name not in BENCHMARKS]


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("stream", ["state", "action"])
def test_every_card_finds_its_slots(name: str, stream: str) -> None:
    card = load_embodiment(name)
    found = channel_slots(card, stream)
    assert len(found) == len(set(found)) == len(getattr(card, stream))
    for channel, slot in zip(getattr(card, stream).names, found, strict=True):
        assert slot is not None
        for side in ("left", "right"):
            assert not channel.startswith(f"{side}.") or slot.startswith(f"{side}."), channel
        for part in ("gripper", "ee_position", "ee_rotation"):
            assert (part in channel) == (part in slot), (channel, slot)


def test_meaning_decides_and_not_position() -> None:
    card = mixture_toy.bimanual()
    turned = dataclasses.replace(card, joints=ChannelGroup(card.joints.channels[::-1]))
    by_name = dict(zip(card.state.names, channel_slots(card, "state"), strict=True))
    again = dict(zip(turned.state.names, channel_slots(turned, "state"), strict=True))
    grippers = [n for n in by_name if n.endswith("gripper")]
    assert {n: by_name[n] for n in grippers} == {n: again[n] for n in grippers}
    panda = load_embodiment("panda")
    joints = dataclasses.replace(panda, state_space="joint_position", action_space="joint_position")
    assert channel_slots(joints, "state") == (*(f"right.joint.{i}" for i in range(7)), "right.gripper")


def test_hands_torso_and_head() -> None:
    card = mixture_toy.bimanual(hands=12)
    body = tuple(Channel(n, "rad", -1.0, 1.0) for n in ("waist_yaw", "waist_roll", "neck_pitch", "head_yaw"))
    card = dataclasses.replace(card, joints=ChannelGroup((*card.joints.channels, *body)))
    found = dict(zip(card.state.names, channel_slots(card, "state"), strict=True))
    assert found["left.finger11"] == "left.hand.11"
    assert [found[c.name] for c in body] == ["torso.0", "torso.1", "head.0", "head.1"]
    with pytest.raises(EmbodimentError, match=r"right\.finger24"):
        channel_slots(mixture_toy.bimanual(hands=25), "state")


def test_unknown_channels_are_refused_by_name_or_mapped_or_left_out() -> None:
    card = generic_card(
        "odd", state=[("q0", "rad"), ("q1", "rad")], action=[("q0", "rad"), ("q1", "rad")], control_hz=10
    )
    with pytest.raises(EmbodimentError, match=r"\['q0', 'q1'\]"):
        channel_slots(card, "state")
    assert channel_slots(card, "state", leave_out_unknown=True) == (None, None)
    given = {"q0": "left.joint.3", "q1": "reserve.2"}
    assert channel_slots(card, "state", overrides=given) == ("left.joint.3", "reserve.2")
    with pytest.raises(EmbodimentError, match=r"left\.jiont.*did you mean 'left\.joint\.\d'"):
        channel_slots(card, "state", overrides={"q0": "left.jiont.3"})
    with pytest.raises(EmbodimentError, match="one slot"):
        channel_slots(card, "state", overrides=dict.fromkeys(("q0", "q1"), "torso.0"))


def test_a_card_may_override_and_its_hash_tells() -> None:
    panda = load_embodiment("panda")
    mapped = dataclasses.replace(panda, slots={"gripper": "right.hand.0"})
    assert channel_slots(mapped, "state")[-1] == "right.hand.0"
    assert mapped.hash != panda.hash
    assert Embodiment.from_dict(mapped.to_dict()).hash == mapped.hash
    assert "slots" not in panda.to_dict(), "cards without a map keep their hash"


def test_mask_and_indices() -> None:
    slots = (None, "left.gripper", "right.joint.0")
    channels, places = slot_indices(slots)
    assert (channels.tolist(), [SLOTS[i] for i in places]) == ([1, 2], ["left.gripper", "right.joint.0"])
    assert np.flatnonzero(slot_mask(slots)).tolist() == [0, 70]
    assert not slot_mask((None,)).any()


def test_rdt_layout() -> None:
    values = np.arange(NUM_SLOTS, dtype=float)
    names = ["right.joint.9", "right.gripper", "right.joint_velocity.0", "right.ee_position.x", "right.ee_rotation.0"]
    names += ["right.ee_velocity.yaw", "left.joint.0", "left.gripper", "left.ee_rotation.5", "base_velocity.yaw"]
    out, there = to_rdt(values, slot_mask(tuple(names)))
    places = [9, 10, 15, 30, 33, 44, 50, 60, 88, 102]
    assert np.flatnonzero(there).tolist() == places
    assert [SLOTS[int(out[p])] for p in places] == names
    hand = tuple(f"left.hand.{i}" for i in range(6))
    with pytest.raises(EmbodimentError, match=r"left\.hand\.5"):
        to_rdt(values, slot_mask(hand))
    assert np.flatnonzero(to_rdt(values, slot_mask(hand[:5]))[1]).tolist() == [60, 61, 62, 63, 64]
    assert not to_rdt(values, slot_mask(hand), leave_out=True)[1].any()
    with pytest.raises(EmbodimentError, match="not a slot vector"):
        to_rdt(values[:10], slot_mask(hand))
