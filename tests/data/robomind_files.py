"""Writes RoboMIND trajectories of all ten layouts with content that is known, and the faults its releases have.

Nothing here uses the code under test: arrays are laid out from the released documents, poses come from
Denavit-Hartenberg products written out below, and frames are encoded as OpenCV would have done it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

SIZE = (24, 32)
BGR = ("h5_franka_1rgb", "h5_franka_3rgb", "h5_ur_1rgb", "h5_franka_fr3_dual")
SIMULATED = ("h5_sim_franka_3rgb", "h5_sim_tienkung_1rgb")
LAYOUTS = (
    *BGR,
    "h5_agilex_3rgb",
    "h5_tienkung_gello_1rgb",
    "h5_tienkung_prod1_gello_1rgb",
    "h5_tienkung_xsens_1rgb",
    *SIMULATED,
)
CAMERAS = {
    "h5_franka_1rgb": ("top",),
    "h5_franka_3rgb": ("top", "left", "right"),
    "h5_ur_1rgb": ("top",),
    "h5_franka_fr3_dual": ("top", "left", "right", "front"),
    "h5_agilex_3rgb": ("front", "left_wrist", "right_wrist"),
    "h5_tienkung_gello_1rgb": ("top",),
    "h5_tienkung_prod1_gello_1rgb": ("top",),
    "h5_tienkung_xsens_1rgb": ("top",),
    "h5_sim_franka_3rgb": ("handeye", "front_external", "left_external", "right_external"),
    "h5_sim_tienkung_1rgb": ("head", "chest"),
}
GRIPPER = {"h5_agilex_3rgb": ((0.0, 0.44), (0.0, 8.0)), "h5_sim_franka_3rgb": ((0.0, 0.04), (0.0, 0.04))}
"""(closed, open) of state and action where it is not 1 closed, 0 open."""
OPTIONS = {
    "h5_agilex_3rgb": {"gripper": (0.0, 0.44), "command_gripper": (0.0, 8.0)},
    "h5_sim_franka_3rgb": {"gripper": (0.0, 0.04)},
}
INSTRUCTION = "pick up the cup,put it on the plate"
DEPTH_MM = 700
SIM_STRIDE, SIM_HZ = 4, 60.0

_H = math.pi / 2
PANDA_DH = (
    (0, 0, 0.333),
    (-_H, 0, 0),
    (_H, 0, 0.316),
    (_H, 0.0825, 0),
    (-_H, -0.0825, 0.384),
    (_H, 0, 0),
    (_H, 0.088, 0),
)
UR5E_DH = ((0, _H, 0.1625), (-0.425, 0, 0), (-0.3922, 0, 0), (0, _H, 0.1333), (0, -_H, 0.0997), (0, 0, 0.0996))
PANDA_MIDDLE = np.array([0.0, -0.3, 0.0, -2.0, 0.0, 1.8, 0.7])
UR_MIDDLE = np.array([0.3, -1.5, 1.6, -1.6, -1.5, 0.2])


@dataclass
class Truth:
    """What was written, in the terms of a canonical store.

    ``state`` and ``action`` are channel name -> [T]; ``poses`` is arm -> 4x4 [T, 4, 4]; ``frames`` is slot -> RGB.
    """

    state: dict[str, np.ndarray]
    action: dict[str, np.ndarray]
    poses: dict[str, np.ndarray]
    frames: dict[str, np.ndarray]
    depth_mm: dict[str, np.ndarray]
    path: Path
    id: str


def panda_pose(q: np.ndarray) -> np.ndarray:
    """Craig's convention, then flange 0.107, hand by -45 degrees, fingertips 0.1034."""
    pose = np.eye(4)
    for angle, (alpha, a, d) in zip(q, PANDA_DH, strict=True):
        c, s, ca, sa = math.cos(angle), math.sin(angle), math.cos(alpha), math.sin(alpha)
        pose = pose @ [[c, -s, 0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0, 0, 0, 1]]
    r = math.sqrt(0.5)
    return pose @ [[r, r, 0, 0], [-r, r, 0, 0], [0, 0, 1, 0.2104], [0, 0, 0, 1]]


def ur5e_pose(q: np.ndarray) -> np.ndarray:
    """Universal Robots' standard convention; the pads of the gripper are 0.150 m from the flange."""
    pose = np.eye(4)
    for angle, (a, alpha, d) in zip(q, UR5E_DH, strict=True):
        c, s, ca, sa = math.cos(angle), math.sin(angle), math.cos(alpha), math.sin(alpha)
        pose = pose @ [[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]]
    return pose @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.150], [0, 0, 0, 1]]


def euler(pose: np.ndarray) -> np.ndarray:
    """4x4 -> x y z roll pitch yaw about fixed axes."""
    r = pose[:3, :3]
    angles = math.atan2(r[2, 1], r[2, 2]), -math.asin(np.clip(r[2, 0], -1, 1)), math.atan2(r[1, 0], r[0, 0])
    return np.array([*pose[:3, 3], *angles])


def xyzw(pose: np.ndarray) -> np.ndarray:
    """4x4 -> x y z and a quaternion with the real part last."""
    r = pose[:3, :3]
    w = 0.5 * math.sqrt(max(1e-12, 1 + np.trace(r)))
    x, y, z = (r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1])
    if w > 0.1:
        return np.array([*pose[:3, 3], x / (4 * w), y / (4 * w), z / (4 * w), w])
    values, vectors = np.linalg.eigh(r + r.T)
    axis = vectors[:, np.argmax(values)]
    axis *= math.copysign(1.0, axis @ [x, y, z])
    return np.array([*pose[:3, 3], *(axis * math.sqrt(max(0.0, 1 - w * w))), w])


def smooth(rng: np.random.Generator, rows: int, width: int, middle: np.ndarray | float = 0.0) -> np.ndarray:
    """Joints that move through about half a radian."""
    t = np.linspace(0, 1, rows)[:, None]
    phase, pace = rng.uniform(0, 6, width), rng.uniform(2, 5, width)
    return middle + 0.3 * np.sin(pace * t + phase)


def frame(slot: int, row: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """RGB, smooth so that JPEG hardly changes it, red far from blue, different in every row and camera."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    red, green = 200 + 40 * x, 90 + 20 * slot + 30 * y
    return np.stack([red, green, 20 + (3 * row) % 60 + 20 * x * y], axis=-1).astype(np.uint8)


def encoded(image: np.ndarray, form: str = "JPEG") -> np.ndarray:
    """The file that OpenCV would have written: given in the order that it takes for BGR, it is ordinary."""
    out = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    Image.fromarray(image).save(out, form, **options)
    return np.frombuffer(out.getvalue(), np.uint8)


def write(
    root: Path,
    layout: str,
    index: int = 0,
    *,
    faults: Iterable[str] = (),
    rows: int = 30,
    task: str = "put_cup",
    split: str = "train",
    depth: bool = False,
    folder: str | None = None,
    still_arm: bool = False,
) -> Truth:
    """One trajectory below ``root``.

    Faults: ``stuck_ee``, ``half_stuck_ee``, ``missing_camera`` (the first), ``raw_frame``, ``broken_frame``,
    ``cut_frame``, ``depth_metres``, ``length``, ``time``, ``nan``, ``other_size``.
    """
    faults = set(faults)
    rng = np.random.default_rng([41, index, LAYOUTS.index(layout)])
    name = f"1014_{100000 + index}"
    place = root / (folder or layout) / task / "success_episodes" / split / name / "data"
    place.mkdir(parents=True)
    path = place / "trajectory.hdf5"
    simulated = layout in SIMULATED
    count = rows * SIM_STRIDE if simulated else rows
    with h5py.File(path, "w") as file:
        file.attrs["sim"], file.attrs["compress"] = simulated, True
        state, action, poses = _WRITERS[layout](file, rng, count, layout, faults, still_arm)
        if "nan" in faults:
            key = next(
                k for k in ("puppet/joint_position", "puppet/joint_position_left", "franka/joint_position") if k in file
            )
            file[key][3, 1] = np.nan
        if simulated:
            seconds = np.arange(rows * (SIM_STRIDE if layout == "h5_sim_franka_3rgb" else 1))
            rate = SIM_HZ if layout == "h5_sim_franka_3rgb" else SIM_HZ / SIM_STRIDE
            file["sim_time_seq"] = np.zeros(len(seconds)) if "time" in faults else 5.0 + seconds / rate
        frames, depths = _write_images(file, layout, rows, faults, depth)
    step = SIM_STRIDE if simulated else 1
    shift = 0 if layout in ("h5_agilex_3rgb", "h5_tienkung_gello_1rgb", "h5_tienkung_prod1_gello_1rgb") else 1
    kept = rows - shift
    return Truth(
        {n: v[: kept * step : step] for n, v in state.items()},
        {n: v[shift * step : (kept + shift) * step : step] for n, v in action.items()},
        {n: v[: kept * step : step] for n, v in poses.items()},
        {n: v[:kept] for n, v in frames.items()},
        {n: v[:kept] for n, v in depths.items()},
        path,
        f"{task}/success_episodes/{split}/{name}",
    )


def _write_images(file, layout, rows, faults, depth):
    frames, depths = {}, {}
    kind = h5py.special_dtype(vlen=np.uint8)
    for slot, camera in enumerate(CAMERAS[layout]):
        images = np.stack([frame(slot, row) for row in range(rows)])
        frames[camera] = images
        if "missing_camera" in faults and slot == 0:
            continue
        stored = images if layout in BGR else images[..., ::-1]
        blobs = [encoded(np.ascontiguousarray(image)) for image in stored]
        if "raw_frame" in faults and slot == 0:
            blobs[5] = np.ascontiguousarray(stored[5][..., ::-1]).reshape(-1)
        if "broken_frame" in faults and slot == 0:
            blobs[7] = np.frombuffer(b"no image at all", np.uint8)
        if "cut_frame" in faults and slot == 0:
            blobs[8] = blobs[8][: len(blobs[8]) // 2]
        if "other_size" in faults and slot == 0:
            blobs[9] = encoded(frame(slot, 9, (16, 16)))
        if "length" in faults:
            blobs = blobs[:-3]
        if layout in SIMULATED and slot:
            blobs = [*blobs, blobs[-1]]  # cameras of a simulation need not have the same number of frames
        data = file.create_dataset(f"observations/rgb_images/camera_{camera}", (len(blobs),), kind)
        for row, blob in enumerate(blobs):
            data[row] = blob
        if depth:
            depths[camera] = _write_depth(file, camera, rows, layout, faults)
    return frames, depths


def _write_depth(file, camera, rows, layout, faults):
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    millimetres = np.stack([(DEPTH_MM + 3 * row + x + y).astype(np.uint16) for row in range(rows)])
    extra = 6 if layout in SIMULATED else 0
    data = file.create_dataset(
        f"observations/depth_images/camera_{camera}", (rows + extra,), h5py.special_dtype(vlen=np.uint8)
    )
    for row in range(rows + extra):
        image = millimetres[min(row, rows - 1)]
        metres = "depth_metres" in faults
        data[row] = encoded((image / 1000).astype(np.float32), "TIFF") if metres else encoded(image, "PNG")
    return millimetres


def _opening(rng, rows):
    return np.clip(0.5 + 0.6 * np.sin(np.linspace(0, 5, rows) + rng.uniform(0, 3)), 0, 1)


def _raw_gripper(layout, which, opening):
    closed, opened = GRIPPER.get(layout, ((1.0, 0.0), (1.0, 0.0)))[which]
    return closed + opening * (opened - closed)


def _stick(values, faults):
    if "stuck_ee" in faults:
        return values[:1] + 2e-4 * np.sin(np.arange(len(values)))[:, None]
    if "half_stuck_ee" in faults:
        half = values.copy()
        half[len(values) // 2 :] = values[len(values) // 2]
        return half
    return values


def _single(file, rng, rows, layout, faults, still_arm):
    panda = layout != "h5_ur_1rgb"
    names = [f"joint{i}" for i in range(1, 8)] if panda else [
        "shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"
    ]  # fmt: skip
    q = smooth(rng, rows, len(names), PANDA_MIDDLE if panda else UR_MIDDLE)
    opening = _opening(rng, rows)
    poses = np.stack([(panda_pose if panda else ur5e_pose)(x) for x in q])
    joints = np.column_stack([q, _raw_gripper(layout, 0, opening)])
    if layout in SIMULATED:
        more = np.vstack([joints, np.repeat(joints[-1:], 10, axis=0)])
        file["franka/joint_position"] = more
        file["franka/joint_velocity"], file["franka/joint_effort"] = np.gradient(more, axis=0), 0.1 * more
        ee = _stick(np.stack([xyzw(p) for p in poses]), faults)
        file["franka/end_effector"] = np.vstack([ee, np.repeat(ee[-1:], 10, axis=0)])
    else:
        file["puppet/joint_position"], file["master/joint_position"] = joints, joints + 0.01
        file["puppet/end_effector"] = _stick(np.stack([euler(p) for p in poses]), faults)
    named = {**dict(zip(names, q.T, strict=True)), "gripper": opening}
    return named, named, {"": poses}


def _fr3(file, rng, rows, layout, faults, still_arm):
    columns, ee, named, poses = [], [], {}, {}
    for side in ("left", "right"):
        q = smooth(rng, rows, 7, PANDA_MIDDLE)
        if still_arm and side == "left":
            q = np.repeat(q[:1], rows, axis=0)
        opening = _opening(rng, rows)
        poses[side] = np.stack([panda_pose(x) for x in q])
        columns += [q, _raw_gripper(layout, 0, opening)[:, None]]
        ee.append(_stick(np.stack([euler(p) for p in poses[side]]), faults if side == "right" else ()))
        named |= {f"{side}.joint{i + 1}": q[:, i] for i in range(7)} | {f"{side}.gripper": opening}
    file["puppet/joint_position"] = np.hstack(columns)
    file["master/joint_position"] = np.hstack(columns) + 0.01
    file["puppet/end_effector"] = np.hstack(ee)
    return named, named, poses


def _agilex(file, rng, rows, layout, faults, still_arm):
    state, action = {}, {}
    for side in ("left", "right"):
        q, target = smooth(rng, rows, 6), smooth(rng, rows, 6)
        opening, wanted = _opening(rng, rows), _opening(rng, rows)
        puppet = np.column_stack([q, _raw_gripper(layout, 0, opening)])
        master = np.column_stack([target, _raw_gripper(layout, 1, wanted)])
        ee = np.column_stack([_stick(0.3 * smooth(rng, rows, 6), faults), opening])
        for root, values in (("puppet", puppet), ("master", master)):
            file[f"{root}/joint_position_{side}"] = values
            file[f"{root}/joint_velocity_{side}"] = np.gradient(values, axis=0)
            file[f"{root}/joint_effort_{side}"] = 0.1 * values
            file[f"{root}/end_effector_{side}"] = ee
        state |= {f"{side}.joint{i + 1}": q[:, i] for i in range(6)} | {f"{side}.gripper": opening}
        action |= {f"{side}.joint{i + 1}": target[:, i] for i in range(6)} | {f"{side}.gripper": wanted}
    return state, action, {}


def _gello(file, rng, rows, layout, faults, still_arm):
    both = []
    for root in ("puppet", "master"):
        columns, named = [], {}
        for side in ("left", "right"):
            q, opening = smooth(rng, rows, 7), _opening(rng, rows)
            columns += [q, (1 - opening)[:, None]]
            named |= {f"{side}.joint{i + 1}": q[:, i] for i in range(7)} | {f"{side}.gripper": opening}
        file[f"{root}/joint_position"] = np.hstack(columns)
        both.append(named)
    return both[0], both[1], {}


def _xsens(file, rng, rows, layout, faults, still_arm):
    fingers = ("pinky", "ring", "middle", "index", "thumb_bend", "thumb_rotation")
    arms, hands, named = [], [], {}
    for side in ("left", "right"):
        q, hand = smooth(rng, rows, 7), 500 + 400 * smooth(rng, rows, 6)
        if still_arm:
            hand = np.repeat(hand[:1], rows, axis=0)
        arms.append(q)
        hands.append(hand)
        named |= {f"{side}.joint{i + 1}": q[:, i] for i in range(7)}
        named |= {f"{side}.hand_{f}": hand[:, i] for i, f in enumerate(fingers)}
    for root in ("puppet", "master"):
        file[f"{root}/joint_position"], file[f"{root}/end_effector"] = np.hstack(arms), np.hstack(hands)
    return named, named, {}


def _sim_tienkung(file, rng, rows, layout, faults, still_arm):
    hand_names = (
        *("thumb_bend", "thumb_rotation", "thumb_passive_0", "thumb_passive_1", "index", "index_passive"),
        *("middle", "middle_passive", "ring", "ring_passive", "pinky", "pinky_passive"),
    )
    named = {}
    for side, extra in (("left", 2), ("right", 4)):
        q, hand = smooth(rng, rows, 7), 0.5 + smooth(rng, rows, 12)
        named |= {f"{side}.joint{i + 1}": q[:, i] for i in range(7)}
        named |= {f"{side}.hand_{n}": hand[:, i] for i, n in enumerate(hand_names)}
        for part, values in (("arm", q), ("hand", hand)):
            more = np.vstack([values, np.repeat(values[-1:], extra, axis=0)])
            file[f"tiangong/{side}_{part}_joint_pos_seq" + ("s" if side == "left" and part == "arm" else "")] = more
            file[f"tiangong/{side}_{part}_joint_vel_seq"] = np.gradient(more, axis=0)
        turn = np.tile([0.0, 0.0, math.sin(0.2), math.cos(0.2)], (rows + extra, 1))
        place = smooth(rng, rows + extra, 3)
        file[f"tiangong/{side}_end_effector_waist"] = np.hstack([_stick(place, faults), turn])
    return named, named, {}


_WRITERS = dict.fromkeys(("h5_franka_1rgb", "h5_franka_3rgb", "h5_ur_1rgb", "h5_sim_franka_3rgb"), _single) | {
    "h5_franka_fr3_dual": _fr3,
    "h5_agilex_3rgb": _agilex,
    "h5_tienkung_gello_1rgb": _gello,
    "h5_tienkung_prod1_gello_1rgb": _gello,
    "h5_tienkung_xsens_1rgb": _xsens,
    "h5_sim_tienkung_1rgb": _sim_tienkung,
}


def write_language(root: Path, annotated: Iterable[Truth] = (), layout: str = "h5_franka_1rgb") -> None:
    """The released CSV and JSON beside the embodiment folders."""
    (root / "RoboMIND_v1_2_instr.csv").write_text(f',task,instruction\n0,put_cup,"{INSTRUCTION}"\n')
    folder = root / "language_description_annotation_json"
    folder.mkdir()
    entries = [
        {
            "id": f"{layout}/{truth.id}/data",
            "response": {
                "task_summary": "put the cup away",
                "steps": [
                    {
                        "step_description": "grab the cup",
                        "start_frame": "camera_top_0002.jpg",
                        "end_frame": "camera_top_0011.jpg",
                    }
                ],
            },
        }
        for truth in annotated
    ]
    (folder / f"{layout}.json").write_text(json.dumps(entries))
