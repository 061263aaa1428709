"""A robot that a mixture has never seen, bound with the ranges of one that it has: zero-shot.

The ranges of a view are those of the robot's own data, and a new robot has none. They can be lent by a robot whose
channels mean the same in the same units: TCP poses about a base of the same convention, and normalised grippers. Joints
cannot, because a joint of one arm says nothing of that of another. It has to be asked for by name (``like=panda``); a
policy never borrows by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.embodiment_view import ACTION_PARTS, EmbodimentView, find_view
from robopolicy.errors import EmbodimentMismatchError, explain
from robopolicy.normalize import Normalizer, StreamNormalizer
from robopolicy.slots import channel_slots

__all__ = ["LENDABLE", "borrow_view"]

LENDABLE = ("ee_position.", "ee_rotation.", "gripper")
"""How the part of a slot behind its side begins, if its range means the same on another robot."""


def borrow_view(
    views: Sequence[EmbodimentView], embodiment: str | Embodiment, like: str, *, where: str
) -> tuple[int, EmbodimentView]:
    """The view of a robot that is not in a mixture, with the ranges of one that is.

    Args:
        views: Of the mixture.
        embodiment: Name or card of the new robot.
        like: Name or content hash of the robot in the mixture that lends its ranges.
        where: What holds the views, for messages.

    Returns:
        Index of the lender, whose masks and embedding are used, and the view of the new robot.

    Raises:
        EmbodimentMismatchError: ``like`` is not in the mixture; the robot is itself in it; or its channels, cameras or
            joints do not mean the same as the lender's.
        UnknownNameError: no card of that name.
    """
    index = find_view(views, like, where=f"'like': {where}")
    lender = views[index]
    card = load_embodiment(embodiment) if isinstance(embodiment, str) else embodiment
    if card.hash in [view.embodiment.hash for view in views]:
        raise EmbodimentMismatchError(
            explain(f"{where} is trained for '{card.name}', it has ranges of its own", mend="leave 'like' out")
        )
    slots = {stream: channel_slots(card, stream) for stream in ("state", "action")}
    lent = {"state": lender.state_slots, "action": lender.action_slots}
    problems = [
        p for s in ("state", "action") for p in _unlike(s, getattr(card, s).names, slots[s], lent[s], lender.embodiment)
    ]
    have = [camera.name for camera in card.cameras]
    problems += [
        explain(f"'{card.name}' has no camera '{name}', which plays the role '{role}'", allowed=have)
        for role, name in lender.cameras.items()
        if name not in have
    ]
    if problems:
        raise EmbodimentMismatchError(
            f"{where} cannot drive '{card.name}' like '{lender.embodiment.name}': " + "; ".join(problems)
        )
    order = {stream: [lent[stream].index(slot) for slot in slots[stream]] for stream in slots}
    streams = {
        name: _reordered(own, order["state" if name == "state" else "action"])
        if name in ("state", "action", *ACTION_PARTS)
        else own
        for name, own in lender.normalizer.streams.items()
    }
    return index, replace(
        lender,
        embodiment=card,
        normalizer=Normalizer(streams),
        state_slots=slots["state"],
        action_slots=slots["action"],
    )


def _unlike(
    stream: str,
    names: tuple[str, ...],
    slots: tuple[str | None, ...],
    lent: tuple[str | None, ...],
    lender: Embodiment,
) -> list[str]:
    """What keeps the channels of a stream from being read with the lender's ranges."""
    found = []
    joints = [n for n, s in zip(names, slots, strict=True) if s and not s.partition(".")[2].startswith(LENDABLE)]
    if joints:
        found.append(
            explain(f"{stream} channels whose range is a robot's own", given=joints, allowed="TCP and gripper")
        )
    ours, theirs = {s for s in slots if s}, {s for s in lent if s}
    if ours != theirs:
        more, fewer = sorted(ours - theirs), sorted(theirs - ours)
        found.append(explain(f"another {stream} than '{lender.name}': more {more}, without {fewer}"))
    return found


def _reordered(own: StreamNormalizer, order: list[int]) -> StreamNormalizer:
    return StreamNormalizer(np.asarray(own.scale)[order], np.asarray(own.offset)[order])
