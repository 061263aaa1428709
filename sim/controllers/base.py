"""What a controller is, and how one is found by the name of a card.

A controller stands between a policy and the executor. Its *card* is what the policy sees: the robot's, with other
action channels, named ``panda@ee_delta``. Its *native* card is what the executor is driven with: absolute targets of
joints or of the TCP. Steps are counted from what was commanded for the time of the chunk's observation, not from what
is measured and not from what is commanded when the chunk arrives: so neither sag nor latency is counted twice.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.kinematics import Kinematics
from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, EmbodimentError, explain, suggest
from robopolicy.registry import registry
from robopolicy.rotations import rotation_6d_to_matrix
from robopolicy.types import ActionChunk

__all__ = ["Controller", "JointTargets", "Reference", "derived_card", "find_controller", "load_controller", "robot_of"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Reference:
    """What was commanded for one instant.

    Attributes:
        joints: [J] joint positions that belong to it.
        action: [A] target in the channels of the controller's native card.
    """

    joints: Array
    action: Array


class Controller(Protocol):
    """One action space on one robot.

    Attributes:
        robot: The robot's own card.
        card: What policies and stores have.
        native: What the executor is driven with.
    """

    robot: Embodiment
    card: Embodiment
    native: Embodiment

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """A chunk of :attr:`card` as absolute targets of :attr:`native`.

        Args:
            chunk: Rows that are not valid do nothing.
            reference: Commanded for ``chunk.t0_ns``.
        """
        ...

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """Targets of the *robot's own* card as actions of :attr:`card`: labels for what an expert asks for.

        Args:
            targets: [T, A of the robot], one control step apart.
            reference: Commanded for one control step before the first.

        Returns:
            [T, A of the card].
        """
        ...


def derived_card(robot: Embodiment, name: str, **changes: Any) -> Embodiment:
    """The card of ``robot`` under the controller ``name``: other channels, other name, other hash."""
    described = f"{robot.description}, driven by {name.replace('_', ' ')}"
    return dataclasses.replace(robot, name=f"{robot.name}@{name}", description=described, **changes)


def load_controller(name: str, robot: Embodiment, **overrides: Any) -> Controller:
    """Build the controller ``configs/controller/<name>.yaml`` for a robot.

    Raises:
        UnknownNameError: no such controller.
        ConfigError: a parameter that it does not have.
        EmbodimentError: it does not fit the robot.
    """
    factory = registry("controller").load(name)
    parameters = {k: v for k, v in registry("controller").config(name).items() if k != "target"} | overrides
    known = [p for p in inspect.signature(factory).parameters if p != "robot"]
    problems = [
        explain(f"controller '{name}' has no parameter '{key}'", allowed=known, mend=suggest(key, known))
        for key in parameters
        if key not in known
    ]
    if problems:
        raise ConfigError(problems)
    controller: Controller = factory(robot, **parameters)
    return controller


def robot_of(card: Embodiment) -> Embodiment:
    """The robot's own card behind a derived one; cameras and everything else that is not its actions are kept.

    Raises:
        UnknownNameError: no such robot.
    """
    base = load_embodiment(card.name.partition("@")[0])
    return dataclasses.replace(
        card,
        name=base.name,
        description=base.description,
        action_space=base.action_space,
        custom_action=base.custom_action,
        action_reference=base.action_reference,
    )


def find_controller(card: Embodiment, name: str | None) -> tuple[Embodiment, Controller | None]:
    """(robot's own card, its controller or None) for a card and what a user named.

    Args:
        card: A robot's own card or a derived one, whose name says which controller it belongs to.
        name: Controller, or None for that of the card.

    Raises:
        ConfigError: card and name contradict each other.
        EmbodimentMismatchError: the derived card is not what the controller of that name makes of the robot.
    """
    _, derived, said = card.name.partition("@")
    if not derived:
        return card, None if name is None else load_controller(name, card)
    if name not in (None, said):
        raise ConfigError(
            explain(f"the card '{card.name}' belongs to another controller", given=name, allowed=said, mend="name one")
        )
    robot = robot_of(card)
    controller = load_controller(said, robot)
    card.require_same(controller.card, mine="what was given", theirs=f"the controller '{said}'")
    return robot, controller


class JointTargets:
    """Targets of a robot's own card as joint positions.

    Args:
        robot: Its actions are joint positions, or poses of its only arm.

    Raises:
        EmbodimentError: any other action space.
    """

    def __init__(self, robot: Embodiment):
        if robot.action_space not in ("joint_position", "ee_pose") or robot.action_reference != "absolute":
            raise EmbodimentError(
                explain(
                    f"controllers need a robot with absolute targets: '{robot.name}'",
                    given=f"{robot.action_space}, {robot.action_reference}",
                    allowed=("joint_position", "ee_pose"),
                )
            )
        self.robot = robot
        self._arm: Kinematics | None = RobotKinematics(robot).only if robot.action_space == "ee_pose" else None
        action = robot.action
        if self._arm is not None:
            self._position, self._rotation = action.select("ee_position"), action.select("ee_rotation")
            self._end = [action.index(name) for name in robot.arm().end_effector]

    def __call__(self, targets: Array, joints: Array, *, pull: float) -> Array:
        """[T, A] -> [T, J], each solved from the one before, the first from ``joints`` [J].

        Args:
            targets: Of the robot's own card.
            joints: Commanded before the first.
            pull: Share of the way to the home posture taken per target in the null space, as the executor does.
        """
        targets = np.asarray(targets, float)
        if self._arm is None:
            return targets.copy()
        arm, path, at = self._arm, np.empty((len(targets), len(joints))), np.array(joints, float)
        rotations = rotation_6d_to_matrix(targets[:, self._rotation])
        for row, target in enumerate(targets):
            at[arm.arm] = arm.solve(
                at[arm.arm],
                target[self._position],
                rotations[row],
                iterations=100,
                damping=0.005,
                nullspace=pull,
                position_tolerance_m=1e-12,
                rotation_tolerance_rad=1e-12,
            ).q_arm
            at[arm.end] = target[self._end]
            path[row] = at
        return path


def filled(chunk: ActionChunk, before: Mapping[int, float] | None = None) -> Array:
    """Values of a chunk with zeros, or what ``before`` says by column, in rows that are not valid. [H, A]."""
    assert chunk.valid is not None
    values = np.array(chunk.values, float)
    values[~chunk.valid] = 0.0
    for column, value in (before or {}).items():
        values[~chunk.valid, column] = value
    return values
