"""A robot as a frozen card: named channels, kinematics, workspace, cameras. The single place where order is decided.

Vectors are packed and unpacked **by channel name only**; nothing in the project indexes an action by a literal number.
The content hash of a card travels in every dataset and checkpoint, and a mismatch is refused with both sides named.

A card has any number of arms. The channels of a single arm have plain names (``joint1``, ``gripper``,
``ee_position.x``); with several arms those of an arm begin with its name and a dot (``left.joint1``,
``left.ee_position.x``). A card without joints describes a dataset whose robot is not known well enough to be driven.
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

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.errors import EmbodimentError, EmbodimentMismatchError, explain, suggest
from robopolicy.registry import registry
from robopolicy.robot_parts import EE_CHANNELS, Arm, Camera, ChainLink, ee_delta_channels, joint_rate_channels

__all__ = [
    "ACTION_REFERENCES",
    "ACTION_SPACES",
    "DERIVED_SPACES",
    "EE_CHANNELS",
    "STATE_SPACES",
    "Arm",
    "Camera",
    "ChainLink",
    "Channel",
    "ChannelGroup",
    "Embodiment",
    "load_embodiment",
]

ACTION_SPACES = (
    *("joint_position", "joint_delta", "joint_velocity", "ee_pose", "ee_delta", "ee_stiffness"),
    "custom",
)
DERIVED_SPACES = ("joint_delta", "joint_velocity", "ee_delta", "ee_stiffness")
"""Action spaces that a controller turns into targets of the robot's own; their channels may be listed in the card."""

STATE_SPACES = ("joint_position", "ee_pose", "custom")
ACTION_REFERENCES = ("absolute", "delta", "commanded", "normalised")
"""``absolute`` targets, ``delta`` from the measured state of the row, steps or rates from what was ``commanded`` last,
or ``normalised`` by a rule that is not known."""


@dataclass(frozen=True)
class Embodiment:
    """A robot, its controller rates and its limits.

    Attributes:
        name: Registry name.
        description: One line for people.
        action_space: One of :data:`ACTION_SPACES`.
        control_hz: Rate of policy actions.
        setpoint_hz: Rate of setpoints to the robot; an integer multiple of ``control_hz``.
        joints: Command channels in vector order; empty for a card that only describes data.
        arms: What the joints belong to; joints of no arm are torso, head or base.
        home: Joint name -> position at episode start; empty when there is none.
        cameras: Camera slots.
        sensors: Names of further sensors (force, touch).
        state_space: One of :data:`STATE_SPACES`: which channels are the measured proprioception.
        custom_state: Channels of ``state`` where ``state_space`` is ``custom``.
        custom_action: Channels of ``action`` where ``action_space`` is ``custom``.
        action_reference: One of :data:`ACTION_REFERENCES`; anything but ``absolute`` cannot be driven.
        slots: Channel -> semantic slot where the card's structure does not tell it, see :mod:`robopolicy.slots`.
    """

    name: str
    description: str
    action_space: str
    control_hz: float
    setpoint_hz: float
    joints: ChannelGroup
    arms: tuple[Arm, ...]
    home: Mapping[str, float]
    cameras: tuple[Camera, ...] = ()
    sensors: tuple[str, ...] = ()
    state_space: str = "ee_pose"
    custom_state: ChannelGroup | None = None
    custom_action: ChannelGroup | None = None
    action_reference: str = "absolute"
    slots: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, allowed in (
            ("action_space", ACTION_SPACES),
            ("state_space", STATE_SPACES),
            ("action_reference", ACTION_REFERENCES),
        ):
            if getattr(self, kind) not in allowed:
                raise EmbodimentError(explain(f"unknown {kind}", given=getattr(self, kind), allowed=allowed))
        ratio = self.setpoint_hz / self.control_hz
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise EmbodimentError(
                explain("setpoint_hz / control_hz must be an integer", given=f"{self.setpoint_hz} / {self.control_hz}")
            )
        self._check_arms()
        if self.home:
            self.joints.pack(self.home)
        for kind in ("state", "action"):
            space, listed = getattr(self, f"{kind}_space"), getattr(self, f"custom_{kind}") is not None
            if (space == "custom") != listed and not (listed and space in DERIVED_SPACES):
                raise EmbodimentError(
                    explain(f"{kind}_space 'custom' and a list of {kind} channels belong together", given=self.name)
                )

    def _check_arms(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names) or (len(names) > 1 and "" in names):
            raise EmbodimentError(explain("several arms need a name each", given=names))
        for arm in self.arms:
            chain = [link.joint for link in arm.chain]
            held = [n for n in self.joints.names if n in chain]
            if held != chain:
                raise EmbodimentError(explain("the chain must list the arm joints in order", given=chain))
            unknown = [n for n in arm.end_effector if n not in self.joints.names]
            if unknown:
                raise EmbodimentError(
                    explain(f"gripper or hand of arm '{arm.name}' is not among the joints", given=unknown)
                )
        if len(self.arms) == 1 and self.arms[0].chain and not self.arms[0].name:
            arm = self.arms[0]
            moved = [n for n in self.joints.names if n not in arm.end_effector]
            if [link.joint for link in arm.chain] != moved:
                raise EmbodimentError(explain("the chain must list the arm joints in order", given=arm.chain))

    @cached_property
    def action(self) -> ChannelGroup:
        """Channels of the policy's action, derived from ``action_space``."""
        if self.custom_action is None and self.action_space in ("joint_delta", "joint_velocity"):
            word = self.action_space.removeprefix("joint_")
            return joint_rate_channels(self.joints, self.arms, self.control_dt_s, word)
        if self.custom_action is None and self.action_space == "ee_delta":
            return ee_delta_channels(self.arm(), self.joints, self.control_dt_s)
        if self.custom_action is None and self.action_space == "ee_stiffness":
            raise EmbodimentError(
                explain(f"'{self.name}': ee_stiffness needs a list of channels", mend="give custom_action in the card")
            )
        return self._space(self.action_space, self.custom_action)

    @cached_property
    def state(self) -> ChannelGroup:
        """Channels of measured proprioception, derived from ``state_space``."""
        return self._space(self.state_space, self.custom_state)

    def _space(self, space: str, custom: ChannelGroup | None) -> ChannelGroup:
        if custom is not None:
            return custom
        if space == "joint_position":
            return self.joints
        ends = [self.joints.channels[self.joints.index(n)] for arm in self.arms for n in arm.end_effector]
        chained = {link.joint for arm in self.arms for link in arm.chain}
        ended = {c.name for c in ends}
        rest = [c for c in self.joints.channels if c.name not in chained | ended] if len(self.arms) != 1 else []
        channels: list[Channel] = []
        for arm in self.arms:
            channels += [*arm.pose_channels, *(c for c in ends if c.name in arm.end_effector)]
        return ChannelGroup((*channels, *rest))

    def arm(self, name: str = "") -> Arm:
        """The arm of that name; the only one when no name is given.

        Raises:
            EmbodimentError: no such arm, or a name is needed.
        """
        names = [arm.name for arm in self.arms]
        if not name and len(self.arms) == 1:
            return self.arms[0]
        if name not in names or not name:
            mend = suggest(name, names) if name else "name one, or use a card with a single arm"
            raise EmbodimentError(
                explain(f"'{self.name}' has {len(names)} arms", given=repr(name), allowed=names, mend=mend)
            )
        return self.arms[names.index(name)]

    def single_arm(self, name: str = "") -> Embodiment:
        """The card of one arm alone, with pose channels of plain names; joints keep theirs."""
        arm = self.arm(name)
        wanted = {link.joint for link in arm.chain} | set(arm.end_effector)
        joints = ChannelGroup(tuple(c for c in self.joints.channels if c.name in wanted))
        return dataclasses.replace(
            self,
            name=f"{self.name}:{arm.name}" if arm.name else self.name,
            joints=joints,
            arms=(dataclasses.replace(arm, name=""),),
            home={n: self.home[n] for n in joints.names} if self.home else {},
            action_space="ee_pose",
            state_space="ee_pose",
            custom_state=None,
            custom_action=None,
        )

    @property
    def chain(self) -> tuple[ChainLink, ...]:
        """Kinematic chain of the only arm."""
        return self.arm().chain

    @property
    def tcp(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(position_m, quaternion wxyz) of the only arm's tool centre point in its last joint's frame."""
        return self.arm().tcp

    @property
    def workspace(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(lower_m, upper_m) of the only arm."""
        return self.arm().workspace

    @property
    def gripper(self) -> str:
        """Name of the only arm's gripper channel."""
        return self.arm().gripper

    @property
    def gripper_width_m(self) -> float:
        """Opening of the only arm's gripper at 1."""
        return self.arm().gripper_width_m

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
        card: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "action_space": self.action_space,
            "control_hz": float(self.control_hz),
            "setpoint_hz": float(self.setpoint_hz),
            "joints": [_channel(c) for c in self.joints.channels],
        }
        if [arm.name for arm in self.arms] == [""] and not self.arms[0].hand:
            card |= _arm_to_dict(self.arms[0])
        else:
            card["arms"] = [{"name": a.name, **_arm_to_dict(a), "hand": list(a.hand)} for a in self.arms]
        card |= {
            "home": {n: float(self.home[n]) for n in self.joints.names if self.home},
            "cameras": [_plain(dataclasses.asdict(c)) for c in self.cameras],
            "sensors": list(self.sensors),
        }
        # Written only where they differ from the default, so that the hash of a card does not depend on these options.
        if self.state_space != "ee_pose":
            card["state_space"] = self.state_space
        if self.action_reference != "absolute":
            card["action_reference"] = self.action_reference
        if self.slots:
            card["slots"] = dict(self.slots)
        for key in ("custom_state", "custom_action"):
            group = getattr(self, key)
            if group is not None:
                card[key] = [_channel(c) for c in group.channels]
        return card

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> Embodiment:
        """Build from the mapping of a YAML card; keys ``target`` and ``simulation`` (for ``sim/``) are ignored.

        Raises:
            EmbodimentError: a missing, unknown or contradictory entry.
        """
        card = {k: v for k, v in card.items() if k not in ("target", "simulation")}
        groups: dict[str, Any] = {
            k: _group(card.pop(k)) for k in ("custom_state", "custom_action") if card.get(k) is not None
        }
        try:
            if "arms" in card:
                arms = tuple(_arm(dict(entry)) for entry in card.pop("arms"))
            else:
                arms = (_arm({k: card.pop(k) for k in ("gripper", "chain", "tcp", "workspace")}),)
            return cls(
                name=card.pop("name"),
                description=card.pop("description", ""),
                action_space=card.pop("action_space"),
                control_hz=float(card.pop("control_hz")),
                setpoint_hz=float(card.pop("setpoint_hz")),
                joints=_group(card.pop("joints")),
                arms=arms,
                home={k: float(v) for k, v in card.pop("home").items()},
                cameras=tuple(Camera(**_tuples(c)) for c in card.pop("cameras", [])),
                sensors=tuple(card.pop("sensors", [])),
                **groups,
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
        differ = sorted(k for k in a.keys() | b.keys() if k != "description" and a.get(k) != b.get(k))
        raise EmbodimentMismatchError(
            explain(
                f"{mine} is for '{self.name}' ({self.hash}), {theirs} is for '{other.name}' ({other.hash}); "
                f"they differ in {differ}",
                mend=f"use data, checkpoint and robot of one embodiment, or convert {theirs}",
            )
        )


def load_embodiment(name_or_path: str | Path) -> Embodiment:
    """Read a card by registry name, or from a YAML file; ``panda@ee_delta`` is a robot's card under a controller.

    Raises:
        UnknownNameError: no such name.
        EmbodimentError: the card is faulty.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return Embodiment.from_dict(yaml.safe_load(path.read_text()))
    base, _, controller = str(name_or_path).partition("@")
    card = Embodiment.from_dict(registry("embodiment").config(base))
    if not controller:
        return card
    parameters = {k: v for k, v in registry("controller").config(controller).items() if k != "target"}
    derived: Embodiment = registry("controller").load(controller)(card, **parameters).card
    return derived


def _channel(channel: Channel) -> dict[str, Any]:
    entry = dataclasses.asdict(channel)
    return {k: float(v) if isinstance(v, (int, float)) else v for k, v in entry.items()}


def _group(entries: Sequence[Mapping[str, Any]]) -> ChannelGroup:
    infinite = ("Infinity", "-Infinity")  # how a limit that is none is written in JSON
    plain: list[dict[str, Any]] = [{k: float(v) if v in infinite else v for k, v in entry.items()} for entry in entries]
    return ChannelGroup(tuple(Channel(**c) for c in plain))


def _arm_to_dict(arm: Arm) -> dict[str, Any]:
    position, quaternion = arm.tcp
    lower, upper = arm.workspace
    return {
        "gripper": {"channel": arm.gripper, "width_m": float(arm.gripper_width_m)},
        "chain": [_plain(dataclasses.asdict(link)) for link in arm.chain],
        "tcp": {"position_m": _floats(position), "quaternion": _floats(quaternion)},
        "workspace": {"lower_m": _floats(lower), "upper_m": _floats(upper)},
    }


def _arm(entry: Mapping[str, Any]) -> Arm:
    """One arm of a card; an entry of ``arms`` may leave out what is not known."""
    gripper, default = entry.get("gripper") or {}, Arm()
    return Arm(
        name=entry.get("name", ""),
        chain=tuple(ChainLink(**_tuples(link)) for link in entry.get("chain", [])),
        tcp=_pair(entry["tcp"], "position_m", "quaternion") if entry.get("tcp") else default.tcp,
        workspace=_pair(entry["workspace"], "lower_m", "upper_m") if entry.get("workspace") else default.workspace,
        gripper=gripper.get("channel", ""),
        gripper_width_m=float(gripper.get("width_m", 0.0)),
        hand=tuple(entry.get("hand", ())),
    )


def _pair(entry: Mapping[str, Sequence[float]], first: str, second: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(float(x) for x in entry[first]), tuple(float(x) for x in entry[second])


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(float(x) for x in v) if isinstance(v, (list, tuple)) else v for k, v in entry.items()}


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _floats(v) if isinstance(v, tuple) else v for k, v in entry.items()}


def _floats(values: Sequence[float]) -> list[float]:
    """One form for 1 and 1.0, so that a card written by hand keeps its hash when it is stored."""
    return [float(v) for v in values]
