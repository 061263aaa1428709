"""One vector whose entries mean the same on every robot: 144 named slots, and which of them a robot has.

::

    right.*   0 ..  59   joint.0-9 gripper hand.0-23 ee_position.x-z ee_rotation.0-5 joint_velocity.0-9 ee_velocity.*
    left.*   60 .. 119   the same
    torso.0-5  head.0-3  base_velocity.x y yaw  reserve.0-10          120 .. 143

A channel finds its slot through the embodiment card (chains, grippers, hands, names of arms), never by its position in
a vector. The idea of a fixed meaning per entry with a mask is that of RDT-1B (Liu et al. 2024, arXiv 2410.07864,
section 4.2), whose 128 entries hold five fingers' joints per side at most; :func:`to_rdt` exports what fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Arm, Camera, Channel, ChannelGroup, Embodiment
from robopolicy.errors import EmbodimentError, explain, suggest

__all__ = ["NUM_SLOTS", "RDT_WIDTH", "SLOTS", "channel_slots", "slot_card", "slot_indices", "slot_mask", "to_rdt"]

_AXES, _TURNS = ("x", "y", "z"), ("roll", "pitch", "yaw")
_SIDE = (
    *(f"joint.{i}" for i in range(10)),
    "gripper",
    *(f"hand.{i}" for i in range(24)),
    *(f"ee_position.{a}" for a in _AXES),
    *(f"ee_rotation.{i}" for i in range(6)),
    *(f"joint_velocity.{i}" for i in range(10)),
    *(f"ee_velocity.{a}" for a in (*_AXES, *_TURNS)),
)
_BODY = (
    *(f"torso.{i}" for i in range(6)),
    *(f"head.{i}" for i in range(4)),
    *(f"base_velocity.{a}" for a in ("x", "y", "yaw")),
    *(f"reserve.{i}" for i in range(11)),
)
SLOTS: tuple[str, ...] = (*(f"{side}.{n}" for side in ("right", "left") for n in _SIDE), *_BODY)
"""Names in vector order. New meanings take a reserve; an entry never moves, because trained weights know its place."""
NUM_SLOTS = len(SLOTS)
RDT_WIDTH = 128

_INDEX = {name: i for i, name in enumerate(SLOTS)}
_BODY_WORDS = {"torso": {"torso", "waist", "trunk", "spine", "lift"}, "head": {"head", "neck"}}
_EE = (*(f"ee_position.{a}" for a in _AXES), *(f"ee_rotation.{i}" for i in range(6)))
_EE_VELOCITY = tuple(f"ee_velocity.{a}" for a in (*_AXES, *_TURNS))


def channel_slots(
    embodiment: Embodiment,
    stream: str,
    *,
    overrides: Mapping[str, str] | None = None,
    leave_out_unknown: bool = False,
) -> tuple[str | None, ...]:
    """The slot of every channel of ``state`` or ``action``, in vector order.

    Args:
        embodiment: Its arms, chains, grippers and hands decide; ``embodiment.slots`` goes before them.
        stream: ``state`` or ``action``.
        overrides: Channel -> slot, before all else.
        leave_out_unknown: Give None for channels without a slot instead of refusing them.

    Raises:
        EmbodimentError: channels without a slot, slots that do not exist, or two channels in one slot; all named.
    """
    explicit = {**embodiment.slots, **(overrides or {})}
    wrong = {c: s for c, s in explicit.items() if s not in _INDEX}
    if wrong:
        hints = [f"'{s}': {h}" for s in wrong.values() if (h := suggest(s, SLOTS))]
        raise EmbodimentError(
            explain(f"'{embodiment.name}': no such slots", given=wrong, allowed=_brief(), mend="; ".join(hints) or None)
        )
    names = getattr(embodiment, stream).names
    known = {**_by_card(embodiment), **explicit}
    found = tuple(known.get(n) for n in names)
    unknown = [n for n, slot in zip(names, found, strict=True) if slot is None]
    if unknown and not leave_out_unknown:
        raise EmbodimentError(
            explain(
                f"'{embodiment.name}': {stream} channels without a slot",
                given=unknown,
                allowed=_brief(),
                mend="map them (slots: {channel: slot} of the store in the mixture or of the card), "
                "or leave them out with leave_out_unknown: true",
            )
        )
    taken = [s for s in found if s is not None]
    twice = sorted({s for s in taken if taken.count(s) > 1})
    if twice:
        shared = {s: [n for n, slot in zip(names, found, strict=True) if slot == s] for s in twice}
        raise EmbodimentError(explain(f"'{embodiment.name}': several {stream} channels in one slot", given=shared))
    return found


def slot_indices(slots: tuple[str | None, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(channel positions [k], slot positions [k]) of the channels that have a slot."""
    pairs = [(i, _INDEX[s]) for i, s in enumerate(slots) if s is not None]
    channels, places = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(channels, np.intp), np.array(places, np.intp)


def slot_mask(slots: tuple[str | None, ...]) -> NDArray[np.bool_]:
    """bool [NUM_SLOTS]: which slots are present."""
    mask = np.zeros(NUM_SLOTS, bool)
    mask[slot_indices(slots)[1]] = True
    return mask


def slot_card(rate_hz: float, roles: Sequence[str], image_size: tuple[int, int], further: int = 0) -> Embodiment:
    """The card of the slot vector itself, normalised; it describes what a network reads and cannot be driven.

    Args:
        rate_hz: Rows per second.
        roles: Camera slots.
        image_size: (height, width) of each.
        further: Channels of ``state`` behind the slots, for what the network is told of the masks.
    """
    slots = [Channel(name, "normalised", -1.0, 1.0) for name in SLOTS]
    masks = [Channel(f"mask.{i}", "normalised", -1.0, 1.0) for i in range(further)]
    height, width = image_size
    at = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    return Embodiment(
        name="slots",
        description="semantic slots of many robots",
        action_space="custom",
        state_space="custom",
        control_hz=rate_hz,
        setpoint_hz=rate_hz,
        joints=ChannelGroup(()),
        arms=(),
        home={},
        cameras=tuple(Camera(role, width, height, 60.0, "world", *at) for role in roles),
        custom_state=ChannelGroup((*slots, *masks)),
        custom_action=ChannelGroup(tuple(slots)),
    )


def _by_card(card: Embodiment) -> dict[str, str]:
    """Channel name -> slot, for every name that the card explains."""
    found = {n: n for n in SLOTS} | {n: f"right.{n}" for n in _SIDE if len(card.arms) < 2}
    ends = {n for arm in card.arms for n in arm.end_effector}
    claimed: set[str] = set()
    for arm in card.arms:
        side = _side(arm, alone=len(card.arms) == 1)
        joints = _arm_joints(arm, card, ends)
        claimed |= {*joints, *arm.end_effector}
        if side is None:
            continue
        for i, name in enumerate(joints):
            found |= {name: f"{side}.joint.{i}", f"{name}.velocity": f"{side}.joint_velocity.{i}"}
        found |= {name: f"{side}.hand.{i}" for i, name in enumerate(arm.hand)}
        found |= {arm.gripper: f"{side}.gripper"} if arm.gripper else {}
        found |= {arm.prefix + name: f"{side}.{name}" for name in (*_EE, *_EE_VELOCITY)}
    return {c: s for c, s in {**found, **_body(card, claimed)}.items() if s in _INDEX}


def _body(card: Embodiment, claimed: set[str]) -> dict[str, str]:
    """Joints of no arm, by a word in their name, in the order of the card."""
    found: dict[str, str] = {}
    count = dict.fromkeys(_BODY_WORDS, 0)
    for name in card.joints.names:
        words = set(re.split(r"[^a-z]+", name.lower()))
        for part, signs in _BODY_WORDS.items():
            if name not in claimed and words & signs:
                found[name] = f"{part}.{count[part]}"
                count[part] += 1
                break
    return found


def _arm_joints(arm: Arm, card: Embodiment, ends: set[str]) -> list[str]:
    """Joints from base to flange; without known kinematics those with the arm's name, in the card's order."""
    if arm.chain:
        return [link.joint for link in arm.chain]
    if not arm.name and len(card.arms) > 1:
        return []
    body = {word for signs in _BODY_WORDS.values() for word in signs}
    own = [n for n in card.joints.names if n.startswith(arm.prefix) and n not in ends]
    return [n for n in own if arm.name or not set(re.split(r"[^a-z]+", n.lower())) & body]


def _side(arm: Arm, alone: bool) -> str | None:
    words = re.split(r"[^a-z]+", arm.name.lower())
    for side in ("right", "left"):
        if side in words:
            return side
    return "right" if alone else None


def _brief() -> str:
    return "right.|left. joint.0-9, gripper, hand.0-23, ee_position.x-z, ee_rotation.0-5, joint_velocity.0-9, " + (
        "ee_velocity.x-yaw; torso.0-5, head.0-3, base_velocity.x|y|yaw, reserve.0-10"
    )


def _rdt_places() -> dict[str, int]:
    places: dict[str, int] = {}
    for side, base in (("right", 0), ("left", 50)):
        places |= {f"{side}.joint.{i}": base + i for i in range(10)}
        places |= {f"{side}.gripper": base + 10}
        places |= {f"{side}.joint_velocity.{i}": base + 15 + i for i in range(10)}
        places |= {f"{side}.{name}": base + 30 + i for i, name in enumerate((*_EE, *_EE_VELOCITY))}
    return places | {f"base_velocity.{a}": 100 + i for i, a in enumerate(("x", "y", "yaw"))}


def to_rdt(values: Any, mask: Any, *, leave_out: bool = False) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
    """Slot vectors in the 128-entry layout of RDT-1B (``configs/state_vec.py`` of its repository).

    Its 6-D rotations are the first two columns, as here (``docs/test_6drot.py`` there).
    Joints of a hand take the five gripper entries of their side where there is no gripper and they are at most five.

    Args:
        values: [..., NUM_SLOTS], physical units.
        mask: bool [NUM_SLOTS], which slots are present.
        leave_out: Drop what has no place there instead of refusing it.

    Returns:
        [..., 128] of the dtype of ``values`` (0 where absent), bool [128].

    Raises:
        EmbodimentError: present slots that have no place, named.
    """
    values, present = np.asarray(values), np.asarray(mask, bool)
    if values.shape[-1:] != (NUM_SLOTS,) or present.shape != (NUM_SLOTS,):
        raise EmbodimentError(explain("not a slot vector", given=(values.shape, present.shape), allowed=NUM_SLOTS))
    places = _rdt_places()
    for side, base in (("right", 10), ("left", 60)):
        fingers = [i for i in range(24) if present[_INDEX[f"{side}.hand.{i}"]]]
        if len(fingers) <= 5 and not present[_INDEX[f"{side}.gripper"]]:
            places |= {f"{side}.hand.{i}": base + k for k, i in enumerate(fingers)}
    homeless = [n for n, here in zip(SLOTS, present, strict=True) if here and n not in places]
    if homeless and not leave_out:
        raise EmbodimentError(
            explain(
                "slots that the 128 entries of RDT have no place for",
                given=homeless,
                mend="to_rdt(..., leave_out=True) drops them",
            )
        )
    out, there = np.zeros((*values.shape[:-1], RDT_WIDTH), values.dtype), np.zeros(RDT_WIDTH, bool)
    for name, place in places.items():
        if present[_INDEX[name]]:
            out[..., place], there[place] = values[..., _INDEX[name]], True
    return out, there
