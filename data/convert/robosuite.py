"""What the actions of robosuite environments mean, from the controller's configuration. robomimic and LIBERO keep it.

robosuite up to 1.4 has one controller per robot (``controller_configs``), 1.5 one per part of a robot
(``body_parts: {right: ...}``). An operational-space controller clips its input, maps it linearly from
``input_min..input_max`` to ``output_min..output_max`` (metres, axis-angle in radians) and adds it to the pose it
measures: p + d, exp(r) R. Up to 1.4 an exactly zero rotation leaves the goal of the step before
(robosuite/controllers/osc.py, base_controller.py). The gripper command is -1 open, 1 closed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.deltas import delta_targets, rotation_held
from robopolicy.data.convert.unify import gripper_opening, rotation_matrix
from robopolicy.errors import DataError, explain
from robopolicy.rotations import quaternion_to_matrix

__all__ = ["FINGER_RANGES_M", "Controller", "base_pose", "controller_of", "robots_of", "unmeant"]

Array = NDArray[np.float64]
FINGER_RANGES_M = {"Panda": (0.0, 0.04)}
"""Robot -> first entry of ``robot0_gripper_qpos`` when closed and when open (PandaGripper: slides of 0 to 0.04 m)."""
UNDERSTOOD = ("OSC_POSE", "JOINT_POSITION")


@dataclass(frozen=True)
class Controller:
    """One arm's controller.

    Attributes:
        kind: ``OSC_POSE`` or ``JOINT_POSITION``.
        delta: Whether actions are changes.
        input_range, output_range: (lower, upper) of the linear map, numbers or one per channel.
        frame: Axes of a delta: ``world`` or ``base``.
        reference: What it is added to, see :data:`robopolicy.data.convert.poses.DELTA_REFERENCES`.
        holds_rotation: Whether zero rotation means the goal of the step before.
    """

    kind: str
    delta: bool
    input_range: tuple[Any, Any]
    output_range: tuple[Any, Any]
    frame: str = "world"
    reference: str = "measured"
    holds_rotation: bool = True

    def scaled(self, action: Array) -> Array:
        """Normalised commands [T, n] -> physical ones, clipped as the controller does."""
        low, high = (np.broadcast_to(np.asarray(x, float), action.shape[1:]) for x in self.input_range)
        out_low, out_high = (np.broadcast_to(np.asarray(x, float), action.shape[1:]) for x in self.output_range)
        if not (high > low).all():
            raise DataError(explain("a controller whose input range is empty", given=self.input_range))
        return (np.clip(action, low, high) - low) / (high - low) * (out_high - out_low) + out_low

    def clipped(self, action: Array) -> int:
        """How many commands of a delta controller lie outside its input range."""
        low, high = self.input_range
        return int(((action < np.asarray(low) - 1e-6) | (action > np.asarray(high) + 1e-6)).sum()) if self.delta else 0

    def pose_targets(self, position_m: Array, rotation: Array, action: Array) -> tuple[Array, Array]:
        """Absolute targets [T, 3], [T, 3, 3] of ``OSC_POSE`` commands [T, 6], in the frame of the measured pose."""
        if not self.delta:
            return action[:, :3], rotation_matrix(action[:, 3:], "axis_angle")
        physical = self.scaled(action)
        turn = rotation_matrix(physical[:, 3:], "axis_angle")
        positions, rotations = delta_targets(position_m, rotation, physical[:, :3], turn, reference=self.reference)
        if self.holds_rotation:
            rotations = rotation_held(rotation, rotations, (physical[:, 3:] == 0).all(axis=1))
        return positions, rotations

    def joint_targets(self, joints_rad: Array, action: Array) -> Array:
        """Absolute targets [T, n] of ``JOINT_POSITION`` commands [T, n]."""
        return joints_rad + self.scaled(action) if self.delta else action

    @staticmethod
    def gripper(command: Array) -> Array:
        """-1 open, 1 closed -> 0 closed, 1 open."""
        return gripper_opening(command, closed=1.0, opened=-1.0)


def robots_of(env_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the robots."""
    robots = env_kwargs.get("robots", ())
    return (robots,) if isinstance(robots, str) else tuple(str(r) for r in robots)


def controller_of(env_kwargs: Mapping[str, Any]) -> Controller | None:
    """The controller of the only arm; None when it is not one whose commands have a known absolute meaning.

    Args:
        env_kwargs: Of ``env_args``.

    Raises:
        DataError: a damaged configuration.
    """
    config = env_kwargs.get("controller_configs")
    if isinstance(config, (list, tuple)):
        config = config[0] if len(config) == 1 else None
    if not isinstance(config, Mapping) or len(robots_of(env_kwargs)) != 1:
        return None
    composite = config.get("body_parts")
    if composite is not None:
        arms = {name: part for name, part in composite.items() if str(part.get("type", "")) in UNDERSTOOD}
        if len(arms) != 1 or len(composite) != 1:
            return None
        config = next(iter(arms.values()))
    kind = config.get("type")
    if kind not in UNDERSTOOD or config.get("impedance_mode", "fixed") != "fixed":
        return None
    if "input_type" in config:
        delta = config["input_type"] == "delta"
    else:
        delta = bool(config.get("control_delta", True))
    if delta and not {"input_min", "input_max", "output_min", "output_max"} <= set(config):
        return None
    return Controller(
        kind=str(kind),
        delta=delta,
        input_range=(config.get("input_min", -1), config.get("input_max", 1)),
        output_range=(config.get("output_min", -1), config.get("output_max", 1)),
        frame=str(config.get("input_ref_frame", "world" if composite is None else "base")),
        reference="target" if config.get("goal_update_mode") == "desired" else "measured",
        holds_rotation=composite is None,
    )


def unmeant(env_kwargs: Mapping[str, Any]) -> str:
    """Why :func:`controller_of` gave None, in words."""
    robots, config = robots_of(env_kwargs), env_kwargs.get("controller_configs")
    if not robots:
        return "env_args names no robot"
    if len(robots) > 1:
        return f"there are {len(robots)} robots"
    kind = config.get("type") if isinstance(config, Mapping) else config
    return f"the controller is {kind!r}, understood are {', '.join(UNDERSTOOD)} with input and output ranges"


def base_pose(model_file: str, robot: int = 0) -> tuple[Array, Array] | None:
    """Where a robot stands in the world, from the MJCF of a demonstration: position [3], rotation [3, 3]; or None."""
    try:
        root = ElementTree.fromstring(model_file)
    except (ElementTree.ParseError, ValueError):
        return None
    world = root.find("worldbody")
    if world is None:
        return None
    try:
        for name in (f"robot{robot}_link0", f"robot{robot}_base"):
            found = _find(world, name, np.zeros(3), np.eye(3))
            if found is not None:
                return found
    except ValueError:  # a position or a quaternion that is not made of numbers
        return None
    return None


def _find(node: ElementTree.Element, name: str, position: Array, rotation: Array) -> tuple[Array, Array] | None:
    for body in node.findall("body"):
        if {"euler", "axisangle", "xyaxes", "zaxis"} & set(body.attrib):
            continue  # the meaning of these depends on compiler options; robosuite writes quat
        offset = np.array([float(x) for x in body.get("pos", "0 0 0").split()])
        turn = quaternion_to_matrix(np.array([float(x) for x in body.get("quat", "1 0 0 0").split()]))
        here = (position + rotation @ offset, rotation @ turn)
        if body.get("name") == name:
            return here
        found = _find(body, name, *here)
        if found is not None:
            return found
    return None
