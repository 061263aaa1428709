"""Small recordings in the layouts of other projects, written as their documentation says. Pure functions of a seed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from robopolicy.data.convert.source import Reading, Source
from robopolicy.data.store import EpisodeStore

BASE = (np.array([-0.56, 0.1, 0.912]), np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
"""Where ``MODEL`` has the robot stand: turned by 90 degrees about z."""
MODEL = (
    '<mujoco><worldbody><body name="table" pos="1 1 1"/><body name="robot0_base" pos="-0.56 0.1 0.9" '
    'quat="0.7071067811865476 0 0 0.7071067811865476"><body name="robot0_link0" pos="0 0 0.012"/></body>'
    "</worldbody></mujoco>"
)
OSC = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "control_delta": True,
    "impedance_mode": "fixed",
}


def into_store(source: Source, path: Path, codec: str = "raw") -> EpisodeStore:
    """Every episode of a source, in a store made from its ``info``."""
    info = source.info
    store = EpisodeStore.create(
        path,
        info.embodiment,
        task=info.task,
        cameras=dict(info.cameras),
        environment_state=info.environment_state,
        joints=info.joints,
        extra=info.extra,
        codec=codec,
        fps=info.fps,
        provenance=info.provenance,
    )
    for name in info.episodes:
        reading: Reading = source.read(name)
        assert reading.episode is not None, reading.findings
        streams = reading.episode.streams
        for key, values in streams.items():
            if not isinstance(values, np.ndarray) and not hasattr(values, "blobs"):
                streams[key] = np.asarray(values)
        assert reading.episode.metadata["source"]["id"] == name
        store.append(reading.episode)
    return store


def quaternions(rng: np.random.Generator, rows: int) -> np.ndarray:
    q = rng.normal(size=(rows, 4))
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def smooth_frames(rng: np.random.Generator, rows: int, height: int, width: int) -> np.ndarray:
    """u8 [rows, H, W, 3] that JPEG can hold."""
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, (rows, 1, 1, 3))
    waves = 127 + 100 * np.sin(phase + y[None, :, :, None] / 5 + x[None, :, :, None] / 7 * np.array([1, 0.5, 0.2]))
    return waves.astype(np.uint8)


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


# --- robomimic, LIBERO


def demo_values(seed: int, rows: int = 9, size: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([11, seed])
    return {
        "actions": np.clip(rng.normal(0, 0.5, (rows, 7)), -1, 1),
        "position": rng.uniform(-0.3, 0.3, (rows, 3)) + np.array([0, 0, 1]),
        "xyzw": quaternions(rng, rows),
        "fingers": np.stack([rng.uniform(0, 0.04, rows)] * 2, axis=1) * [1, -1],
        "joints": rng.uniform(-1, 1, (rows, 7)),
        "object": rng.normal(size=(rows, 10)),
        "agentview": smooth_frames(rng, rows, size, size),
        "hand": smooth_frames(rng, rows, size, size),
        "states": rng.normal(size=(rows, 32)),
        "rewards": np.eye(1, rows, rows - 1)[0],
    }


def robomimic_file(
    path: Path,
    demos: Sequence[int] = (0, 1, 2, 10),
    *,
    controller: Mapping[str, Any] | None = OSC,
    robots: Any = ("Panda",),
    images: bool = True,
    model: str | None = MODEL,
    kind: int = 1,
    masks: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    kwargs: dict[str, Any] = {"robots": list(robots), "control_freq": 20, "reward_shaping": False}
    if controller is not None:
        kwargs["controller_configs"] = dict(controller)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": kind, "env_kwargs": kwargs})
        total = 0
        for number in demos:
            v = demo_values(number)
            demo = data.create_group(f"demo_{number}")
            demo["actions"], demo["states"], demo["rewards"] = v["actions"], v["states"], v["rewards"]
            demo["dones"] = v["rewards"].astype(np.int64)
            obs = {
                "robot0_eef_pos": v["position"],
                "robot0_eef_quat": v["xyzw"],
                "robot0_gripper_qpos": v["fingers"],
                "robot0_joint_pos": v["joints"],
                "object": v["object"],
            }
            if images:
                obs |= {"agentview_image": v["agentview"], "robot0_eye_in_hand_image": v["hand"]}
            for key, values in obs.items():
                demo[f"obs/{key}"] = values
                demo[f"next_obs/{key}"] = np.concatenate([values[1:], values[-1:]])
            demo.attrs["num_samples"] = len(v["actions"])
            total += len(v["actions"])
            if model is not None:
                demo.attrs["model_file"] = model
        data.attrs["total"] = total
        for name, members in (masks or {}).items():
            file[f"mask/{name}"] = np.array(members, dtype="S")
    return path


def libero_file(path: Path, demos: Sequence[int] = (0, 1), *, convention: str = "opengl", model: bool = True) -> Path:
    from robopolicy.data.convert.unify import rotation_matrix
    from robopolicy.rotations import matrix_to_axis_angle

    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        kwargs = {"robots": ["Panda"], "controller_configs": OSC, "control_freq": 20}
        data.attrs["env_args"] = json.dumps({"type": 1, "env_name": "Libero_Tabletop", "env_kwargs": kwargs})
        data.attrs["env_name"] = "Libero_Tabletop"
        data.attrs["problem_info"] = json.dumps({"language_instruction": "put the bowl on the plate"})
        data.attrs["bddl_file_name"] = "libero/bddl_files/goal/put_the_bowl_on_the_plate.bddl"
        data.attrs["bddl_file_content"] = "(define (problem P) (:language Put the bowl on the plate))"
        data.attrs["macros_image_convention"] = convention
        for number in demos:
            v = demo_values(number)
            demo = data.create_group(f"demo_{number}")
            demo["actions"], demo["states"] = v["actions"], v["states"]
            demo["rewards"] = v["rewards"].astype(np.uint8)
            demo["dones"] = v["rewards"].astype(np.uint8)
            demo["robot_states"] = v["object"][:, :9]
            ori = matrix_to_axis_angle(rotation_matrix(v["xyzw"], "quaternion_xyzw"))
            demo["obs/ee_pos"], demo["obs/ee_ori"] = v["position"], ori
            demo["obs/ee_states"] = np.concatenate([v["position"], ori], axis=1)
            demo["obs/gripper_states"], demo["obs/joint_states"] = v["fingers"], v["joints"]
            demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"] = v["agentview"], v["hand"]
            demo.attrs["num_samples"] = len(v["actions"])
            if model:
                demo.attrs["model_file"] = MODEL
    return path


# --- ALOHA


def aloha_values(seed: int, rows: int = 8, size: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([13, seed])
    qpos = rng.uniform(-1, 1, (rows, 14))
    qpos[:, [6, 13]] = rng.uniform(0, 1, (rows, 2))
    return {
        "qpos": qpos,
        "qvel": rng.normal(size=(rows, 14)),
        "action": qpos + 0.01,
        "cam_high": smooth_frames(rng, rows, size, size + 4),
        "cam_left_wrist": smooth_frames(rng, rows, size, size + 4),
    }


def aloha_folder(folder: Path, episodes: Sequence[int] = (0, 1, 10), *, sim: bool = True, compressed: str = "") -> Path:
    """``compressed``: empty, ``rgb`` or ``bgr`` (arrays given to an encoder that expects the other order)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in episodes:
        v = aloha_values(number)
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = sim
            file["action"], file["observations/qpos"], file["observations/qvel"] = v["action"], v["qpos"], v["qvel"]
            for camera in ("cam_high", "cam_left_wrist"):
                frames = v[camera]
                if not compressed:
                    shape = (1, *frames.shape[1:])
                    file.create_dataset(f"observations/images/{camera}", data=frames, chunks=shape)
                    continue
                blobs = [jpeg(f if compressed == "rgb" else np.ascontiguousarray(f[..., ::-1])) for f in frames]
                padded = np.zeros((len(blobs), max(map(len, blobs))), np.uint8)
                for row, blob in zip(padded, blobs, strict=True):
                    row[: len(blob)] = np.frombuffer(blob, np.uint8)
                file[f"observations/images/{camera}"] = padded
            if compressed:
                file.attrs["compress"] = True
                file["compress_len"] = np.ones((2, len(v["qpos"])))
    return folder


# --- ManiSkill


def maniskill_values(seed: int, rows: int = 7, width: int = 8, size: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([17, seed])
    qpos = np.concatenate([rng.uniform(-1, 1, (rows + 1, 7)), np.tile(rng.uniform(0, 0.04, (rows + 1, 1)), 2)], axis=1)
    base = np.tile(np.concatenate([[-0.615, 0, 0, np.cos(0.4), 0, 0, np.sin(0.4)], np.zeros(6)]), (rows + 1, 1))
    tcp = np.concatenate([rng.uniform(-0.3, 0.3, (rows + 1, 3)), quaternions(rng, rows + 1)], axis=1)
    return {
        "actions": rng.uniform(-1, 1, (rows, width)).astype(np.float32),
        "qpos": qpos.astype(np.float32),
        "qvel": rng.normal(size=(rows + 1, 9)).astype(np.float32),
        "tcp": tcp.astype(np.float32),
        "panda": np.concatenate([base, qpos, 0 * qpos], axis=1).astype(np.float32),
        "rgb": smooth_frames(rng, rows + 1, size, size),
        "depth": rng.integers(0, 32_000, (rows + 1, size, size, 1)).astype(np.int16),
    }


def maniskill_file(
    path: Path,
    episodes: Sequence[int] = (0, 1, 2),
    *,
    mode: str = "pd_joint_delta_pos",
    width: int = 8,
    pictures: bool = True,
    states: bool = True,
    failed: Sequence[int] = (1,),
) -> Path:
    listed = []
    with h5py.File(path, "w") as file:
        for number in episodes:
            v = maniskill_values(number, width=width)
            rows = len(v["actions"])
            group = file.create_group(f"traj_{number}")
            group["actions"] = v["actions"]
            group["obs/agent/qpos"], group["obs/agent/qvel"] = v["qpos"], v["qvel"]
            group["obs/extra/tcp_pose"] = v["tcp"]
            if pictures:
                group.create_dataset("obs/sensor_data/base_camera/rgb", data=v["rgb"], compression="gzip")
                group.create_dataset("obs/sensor_data/base_camera/depth", data=v["depth"], compression="gzip")
                group["obs/sensor_param/base_camera/intrinsic_cv"] = np.tile(np.eye(3), (rows + 1, 1, 1))
            if states:
                group["env_states/articulations/panda"] = v["panda"]
            group["terminated"] = group["truncated"] = np.zeros(rows, bool)
            won = np.zeros(rows, bool)
            won[-1] = number not in failed
            group["success"] = won
            listed.append(
                {
                    "episode_id": number,
                    "control_mode": mode,
                    "elapsed_steps": rows,
                    "episode_seed": number,
                    "reset_kwargs": {},
                }
            )
    about = {
        "env_info": {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgbd", "control_mode": mode}},
        "episodes": listed,
        "source_type": "motionplanning",
    }
    path.with_suffix(".json").write_text(json.dumps(about))
    return path
