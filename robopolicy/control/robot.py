"""Kinematics of a whole robot: one chain per arm that has one; joints of no chain are carried along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.control.kinematics import Kinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import EmbodimentError, explain

__all__ = ["ArmPart", "RobotKinematics"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ArmPart:
    """One arm of a robot.

    Attributes:
        name: Of the arm, empty for the only one.
        joints: [n] positions of the chain's joints in a command vector [J].
        end: Positions of its gripper or hand in a command vector.
        kinematics: Of the chain; poses are in the frame of the arm's own base.
    """

    name: str
    joints: NDArray[np.intp]
    end: NDArray[np.intp]
    kinematics: Kinematics


class RobotKinematics:
    """Forward kinematics of every arm of a card.

    Args:
        embodiment: Card with any number of arms; a card of a hand alone has no chain and no part here.

    Raises:
        EmbodimentError: an arm without a chain, or joints that belong to no arm: what they move could not be kept
            inside a workspace.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = embodiment
        names = embodiment.joints.names
        _check(embodiment)
        self.parts: tuple[ArmPart, ...] = tuple(
            ArmPart(
                arm.name,
                np.array([names.index(link.joint) for link in arm.chain], np.intp),
                np.array([names.index(joint) for joint in arm.end_effector], np.intp),
                Kinematics(embodiment if len(embodiment.arms) == 1 else embodiment.single_arm(arm.name)),
            )
            for arm in embodiment.arms
            if arm.chain
        )
        self._only = self.parts[0].kinematics if len(self.parts) == len(embodiment.arms) == 1 else None

    @property
    def only(self) -> Kinematics:
        """Kinematics of the only arm.

        Raises:
            EmbodimentError: none, or several.
        """
        if self._only is None:
            raise EmbodimentError(
                explain(
                    f"'{self.embodiment.name}' is not a robot of one arm",
                    given=[part.name for part in self.parts] or "no chain",
                    mend="use a card of one arm, or take RobotKinematics.parts",
                )
            )
        return self._only

    def part(self, name: str = "") -> ArmPart:
        """The arm of that name.

        Raises:
            EmbodimentError: no such arm, or it has no chain.
        """
        for part in self.parts:
            if part.name == name:
                return part
        known = [part.name for part in self.parts]
        raise EmbodimentError(explain(f"'{self.embodiment.name}' has no such arm", given=repr(name), allowed=known))

    def tcp_state(self, joint_position: ArrayLike) -> Array:
        """Command channels [J] -> the card's ``state`` vector [S].

        Raises:
            EmbodimentError: a custom state, or poses of several arms.
        """
        if self._only is not None:
            return self._only.tcp_state(joint_position)
        if self.embodiment.state_space == "joint_position":
            return np.array(joint_position, dtype=float)
        card, state = self.embodiment, np.empty(len(self.embodiment.state))
        if card.state_space != "ee_pose" or len(self.parts) != len(card.arms):
            raise EmbodimentError(
                explain(
                    f"the state of '{card.name}' cannot be computed from its joints",
                    given=f"state_space: {card.state_space}",
                    allowed=("joint_position", "ee_pose with a chain for every arm"),
                )
            )
        joints = np.asarray(joint_position, dtype=float)
        for name in (c.name for c in card.state.channels if c.name in card.joints.names):
            state[card.state.index(name)] = joints[card.joints.index(name)]
        for part in self.parts:
            position, rotation = part.kinematics.forward(joints[part.joints])
            prefix = f"{part.name}." if part.name else ""
            state[card.state.select(f"{prefix}ee_position")] = position
            state[card.state.select(f"{prefix}ee_rotation")] = np.concatenate([rotation[:, 0], rotation[:, 1]])
        return state


def _check(embodiment: Embodiment) -> None:
    for arm in embodiment.arms:
        if not arm.chain and not arm.hand:
            raise EmbodimentError(
                explain(
                    f"the kinematics of '{embodiment.name}' are not known: its card has no chain",
                    mend="add chain and tcp to the arm in its YAML",
                )
            )
    owned = {link.joint for arm in embodiment.arms for link in arm.chain}
    owned |= {joint for arm in embodiment.arms for joint in arm.end_effector}
    free = [name for name in embodiment.joints.names if name not in owned]
    if free or not embodiment.joints.names:
        raise EmbodimentError(
            explain(
                f"'{embodiment.name}' cannot be driven: its arms' workspace cannot be guarded",
                given=f"joints of no arm: {free}" if free else "no joints",
                mend="give every joint to the chain or hand of an arm in its YAML",
            )
        )
