"""What the numbers of an RLDS data set mean: a table, because its schema says shapes and no more.

The table is the entry ``conventions`` of ``configs/format/rlds.yaml``; a user adds one in a YAML file of its own. A
convention names, for state and action, where position, rotation and gripper are (``observation/state[3:6]``) and what
they mean; everything is then brought into the store's terms by :mod:`robopolicy.data.convert.unify`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from robopolicy.data.convert.deltas import delta_targets
from robopolicy.data.convert.unify import gripper_opening, pose_channels, rotation_matrix
from robopolicy.errors import ConfigError, DataError, UnknownNameError, explain, suggest
from robopolicy.registry import registry
from robopolicy.robot_parts import EE_CHANNELS
from robopolicy.schema import build, setting

__all__ = ["Convention", "GripperRule", "PoseRule", "canonical", "columns_of", "find_convention", "keys_of"]

Array = NDArray[np.float64]
_PLACE = re.compile(r"(?P<key>[\w./-]+?)(?:\[(?P<first>\d+):(?P<last>\d+)\])?")


@dataclass(frozen=True)
class GripperRule:
    """A linear gripper reading."""

    of: str = setting("where it is, as key[a:b]")
    closed: float = setting("value when closed")
    open: float = setting("value when open")


@dataclass(frozen=True)
class PoseRule:
    """Where a pose is, and what it means."""

    position: str = setting("where the position (m) is, as key[a:b]")
    rotation: str = setting("where the rotation is, as key[a:b]")
    form: str = setting("form of the rotation, see unify.ROTATION_FORMS")
    gripper: GripperRule = setting("the gripper")
    tool_m: tuple[float, ...] = setting("where the card's tool is in the frame of this pose (m)", default=())
    offset: tuple[tuple[float, float, float], ...] = setting(
        "how the card's tool is turned in the frame of this pose, rows of a matrix", default=()
    )
    reference: Literal["absolute", "measured", "target"] = setting(
        "what an action is added to: nothing, the measured pose, the target before", default="absolute"
    )
    frame: Literal["base", "tool"] = setting("axes of a delta", default="base")


@dataclass(frozen=True)
class Convention:
    """One entry of the table."""

    fps: float = setting("rows per second", gt=0.0)
    state: PoseRule = setting("the measured pose")
    action: PoseRule = setting("the commanded pose or its delta")
    datasets: tuple[str, ...] = setting("names of data sets that follow it", default=())
    description: str = setting("what is known, and from where", default="")
    card: str = setting("embodiment card; empty for an arm known by its pose only", default="")
    robot: str = setting("name of the robot where there is no card", default="")
    gripper_width_m: float = setting("opening between the fingertips where there is no card", default=0.0)
    cameras: dict[str, str] = setting("image key -> camera slot; others keep their name", default={})
    language: tuple[str, ...] = setting("keys of the instruction, the first that is not empty", default=())
    dummy_first_row: bool = setting("whether row 0 of every episode has no action (zeros)", default=False)


def find_convention(name: str, data_set: str) -> tuple[str, Convention | None]:
    """A convention by name, by file, or by the name of the data set.

    Args:
        name: ``auto``, ``none``, an entry of the table, or a YAML file that holds one entry.
        data_set: For ``auto``: compared with the names in the table, whole, in lower case.

    Returns:
        Its name and the convention; ("none", None) when there is none.

    Raises:
        UnknownNameError: no such entry.
        DataError: a file that cannot be used.
    """
    if name == "none":
        return "none", None
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        try:
            return path.stem, build(Convention, yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, ConfigError) as error:
            raise DataError(explain(f"the convention {path} cannot be used: {error}")) from error
    table = registry("format").config("rlds")["conventions"]
    if name == "auto":
        for entry, rules in table.items():
            if data_set.lower() in rules.get("datasets", ()):
                return entry, build(Convention, rules, f"conventions.{entry}")
        return "none", None
    if name not in table:
        known = ["auto", "none", *table, "a YAML file"]
        raise UnknownNameError(explain("no such convention", given=name, allowed=known, mend=suggest(name, known)))
    return name, build(Convention, table[name], f"conventions.{name}")


def keys_of(rule: PoseRule) -> tuple[str, ...]:
    """The keys of the source that a rule reads."""
    return tuple(dict.fromkeys(_place(p)[0] for p in (rule.position, rule.rotation, rule.gripper.of)))


def columns_of(place: str, values: Callable[[str], NDArray[Any]]) -> Array:
    """The numbers at ``key[a:b]`` f64 [T, b - a].

    Args:
        place: Key and columns.
        values: Key -> [T, ...].

    Raises:
        DataError: no such columns.
    """
    key, chosen = _place(place)
    array = np.asarray(values(key), np.float64)
    array = array.reshape(len(array), int(np.prod(array.shape[1:], dtype=np.int64)))
    if chosen is None:
        return array
    if chosen.stop > array.shape[1] or chosen.start >= chosen.stop:
        raise DataError(
            explain("the convention does not fit: no such columns", given=place, allowed=f"{array.shape[1]} columns")
        )
    return array[:, chosen]


def canonical(rule: Convention, values: Callable[[str], NDArray[Any]]) -> tuple[dict[str, Array], dict[str, Array]]:
    """State and action of an episode, by channel name of a card with one arm, each [T].

    Args:
        rule: The convention.
        values: Key -> [T, ...] of the source, without ``steps/``.

    Raises:
        DataError: columns or widths that do not fit.
    """
    position, rotation, opening = _pose(rule.state, values)
    moved, turned, command = _pose(rule.action, values)
    state = {**_tool(rule.state, position, rotation), "gripper": opening}
    if rule.action.reference == "absolute":
        return state, {**_tool(rule.action, moved, turned), "gripper": command}
    how = {"frame": rule.action.frame, "reference": rule.action.reference}
    target = delta_targets(position, rotation, moved, turned, **how)
    return state, {**_tool(rule.state, *target), "gripper": command}


def _pose(rule: PoseRule, values: Callable[[str], NDArray[Any]]) -> tuple[Array, Array, Array]:
    """Position, rotation and gripper as the source has them."""
    position = columns_of(rule.position, values)
    if position.shape[1] != 3:
        raise DataError(explain("a position has three numbers", given=rule.position, allowed="key[a:a+3]"))
    rotation = rotation_matrix(columns_of(rule.rotation, values), rule.form)
    reading = columns_of(rule.gripper.of, values)
    opening = gripper_opening(reading, closed=rule.gripper.closed, opened=rule.gripper.open)
    if opening.shape[1] != 1:
        raise DataError(explain("a gripper has one number", given=rule.gripper.of, allowed="key[a:a+1]"))
    return position, rotation, opening[:, 0]


def _tool(rule: PoseRule, position: Array, rotation: Array) -> dict[str, Array]:
    """Pose in the source -> channels of the card's tool."""
    if rule.tool_m:
        position = position + rotation @ np.array(rule.tool_m)
    if rule.offset:
        rotation = rotation @ np.array(rule.offset)
    return _named(position, rotation)


def _named(position: Array, rotation: Array) -> dict[str, Array]:
    pose = pose_channels(position, rotation)
    return {name: pose[:, i] for i, name in enumerate(EE_CHANNELS)}


def _place(place: str) -> tuple[str, slice | None]:
    match = _PLACE.fullmatch(place)
    if not match:
        raise DataError(explain("a place in the source is written key[a:b]", given=place))
    if match["first"] is None:
        return match["key"], None
    return match["key"], slice(int(match["first"]), int(match["last"]))
