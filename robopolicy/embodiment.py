"""A robot as a frozen card: named channels, kinematics, workspace, cameras. The single place where order is decided.

Vectors are packed and unpacked **by channel name only**; nothing in the project indexes an action by a literal number.
The content hash of a card travels in every dataset and checkpoint, and a mismatch is refused with both sides named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from robopolicy.errors import EmbodimentError, EmbodimentMismatchError, explain, suggest
from robopolicy.registry import registry

__all__ = ["ACTION_SPACES", "Camera", "ChainLink", "Channel", "ChannelGroup", "Embodiment", "load_embodiment"]

ACTION_SPACES = ("joint_position", "joint_delta", "ee_pose", "ee_delta")
EE_CHANNELS = (*(f"ee_position.{a}" for a in "xyz"), *(f"ee_rotation.{i}" for i in range(6)))
"""TCP pose in the robot's base frame: metres, then the first two columns of the rotation matrix."""


@dataclass(frozen=True)
class Channel:
    """One named scalar.

    Attributes:
        name: Unique within its group.
        unit: ``rad``, ``m``, ``normalised`` ...
        lower, upper: Admissible range in ``unit``.
        max_velocity: ``unit``/s.
        max_acceleration: ``unit``/s^2.
        max_jerk: ``unit``/s^3.
    """

    name: str
    unit: str
    lower: float
    upper: float
    max_velocity: float = float("inf")
    max_acceleration: float = float("inf")
    max_jerk: float = float("inf")

    def __post_init__(self) -> None:
        if not (np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper):
            raise EmbodimentError(explain(f"channel '{self.name}' needs lower < upper", given=(self.lower, self.upper)))
        for limit in ("max_velocity", "max_acceleration", "max_jerk"):
            if not getattr(self, limit) > 0:
                raise EmbodimentError(explain(f"channel '{self.name}' needs {limit} > 0", given=getattr(self, limit)))


@dataclass(frozen=True)
class ChannelGroup:
    """An ordered set of channels; the only translator between names and positions in a vector."""

    channels: tuple[Channel, ...]

    def __len__(self) -> int:
        return len(self.channels)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Channel names in vector order."""
        return tuple(c.name for c in self.channels)

    @cached_property
    def lower(self) -> NDArray[np.float64]:
        """[n] lower bounds."""
        return np.array([c.lower for c in self.channels])

    @cached_property
    def upper(self) -> NDArray[np.float64]:
        """[n] upper bounds."""
        return np.array([c.upper for c in self.channels])

    def limit(self, kind: str) -> NDArray[np.float64]:
        """[n] of ``max_velocity``, ``max_acceleration`` or ``max_jerk``."""
        return np.array([getattr(c, kind) for c in self.channels], dtype=float)

    def index(self, name: str) -> int:
        """Position of ``name``.

        Raises:
            EmbodimentError: no such channel.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise EmbodimentError(
                explain("no such channel", given=repr(name), allowed=self.names, mend=suggest(name, self.names))
            ) from None

    def select(self, prefix: str) -> NDArray[np.intp]:
        """Positions of all channels named ``prefix`` or ``prefix.*``, in vector order."""
        found = [i for i, n in enumerate(self.names) if n == prefix or n.startswith(prefix + ".")]
        if not found:
            raise EmbodimentError(explain("no channel with that prefix", given=repr(prefix), allowed=self.names))
        return np.array(found)

    def pack(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Named scalars (or arrays of one shape ``[...]``) -> ``[..., n]``, in any order of the mapping.

        Raises:
            EmbodimentError: a channel is missing or unknown.
        """
        missing, unknown = set(self.names) - set(values), set(values) - set(self.names)
        if missing or unknown:
            raise EmbodimentError(
                explain(
                    f"cannot pack: missing {sorted(missing)}, unknown {sorted(unknown)}",
                    allowed=self.names,
                    mend="; ".join(filter(None, (suggest(n, self.names) for n in sorted(unknown)))) or None,
                )
            )
        return np.stack([np.asarray(values[n], dtype=float) for n in self.names], axis=-1)

    def unpack(self, vector: Any) -> dict[str, NDArray[np.float64]]:
        """``[..., n]`` -> named arrays ``[...]``.

        Raises:
            EmbodimentError: wrong width.
        """
        vector = np.asarray(vector, dtype=float)
        if vector.ndim == 0 or vector.shape[-1] != len(self):
            raise EmbodimentError(
                explain("vector of the wrong width", given=vector.shape, allowed=f"[..., {len(self)}]: {self.names}")
            )
        return {n: vector[..., i] for i, n in enumerate(self.names)}


@dataclass(frozen=True)
class ChainLink:
    """Fixed transform from the previous joint's frame, then one revolute joint about ``axis``.

    Attributes:
        joint: Channel name of the joint.
        position_m: [3] in the parent frame.
        quaternion: [4] wxyz in the parent frame.
        axis: [3] unit vector in the joint's own frame.
    """

    joint: str
    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the view axis is -z, x to the right, y up (OpenGL).

    Attributes:
        name: Slot name, such as ``front`` or ``wrist``.
        width, height: Pixels.
        fovy_deg: Vertical field of view.
        mount: ``world`` (robot base frame) or ``tcp``.
        position_m: [3] in the mount frame.
        quaternion: [4] wxyz in the mount frame.
    """

    name: str
    width: int
    height: int
    fovy_deg: float
    mount: str
    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """[3, 3] matrix K in pixels, square pixels, principal point in the centre."""
        focal = 0.5 * self.height / np.tan(np.deg2rad(self.fovy_deg) / 2)
        return np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1.0]])


@dataclass(frozen=True)
class Embodiment:
    """A robot, its controller rates and its limits.

    Attributes:
        name: Registry name.
        description: One line for people.
        action_space: One of :data:`ACTION_SPACES`.
        control_hz: Rate of policy actions.
        setpoint_hz: Rate of setpoints to the robot; an integer multiple of ``control_hz``.
        joints: Command channels: arm joints in chain order, then the gripper (0 closed, 1 open).
        gripper: Name of the gripper channel.
        gripper_width_m: Opening between the fingertips at gripper = 1.
        chain: Kinematic chain from base to flange.
        tcp: (position_m, quaternion wxyz) of the tool centre point in the last joint's frame.
        workspace: (lower_m [3], upper_m [3]) box that the TCP never leaves, base frame.
        home: Joint name -> position at episode start.
        cameras: Camera slots.
        sensors: Names of further sensors (force, touch).
    """

    name: str
    description: str
    action_space: str
    control_hz: float
    setpoint_hz: float
    joints: ChannelGroup
    gripper: str
    gripper_width_m: float
    chain: tuple[ChainLink, ...]
    tcp: tuple[tuple[float, ...], tuple[float, ...]]
    workspace: tuple[tuple[float, ...], tuple[float, ...]]
    home: Mapping[str, float]
    cameras: tuple[Camera, ...] = ()
    sensors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.action_space not in ACTION_SPACES:
            raise EmbodimentError(explain("unknown action_space", given=self.action_space, allowed=ACTION_SPACES))
        ratio = self.setpoint_hz / self.control_hz
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise EmbodimentError(
                explain("setpoint_hz / control_hz must be an integer", given=f"{self.setpoint_hz} / {self.control_hz}")
            )
        if [link.joint for link in self.chain] != [n for n in self.joints.names if n != self.gripper]:
            raise EmbodimentError(explain("the chain must list the arm joints in order", given=self.chain))
        self.joints.pack(self.home)

    @cached_property
    def action(self) -> ChannelGroup:
        """Channels of the policy's action, derived from ``action_space``."""
        gripper = self.joints.channels[self.joints.index(self.gripper)]
        if self.action_space == "ee_pose":
            return ChannelGroup((*self._ee_channels, gripper))
        if self.action_space == "joint_position":
            return self.joints
        raise EmbodimentError(
            explain(
                f"action_space '{self.action_space}' has no channels yet",
                allowed=("ee_pose", "joint_position"),
                mend="store absolute targets",
            )
        )

    @cached_property
    def state(self) -> ChannelGroup:
        """Channels of measured proprioception: TCP pose and gripper opening."""
        return ChannelGroup((*self._ee_channels, self.joints.channels[self.joints.index(self.gripper)]))

    @property
    def _ee_channels(self) -> tuple[Channel, ...]:
        bounds = [*zip(*self.workspace, strict=True), *[(-1.0, 1.0)] * 6]
        units = ["m"] * 3 + ["rotation_6d"] * 6
        return tuple(Channel(n, u, lo, hi) for n, u, (lo, hi) in zip(EE_CHANNELS, units, bounds, strict=True))

    @cached_property
    def home_position(self) -> NDArray[np.float64]:
        """[J] joint vector at episode start."""
        return self.joints.pack(self.home)

    @property
    def control_dt_s(self) -> float:
        """Seconds between two policy actions."""
        return 1.0 / self.control_hz

    @property
    def tick_s(self) -> float:
        """Seconds between two setpoints."""
        return 1.0 / self.setpoint_hz

    def camera(self, name: str) -> Camera:
        """The camera of that name.

        Raises:
            EmbodimentError: no such camera.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        names = [c.name for c in self.cameras]
        raise EmbodimentError(
            explain(f"'{self.name}' has no such camera", given=repr(name), allowed=names, mend=suggest(name, names))
        )

    def pack(self, values: Mapping[str, Any]) -> NDArray[np.float64]:
        """Named action channels -> [..., A]."""
        return self.action.pack(values)

    def unpack(self, vector: Any) -> dict[str, NDArray[np.float64]]:
        """[..., A] -> named action channels."""
        return self.action.unpack(vector)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain lists, dicts and numbers; :meth:`from_dict` inverts it."""
        position, quaternion = self.tcp
        lower, upper = self.workspace
        return {
            "name": self.name,
            "description": self.description,
            "action_space": self.action_space,
            "control_hz": float(self.control_hz),
            "setpoint_hz": float(self.setpoint_hz),
            "joints": [dataclasses.asdict(c) for c in self.joints.channels],
            "gripper": {"channel": self.gripper, "width_m": float(self.gripper_width_m)},
            "chain": [_plain(dataclasses.asdict(link)) for link in self.chain],
            "tcp": {"position_m": list(position), "quaternion": list(quaternion)},
            "workspace": {"lower_m": list(lower), "upper_m": list(upper)},
            "home": {n: float(self.home[n]) for n in self.joints.names},
            "cameras": [_plain(dataclasses.asdict(c)) for c in self.cameras],
            "sensors": list(self.sensors),
        }

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> Embodiment:
        """Build from the mapping of a YAML card; keys ``target`` and ``simulation`` (for ``sim/``) are ignored.

        Raises:
            EmbodimentError: a missing, unknown or contradictory entry.
        """
        card = {k: v for k, v in card.items() if k not in ("target", "simulation")}
        try:
            return cls(
                name=card.pop("name"),
                description=card.pop("description", ""),
                action_space=card.pop("action_space"),
                control_hz=float(card.pop("control_hz")),
                setpoint_hz=float(card.pop("setpoint_hz")),
                joints=ChannelGroup(tuple(Channel(**c) for c in card.pop("joints"))),
                gripper=card["gripper"]["channel"],
                gripper_width_m=float(card.pop("gripper")["width_m"]),
                chain=tuple(ChainLink(**_tuples(link)) for link in card.pop("chain")),
                tcp=_pair(card.pop("tcp"), "position_m", "quaternion"),
                workspace=_pair(card.pop("workspace"), "lower_m", "upper_m"),
                home=dict(card.pop("home")),
                cameras=tuple(Camera(**_tuples(c)) for c in card.pop("cameras", [])),
                sensors=tuple(card.pop("sensors", [])),
                **card,
            )
        except KeyError as error:
            raise EmbodimentError(explain(f"embodiment card without {error}", given=sorted(card))) from error
        except TypeError as error:
            raise EmbodimentError(explain(f"embodiment card: {error}")) from error

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the card without its description."""
        content = {k: v for k, v in self.to_dict().items() if k != "description"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def require_same(self, other: Embodiment, *, mine: str, theirs: str) -> None:
        """Refuse ``other`` unless its hash is this one.

        Args:
            other: The card met elsewhere.
            mine: What carries this card, for the message ("the checkpoint runs/a").
            theirs: What carries the other.

        Raises:
            EmbodimentMismatchError: naming both sides and the entries that differ.
        """
        if self.hash == other.hash:
            return
        a, b = self.to_dict(), other.to_dict()
        differ = [k for k in a if k != "description" and a[k] != b[k]]
        raise EmbodimentMismatchError(
            explain(
                f"{mine} is for '{self.name}' ({self.hash}), {theirs} is for '{other.name}' ({other.hash}); "
                f"they differ in {differ}",
                mend=f"use data, checkpoint and robot of one embodiment, or convert {theirs}",
            )
        )


def load_embodiment(name_or_path: str | Path) -> Embodiment:
    """Read a card by registry name, or from a YAML file.

    Raises:
        UnknownNameError: no such name.
        EmbodimentError: the card is faulty.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Embodiment.from_dict(yaml.safe_load(path.read_text()))
    return Embodiment.from_dict(registry("embodiment").config(str(name_or_path)))


def _pair(entry: Mapping[str, Sequence[float]], first: str, second: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x) for x in entry[first]), tuple(float(x) for x in entry[second])


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(float(x) for x in v) if isinstance(v, (list, tuple)) else v for k, v in entry.items()}


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in entry.items()}
