"""What state and action of a replay buffer mean: the published conventions, ours, and none.

From https://github.com/real-stanford/diffusion_policy:

``pusht``   ``state`` [5] = agent x, y, block x, y (pixels of a 512 window), block angle (rad); ``action`` [2] = target
            of the agent in pixels; ``img`` float 0..255; 10 Hz (``env/pusht/pusht_env.py``).
``abs10``   robosuite with absolute actions (``dataset/robomimic_replay_image_dataset.py``): position, 6-D rotation as
            the first two **rows** (pytorch3d's), gripper -1 open to +1 closed; ``abs20`` the same twice. 20 Hz.
            Measured: ``robot{i}_eef_pos`` (grip site), ``robot{i}_eef_quat`` (xyzw, of the *hand*, from which the tool
            that the action moves is turned by -90 degrees about z), ``robot{i}_gripper_qpos`` (two mirrored fingers).
``own``     written by ``robopolicy data export``: card, channels and labels are in the attributes.
``raw``     anything else: channels named as in the source, on a card that cannot be driven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.pose_cards import pose_card
from robopolicy.data.convert.replay_buffer import channel_list
from robopolicy.data.convert.source import Finding
from robopolicy.data.convert.unify import generic_card, gripper_opening, pose_channels, rotation_matrix
from robopolicy.data.convert.zarr_v2 import ArrayHeader
from robopolicy.data.episode import StreamSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain
from robopolicy.rotations import axis_angle_to_matrix

__all__ = ["KNOWN_HZ", "OWN", "Convention", "absolute", "kept_spec", "own", "pusht", "raw", "recognise_convention"]

Arrays = Mapping[str, ArrayHeader]
Get = Callable[[str], NDArray[Any]]
KNOWN_HZ = {"pusht": 10.0, "abs10": 20.0, "abs20": 20.0}
OWN = "robopolicy"
MOST_NAMES = 256
STATE_KEYS = ("state", "obs")


@dataclass(frozen=True)
class Convention:
    """How the arrays of a replay buffer become streams.

    Attributes:
        name: See the head of this module.
        card: Whose state and action the streams have.
        used: Keys that need not be kept beside.
        streams: Reader of one episode's rows by key -> the store's own streams.
        environment: Channels of the privileged state.
        joints: Whether joint streams are among them.
        extra: Streams of ``streams`` that the card does not know.
        finding: What a user should know of it.
    """

    name: str
    card: Embodiment
    used: frozenset[str]
    streams: Callable[[Get], dict[str, NDArray[Any]]]
    environment: tuple[str, ...] = ()
    joints: bool = False
    extra: Mapping[str, StreamSpec] = field(default_factory=dict)
    finding: Finding | None = None


def recognise_convention(arrays: Arrays, attributes: Mapping[str, Any]) -> str:
    """Name of the convention that keys, widths and attributes show; ``raw`` where they show none."""
    if isinstance(attributes.get(OWN), dict):
        return "own"
    widths = {key: header.width for key, header in arrays.items()}
    if widths["action"] == (2,) and widths.get("state") == (5,) and ("img" in widths or "keypoint" in widths):
        return "pusht"
    for name, robots in (("abs10", 1), ("abs20", 2)):
        keys = [f"robot{i}_{k}" for i in range(robots) for k in ("eef_pos", "eef_quat", "gripper_qpos")]
        if widths["action"] == (10 * robots,) and all(key in widths for key in keys):
            return name
    return "raw"


def pusht(arrays: Arrays, fps: float) -> Convention:
    """Push-T.

    Raises:
        DataError: other keys or widths.
    """
    _require(arrays, {"state": (5,), "action": (2,)}, "pusht")
    agent = [("agent.x", "px"), ("agent.y", "px")]

    def streams(get: Get) -> dict[str, NDArray[Any]]:
        state = get("state")
        return {"state": state[:, :2], "environment_state": state[:, 2:], "action": get("action")}

    text = "pixels of a 512 x 512 window; nothing that a robot could be driven by"
    return Convention(
        "pusht",
        generic_card("pusht", state=agent, action=agent, control_hz=fps),
        frozenset(("state", "action")),
        streams,
        environment=("block.x", "block.y", "block.angle"),
        finding=Finding("convention", text, "note"),
    )


def absolute(arrays: Arrays, fps: float, robots: int, gripper_width_m: float, hand_to_tool_deg: float) -> Convention:
    """One or two arms of robosuite with absolute tool poses.

    Raises:
        DataError: other keys or widths.
    """
    name = f"abs{10 * robots}"
    wanted: dict[str, tuple[int, ...]] = {"action": (10 * robots,)}
    for i in range(robots):
        wanted |= {f"robot{i}_eef_pos": (3,), f"robot{i}_eef_quat": (4,), f"robot{i}_gripper_qpos": (2,)}
    _require(arrays, wanted, name)
    turn = axis_angle_to_matrix(np.array([0.0, 0.0, np.deg2rad(hand_to_tool_deg)]))

    def streams(get: Get) -> dict[str, NDArray[Any]]:
        action = get("action")
        states, actions = [], []
        for i in range(robots):
            rotation = rotation_matrix(get(f"robot{i}_eef_quat"), "quaternion_xyzw") @ turn
            fingers = get(f"robot{i}_gripper_qpos").astype(np.float64)
            opening = gripper_opening(fingers[:, :1] - fingers[:, 1:], closed=0.0, opened=gripper_width_m)
            states += [pose_channels(get(f"robot{i}_eef_pos"), rotation), opening]
            part = action[:, 10 * i : 10 * i + 10]
            target = pose_channels(part[:, :3], rotation_matrix(part[:, 3:9], "rotation_6d_rows"))
            actions += [target, gripper_opening(part[:, 9:], closed=1.0, opened=-1.0)]
        return {
            "state": np.concatenate(states, axis=1),
            "action": np.concatenate(actions, axis=1),
            "source/action": action.astype(np.float32),
        }

    card = pose_card(
        "robosuite" if robots == 1 else "robosuite_bimanual",
        arms=("",) if robots == 1 else ("robot0", "robot1"),
        control_hz=fps,
        gripper_width_m=gripper_width_m,
        description="arms of a robosuite task with absolute tool poses",
    )
    text = f"measured rotations were turned by {hand_to_tool_deg:g} degrees about z, from the hand to the tool"
    return Convention(
        name,
        card,
        frozenset(("action",)),
        streams,
        extra={"source/action": kept_spec("action", arrays["action"])},
        finding=Finding("convention", text, "note"),
    )


def raw(arrays: Arrays, fps: float, state: tuple[str, ...]) -> Convention:
    """Channels as they are; ``state`` names the keys of the state, none for ``state``, ``obs`` or all.

    Raises:
        DataError: no such keys.
    """
    low = [k for k, h in arrays.items() if h.dtype.kind == "f" and len(h.shape) == 2]
    low = [k for k in low if k not in ("action", "timestamp")]
    chosen = state or tuple(k for k in STATE_KEYS if k in low)[:1] or tuple(low)
    unknown = [k for k in chosen if k not in low]
    if unknown or not chosen:
        what = "no such low-dimensional array for the state"
        raise DataError(explain(what, given=unknown or None, allowed=low, mend="options.state=[key, ...]"))

    def named(keys: tuple[str, ...]) -> list[tuple[str, str]]:
        return [(name, "unknown") for key in keys for name in channel_list(key, arrays[key].width)]

    def streams(get: Get) -> dict[str, NDArray[Any]]:
        return {"state": np.concatenate([get(k) for k in chosen], axis=1), "action": get("action")}

    text = (
        f"the meaning of action {arrays['action'].width} is not known: state is {chosen}, channels are named as in the "
        "source; options.convention states another"
    )
    return Convention(
        "raw",
        generic_card("diffusion_policy", state=named(chosen), action=named(("action",)), control_hz=fps),
        frozenset((*chosen, "action")),
        streams,
        finding=Finding("convention", text),
    )


def own(path: Path, arrays: Arrays, attributes: Mapping[str, Any]) -> Convention:
    """What ``robopolicy data export`` wrote.

    Raises:
        DataError: attributes that contradict the arrays.
        EmbodimentError: a faulty card.
    """
    try:
        entry = attributes[OWN]
        card = Embodiment.from_dict(entry["embodiment"])
        environment = tuple(str(n) for n in entry["environment_state"])
        keys = {str(h.attributes["stream"]): key for key, h in arrays.items() if "stream" in h.attributes}
        specs = {s: StreamSpec.from_dict(arrays[k].attributes["spec"]) for s, k in keys.items() if s != "time_ns"}
        wrong = [keys[s] for s, spec in specs.items() if arrays[keys[s]].width != spec.shape]
        if wrong or not {"state", "action"} <= specs.keys():
            raise ValueError(f"widths of {wrong}" if wrong else "no state and action")
    except (KeyError, TypeError, ValueError) as error:
        mend = "options.convention=raw reads the numbers alone"
        raise DataError(explain(f"{path}: the attributes do not describe the arrays: {error}", mend=mend)) from error
    cardless = {"state", "action", "environment_state", "joint_position", "joint_command", "time_ns"}
    taken = {s for s in keys if not s.startswith("image/")}

    def streams(get: Get) -> dict[str, NDArray[Any]]:
        return {stream: get(keys[stream]) for stream in taken}

    return Convention(
        "own",
        card,
        frozenset((*(keys[s] for s in taken), "timestamp")),
        streams,
        environment=environment,
        joints="joint_position" in specs,
        extra={s: specs[s] for s in taken - cardless},
    )


def kept_spec(key: str, header: ArrayHeader) -> StreamSpec:
    """How an array that has no place among the store's own streams is kept."""
    if header.dtype.kind in "biu":
        size = int(np.prod(header.width, dtype=int))
        return StreamSpec("int64", () if header.width == () else (size,))
    names = channel_list(key, header.width)
    return StreamSpec("float32", (len(names),), names if len(names) <= MOST_NAMES else ())


def _require(arrays: Arrays, wanted: Mapping[str, tuple[int, ...]], convention: str) -> None:
    wrong = {
        key: arrays[key].width if key in arrays else "missing"
        for key, width in wanted.items()
        if key not in arrays or arrays[key].width != width
    }
    if wrong:
        raise DataError(
            explain(
                f"convention '{convention}' does not fit this data set",
                given=wrong,
                allowed=dict(wanted),
                mend="options.convention=raw keeps the source's own channels",
            )
        )
