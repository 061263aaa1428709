"""Layouts of RoboMIND 1.0 to 1.2 (arXiv 2412.13877), one per embodiment folder, as its documents list them.

Sources: all_robot_h5_info.md and all_robot_h5_info_v1.2.md (arrays, units), robomind.yaml (what is state, what is
action), quick_start.ipynb (colour order, raw frames), all of x-humanoid-robomind/x-humanoid-robomind.github.io.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robopolicy.data.convert.hdf5_episode import Hdf5File
from robopolicy.errors import DataError, explain

__all__ = ["FOLDERS", "LAYOUTS", "Layout", "Part", "Pose", "layout_of", "resolve_key"]


@dataclass(frozen=True)
class Part:
    """One array of joints: key below the robot's group, and the card's channel of each column."""

    key: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Pose:
    """A recorded end effector.

    Attributes:
        arm: Of the card.
        key: Below the robot's group.
        first: Column of x; the rotation follows z.
        form: Of the rotation, see :data:`robopolicy.data.convert.unify.ROTATION_FORMS`.
        frame: ``base`` or ``waist``.
    """

    arm: str
    key: str
    first: int = 0
    form: str = "euler_xyz"
    frame: str = "base"


@dataclass(frozen=True)
class Layout:
    """One embodiment folder.

    Attributes:
        name: Of the folder.
        card: Embodiment card whose channels the parts have.
        parts: Joints in the order of the source.
        cameras: Below ``observations/rgb_images``.
        bgr: What OpenCV's ``imdecode`` gives is BGR, that is, the files are ordinary ones; otherwise it is RGB, and
            whoever decodes the file by its own standard gets red and blue exchanged.
        state_root, action_root: Groups; the same group means that the action is the state of the next row.
        poses: Recorded end effectors.
        gripper: (value when closed, value when open), None where it is not known.
        gripper_source: Who says so.
        time: Array of simulated seconds, empty for real robots.
        further: Key below the state's group -> stream of the store, of as many columns as the parts have in all.
    """

    name: str
    card: str
    parts: tuple[Part, ...]
    cameras: tuple[str, ...]
    bgr: bool
    state_root: str = "puppet"
    action_root: str = "puppet"
    poses: tuple[Pose, ...] = ()
    gripper: tuple[float, float] | None = None
    gripper_source: str = ""
    time: str = ""
    further: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel of every column, parts one after the other."""
        return tuple(name for part in self.parts for name in part.channels)

    @property
    def grippers(self) -> tuple[int, ...]:
        """Columns that are grippers."""
        return tuple(i for i, name in enumerate(self.channels) if name.split(".")[-1] == "gripper")


def _arm(side: str, count: int, *ends: str) -> tuple[str, ...]:
    prefix = f"{side}." if side else ""
    return (*(f"{prefix}joint{i}" for i in range(1, count + 1)), *(prefix + end for end in ends))


def _both(count: int, *ends: str) -> tuple[str, ...]:
    return (*_arm("left", count, *ends), *_arm("right", count, *ends))


_HAND = ("pinky", "ring", "middle", "index", "thumb_bend", "thumb_rotation")
_SIM_HAND = (
    *("thumb_bend", "thumb_rotation", "thumb_passive_0", "thumb_passive_1", "index", "index_passive", "middle"),
    *("middle_passive", "ring", "ring_passive", "pinky", "pinky_passive"),
)
_UR = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3", "gripper")
_READER = "not stated by RoboMIND; 1 is closed in another published reader of these files"
_PANDA = (Part("joint_position", _arm("", 7, "gripper")),)
_SIDES = ("left", "right")

_TABLE = (
    Layout(
        "h5_franka_1rgb", "panda", _PANDA, ("camera_top",), True,
        poses=(Pose("", "end_effector"),), gripper=(1.0, 0.0), gripper_source=_READER,
    ),
    Layout(
        "h5_franka_3rgb", "panda", _PANDA, ("camera_top", "camera_left", "camera_right"), True,
        poses=(Pose("", "end_effector"),), gripper=(1.0, 0.0), gripper_source=_READER,
    ),
    Layout(
        "h5_ur_1rgb", "ur5e_2f85", (Part("joint_position", _UR),), ("camera_top",), True,
        poses=(Pose("", "end_effector"),), gripper=(1.0, 0.0), gripper_source=_READER,
    ),
    Layout(
        "h5_franka_fr3_dual", "franka_fr3_dual", (Part("joint_position", _both(7, "gripper")),),
        ("camera_top", "camera_left", "camera_right", "camera_front"), True,
        poses=(Pose("left", "end_effector"), Pose("right", "end_effector", 6)),
        gripper=(1.0, 0.0), gripper_source=_READER,
    ),
    Layout(
        "h5_agilex_3rgb", "agilex_cobot_magic",
        tuple(Part(f"joint_position_{s}", _arm(s, 6, "gripper")) for s in _SIDES),
        ("camera_front", "camera_left_wrist", "camera_right_wrist"), False, action_root="master",
        poses=tuple(Pose(s, f"end_effector_{s}") for s in _SIDES),
        further={f"joint_{k}": tuple(f"joint_{k}_{s}" for s in _SIDES) for k in ("velocity", "effort")},
    ),
    *(
        Layout(
            name, "tienkung_gello", (Part("joint_position", _both(7, "gripper")),), ("camera_top",), False,
            action_root="master", gripper=(1.0, 0.0), gripper_source="RoboMIND calls it the closure of the hand",
        )
        for name in ("h5_tienkung_gello_1rgb", "h5_tienkung_prod1_gello_1rgb")
    ),
    Layout(
        "h5_tienkung_xsens_1rgb", "tienkung_xsens",
        (
            Part("joint_position", _both(7)),
            Part("end_effector", tuple(f"{s}.hand_{finger}" for s in _SIDES for finger in _HAND)),
        ),
        ("camera_top",), False,
    ),
    Layout(
        "h5_sim_franka_3rgb", "panda", _PANDA,
        ("camera_handeye", "camera_front_external", "camera_left_external", "camera_right_external"), False,
        state_root="franka", action_root="franka", poses=(Pose("", "end_effector", form="quaternion_xyzw"),),
        time="sim_time_seq", further={"joint_velocity": ("joint_velocity",), "joint_effort": ("joint_effort",)},
    ),
    Layout(
        "h5_sim_tienkung_1rgb", "tienkung_sim",
        tuple(
            part
            for s in _SIDES
            for part in (
                Part(f"{s}_arm_joint_pos_seq", _arm(s, 7)),
                Part(f"{s}_hand_joint_pos_seq", tuple(f"{s}.hand_{finger}" for finger in _SIM_HAND)),
            )
        ),
        ("camera_head", "camera_chest"), False, state_root="tiangong", action_root="tiangong",
        poses=tuple(Pose(s, f"{s}_end_effector_waist", form="quaternion_xyzw", frame="waist") for s in _SIDES),
        time="sim_time_seq",
    ),
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _TABLE}
"""Folder name -> layout."""
FOLDERS: dict[str, str] = {**{name: name for name in LAYOUTS}, "h5_simulation": "h5_sim_franka_3rgb"}
"""Folder names met in the releases -> layout; version 1.0 has another name for the simulated Franka."""


def layout_of(path: Path, file: Hdf5File) -> Layout:
    """The layout of one trajectory: by the folder it lies in, otherwise by the arrays it holds.

    Raises:
        DataError: neither says it.
    """
    for part in reversed(path.parts):
        if part in FOLDERS:
            return LAYOUTS[FOLDERS[part]]
    cameras = set(file.node("observations/rgb_images").keys()) if "observations/rgb_images" in file else set()
    fitting = [layout for layout in _TABLE if _fits(layout, file)]
    exact = [layout for layout in fitting if set(layout.cameras) == cameras] or fitting
    # The two gello layouts differ in nothing but their name.
    if exact and len({(layout.card, layout.bgr, layout.cameras) for layout in exact}) == 1:
        return exact[0]
    raise DataError(
        explain(
            f"{path}: which robot this is, is not clear",
            given=[layout.name for layout in fitting] or f"cameras {sorted(cameras)}",
            allowed=list(LAYOUTS),
            mend="keep the folder h5_... in the path, or name it: options.layout=h5_ur_1rgb",
        )
    )


def resolve_key(file: Hdf5File, key: str) -> str:
    """``key``, or the key with an ``s`` that some files of the simulated Tien Kung have."""
    return key if key in file or f"{key}s" not in file else f"{key}s"


def _fits(layout: Layout, file: Hdf5File) -> bool:
    for root in {layout.state_root, layout.action_root}:
        for part in layout.parts:
            key = resolve_key(file, f"{root}/{part.key}")
            if key not in file or file.node(key).shape[-1] != len(part.channels):
                return False
    widths = {pose.key: pose.first + (6 if pose.form == "euler_xyz" else 7) for pose in layout.poses}
    return all(
        f"{layout.state_root}/{key}" in file
        and int(np.prod(file.node(f"{layout.state_root}/{key}").shape[1:])) >= width
        for key, width in widths.items()
    ) and not (not layout.poses and f"{layout.state_root}/end_effector" in file and len(layout.parts) == 1)
