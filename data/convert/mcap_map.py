"""What a user says about an MCAP recording: which topics are state, action and images, and on which clock.

A YAML file, given as ``options.map=FILE``; ``configs/format/mcap.yaml`` shows one. Nothing is guessed from
a topic's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from robopolicy.errors import ConfigError, explain
from robopolicy.robot_parts import EE_CHANNELS
from robopolicy.schema import build, setting

__all__ = ["ExtraStream", "ImagePart", "Part", "Split", "TextPart", "TopicMap", "read_map", "stamp_stream"]


@dataclass(frozen=True)
class Part:
    """Some numbers of one topic's messages, as channels."""

    topic: str = setting("name of the topic")
    field: str | tuple[str, ...] = setting(
        "dotted path of a number or a list, or several; empty for a pose", default=""
    )
    pose: str = setting("dotted path of a pose (position, orientation xyzw), '.' for the message itself", default="")
    channels: tuple[str, ...] = setting("names of the numbers; a pose makes nine from prefix", default=())
    prefix: str = setting("of a pose's channels, such as 'left.'", default="")
    names: str = setting("dotted path of the list of names beside 'field', as in JointState", default="")
    pick: tuple[str, ...] = setting("which of these names, in the order of 'channels'", default=())
    unit: str = setting("of the channels after scaling", default="unknown")
    scale: float = setting("factor", default=1.0)
    offset: float = setting("added after scaling", default=0.0)
    closed: float | None = setting("gripper: reading that becomes 0", default=None)
    opened: float | None = setting("gripper: reading that becomes 1", default=None)
    rule: Literal["auto", "last", "step_end", "interpolate"] = setting(
        "how rows are made; auto: step_end for action and joint_command, else last", default="auto"
    )
    stamp: str = setting("dotted path of the time of capture; empty: header.stamp or timestamp", default="")
    max_age_s: float | None = setting("oldest sample that a row may use; null: that of the map", default=None, gt=0)

    def __post_init__(self) -> None:
        if bool(self.field) == bool(self.pose):
            raise ConfigError(explain(f"topic {self.topic} needs either field or pose", given=(self.field, self.pose)))
        if (self.closed is None) != (self.opened is None):
            raise ConfigError(explain(f"topic {self.topic}: closed and opened belong together"))
        if bool(self.names) != bool(self.pick) or (self.pick and len(self.pick) != len(self.channels)):
            raise ConfigError(explain(f"topic {self.topic}: names needs pick, one entry per channel", given=self.pick))
        if not self.pose and not self.channels:
            raise ConfigError(explain(f"topic {self.topic} needs channels, one name per number"))

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of the numbers."""
        return (self.field,) if isinstance(self.field, str) else self.field

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the rows' channels."""
        return tuple(self.prefix + n for n in EE_CHANNELS) if self.pose else self.channels

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the rows' channels."""
        return ("m",) * 3 + ("rotation_6d",) * 6 if self.pose else (self.unit,) * len(self.channels)


@dataclass(frozen=True)
class ImagePart:
    """One topic of frames."""

    topic: str = setting("name of the topic")
    stamp: str = setting("dotted path of the time of capture; empty: header.stamp or timestamp", default="")
    max_age_s: float | None = setting("oldest frame that a row may use; null: that of the map", default=None, gt=0)
    rule: Literal["last"] = setting("frames are never mixed", default="last")


@dataclass(frozen=True)
class TextPart:
    """A topic that labels an episode; its last message counts."""

    topic: str = setting("name of the topic")
    field: str = setting("dotted path of the text or truth value", default="data")


@dataclass(frozen=True)
class ExtraStream:
    """A stream that no card knows."""

    parts: tuple[Part, ...] = setting("topics and fields")
    kind: str = setting("wrench, tactile, joint_velocity ...", default="")
    frame: str = setting("base, world, camera or tool", default="")


@dataclass(frozen=True)
class Split:
    """Where episodes begin and end within a recording."""

    by: Literal["file", "gap", "topic"] = setting("a recording is one episode, or cut at gaps or marks", default="file")
    topic: str = setting("gap: topic whose silence ends an episode; topic: the one with marks", default="")
    gap_s: float = setting("gap: how long the silence lasts", default=2.0, gt=0)
    field: str = setting("topic: dotted path of the mark", default="data")
    start: Any = setting("topic: mark that begins an episode", default="start")
    stop: Any = setting("topic: mark that ends one", default="stop")

    def __post_init__(self) -> None:
        if self.by != "file" and not self.topic:
            raise ConfigError(explain(f"split by {self.by} needs a topic"))


@dataclass(frozen=True)
class TopicMap:
    """The whole map."""

    rate_hz: float = setting("rows per second", gt=0)
    state: tuple[Part, ...] = setting("what makes up the state")
    action: tuple[Part, ...] = setting("what makes up the action")
    embodiment: str = setting("card, name or YAML; empty: one that only describes the data", default="")
    robot: str = setting("name of that card", default="mcap")
    clock: str = setting("topic whose stamps are the rows; empty: a regular clock at rate_hz", default="")
    time: Literal["header", "log", "publish"] = setting("which time of a message counts", default="header")
    max_age_s: float = setting("oldest sample that a row may use", default=0.5, gt=0)
    joint_position: tuple[Part, ...] = setting("measured joints, with a card", default=())
    joint_command: tuple[Part, ...] = setting("commanded joints, with a card", default=())
    environment_state: tuple[Part, ...] = setting("privileged state", default=())
    images: dict[str, ImagePart] = setting("slot -> topic of colour frames", default={})
    depth: dict[str, ImagePart] = setting("slot -> topic of depth frames", default={})
    extra: dict[str, ExtraStream] = setting("further streams", default={})
    split: Split = setting("episodes within a recording", default=Split())
    language: TextPart | None = setting("instruction", default=None)
    success: TextPart | None = setting("label", default=None)

    def __post_init__(self) -> None:
        if bool(self.joint_position) != bool(self.joint_command) or (self.joint_position and not self.embodiment):
            raise ConfigError("joint_position and joint_command belong together, and need an embodiment")

    def sections(self) -> dict[str, tuple[Part, ...]]:
        """Stream -> its parts, of every low-dimensional stream; rules made explicit by :func:`rule_of`."""
        own = {
            "state": self.state,
            "action": self.action,
            "joint_position": self.joint_position,
            "joint_command": self.joint_command,
            "environment_state": self.environment_state,
        }
        return {k: v for k, v in own.items() if v} | {name: entry.parts for name, entry in self.extra.items()}

    def frames(self) -> dict[str, ImagePart]:
        """Stream -> topic of every stream of frames."""
        named = {"image": self.images, "depth": self.depth}
        return {f"{kind}/{slot}": part for kind, slots in named.items() for slot, part in slots.items()}

    def rule_of(self, stream: str, part: Part | ImagePart) -> str:
        """The rule by which rows of ``stream`` are made from ``part``."""
        if part.rule != "auto":
            return part.rule
        return "step_end" if stream in ("action", "joint_command") else "last"

    def topics(self) -> tuple[str, ...]:
        """Every topic that is read for an episode."""
        parts = [p.topic for section in self.sections().values() for p in section]
        parts += [p.topic for p in self.frames().values()]
        parts += [p.topic for p in (self.language, self.success) if p is not None]
        return tuple(dict.fromkeys([*parts, *([self.clock] if self.clock else [])]))


def stamp_stream(topic: str, rule: str) -> str:
    """Name of the stream that keeps the stamps of the samples used. One level: arrays cannot lie within arrays."""
    plain = re.sub(r"[^\w.-]+", ".", topic).strip(".") or "topic"
    return f"stamp_ns/{plain}" + (".step_end" if rule == "step_end" else "")


def read_map(path: Path) -> TopicMap:
    """Read and check a map.

    Raises:
        ConfigError: no such file, no YAML, or wrong entries, all of them named.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(explain(f"the map {path} cannot be read: {error}")) from error
    if not isinstance(content, dict):
        raise ConfigError(explain(f"the map {path} is not a mapping", given=type(content).__name__))
    return build(TopicMap, content)
