"""LIBERO HDF5: robomimic's layout with a BDDL task, its own observation keys and images as OpenGL renders them.

Facts (LIBERO/scripts/create_dataset.py): each row holds the observation *after* the action of the same row was
carried out, so ``action[t + 1]`` is what was decided from ``obs[t]``; rows are paired that way here and the last
observation, which has no action, is left out. ``ee_ori`` is an axis-angle vector, ``gripper_states`` are two finger
slides (m), actions are commands of robosuite's OSC_POSE controller and a gripper command (-1 open, 1 closed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.demo_files import DemoFiles, data_attributes, observation_keys
from robopolicy.data.convert.hdf5_damage import guarded
from robopolicy.data.convert.hdf5_episode import Hdf5File, Turn, nominal_time_ns, require_rows, vector_stream
from robopolicy.data.convert.robosuite import FINGER_RANGES_M, Controller, controller_of, unmeant
from robopolicy.data.convert.robosuite_arm import RobosuiteArm, frame_of
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import rotation_matrix
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["FORMAT", "LiberoOptions", "LiberoSource"]

Array = NDArray[np.float64]
_ASSUMED_HZ = 20.0
_UPRIGHT = {"opengl": "vertical", "opencv": "none"}
"""robosuite's IMAGE_CONVENTION -> what makes the picture upright: OpenGL's first row is the lowest."""
_TURNS: dict[str, Turn | None] = {
    "none": None,
    "vertical": lambda frames: frames[:, ::-1],
    "rotate_180": lambda frames: frames[:, ::-1, ::-1],
}
_NEEDED = {"ee_pos": 3, "ee_ori": 3, "gripper_states": 2}
# LIBERO's own default, robosuite 1.4's osc_pose.json; the files keep env_args without it when they are of old scripts.
_DEFAULT = Controller("OSC_POSE", True, (-1, 1), ([-0.05] * 3 + [-0.5] * 3, [0.05] * 3 + [0.5] * 3))


@dataclass(frozen=True)
class LiberoOptions:
    """Options of ``format=libero``."""

    flip: Literal["auto", "none", "vertical", "rotate_180"] = setting(
        "how images become upright; auto: by the attribute macros_image_convention", default="auto"
    )
    pairing: Literal["decided", "recorded"] = setting(
        "decided: action[t + 1] with obs[t], what it was decided from; recorded: as in the file",
        default="decided",
    )
    card: str = setting("embodiment card of the robot; empty: an arm known by its pose only", default="")
    frame: Literal["auto", "base", "world"] = setting(
        "frame of poses; auto: base where the model is kept", default="auto"
    )
    fps: float = setting("rows per second; 0: control_freq of env_args, else 20", default=0.0, ge=0.0)
    states: bool = setting("keep the simulator's flat state", default=False)


class LiberoSource:
    """One file (a task), or a folder of files."""

    def __init__(self, path: Path, options: LiberoOptions):
        """Read attributes, and the shapes of the first demonstration.

        Raises:
            DataError: no such layout, missing observations, or a controller that is not understood.
        """
        self.options = options
        self.demos = DemoFiles(path)
        self._controllers = {file: self._controller(file) for file in self.demos.files}
        file, demo = self.demos.locate(self.demos.ids[0])
        self.images = observation_keys(file, demo, lambda node: len(node.shape) == 4)
        for key in _NEEDED:
            file.node(f"{demo}/obs/{key}")
        model = str(file.attribute(demo, "model_file", ""))
        self.frame = frame_of(options.frame, model, f"{file.path}: {demo}")
        self.fps = options.fps or self._rate(file)
        self.info = self._describe(path, file, demo)

    def close(self) -> None:
        """Close the open file."""
        self.demos.close()

    def read(self, episode: str) -> Reading:
        """One demonstration.

        Raises:
            DataError, NonFiniteError: damaged; file and key are named.
        """
        file, demo = self.demos.locate(episode)
        actions = file.vectors(f"{demo}/actions", 7)
        rows = len(actions)
        obs = {key: file.vectors(f"{demo}/obs/{key}", width) for key, width in _NEEDED.items()}
        extra = {key: file.vectors(f"{demo}/{key}", spec.shape[0]) for key, spec in self._extra_keys.items()}
        frames = {key: file.node(f"{demo}/obs/{key}") for key in self.images}
        lengths = {"num_samples": int(file.attribute(demo, "num_samples", rows))}
        for group in (obs, extra, frames):
            lengths |= {key: len(values) for key, values in group.items()}
        require_rows(f"{file.path}: {demo}", lengths, rows)
        late = 1 if self.options.pairing == "decided" else 0
        if rows <= late:
            raise DataError(explain(f"{file.path}: {demo} is too short", given=f"{rows} rows", allowed=f"{late + 1}"))
        seen, done = slice(0, rows - late), slice(late, rows)
        state, action = self._meant(file, demo, {k: v[seen] for k, v in obs.items()}, actions[done])
        streams: dict[str, Any] = {
            "state": state,
            "action": action,
            "time_ns": nominal_time_ns(rows - late, self.fps),
            "source/action": actions[done],
        }
        # What was measured goes with the observation, what followed from the action with the action.
        for key, values in extra.items():
            streams[f"source/{key}"] = values[seen] if key.startswith(("obs/", "robot_states")) else values[done]
        turn = _TURNS[self._flip(file)]
        for key in self.images:
            streams[f"image/{_slot(key)}"] = file.frames(f"{demo}/obs/{key}", seen, turn)
        success = bool(extra["rewards"].max() > 0) if "rewards" in extra else None
        metadata = {"source": {"id": episode, "file": file.path.name, "bddl": self._bddl(file)}}
        return Reading(Episode(streams, self._language(file), success, metadata), [])

    def _controller(self, path: Path) -> Controller:
        kwargs = self._kwargs(self.demos.file(path))
        if kwargs.get("controller_configs") is None:
            return _DEFAULT
        found = controller_of(kwargs)
        if found is None or found.kind != "OSC_POSE":
            raise DataError(explain(f"{path}: {unmeant(kwargs)}", mend="convert it as format=robomimic"))
        return found

    @staticmethod
    def _kwargs(file: Hdf5File) -> Mapping[str, Any]:
        return file.json_attribute("data", "env_args").get("env_kwargs") or {}

    def _rate(self, file: Hdf5File) -> float:
        return float(self._kwargs(file).get("control_freq", 0.0)) or _ASSUMED_HZ

    def _flip(self, file: Hdf5File) -> str:
        if self.options.flip != "auto":
            return self.options.flip
        convention = str(file.attribute("data", "macros_image_convention", "opengl"))
        if convention not in _UPRIGHT:
            raise DataError(
                explain(
                    f"{file.path}: unknown macros_image_convention",
                    given=convention,
                    allowed=list(_UPRIGHT),
                    mend="options.flip=none, vertical or rotate_180",
                )
            )
        return _UPRIGHT[convention]

    @staticmethod
    def _bddl(file: Hdf5File) -> str:
        return Path(str(file.attribute("data", "bddl_file_name", ""))).name

    @staticmethod
    def _language(file: Hdf5File) -> str:
        """The instruction: of ``problem_info``, else ``(:language ...)`` of the BDDL text."""
        told = file.json_attribute("data", "problem_info").get("language_instruction", "")
        if isinstance(told, list):
            told = " ".join(map(str, told))
        if not told:
            match = re.search(r"\(:language\s+([^)]*)\)", str(file.attribute("data", "bddl_file_content", "")))
            told = match[1] if match else ""
        return str(told).strip().strip('"')

    def _meant(self, file: Hdf5File, demo: str, obs: Mapping[str, Array], actions: Array) -> tuple[Array, Array]:
        arm = RobosuiteArm("Panda", self._controllers[file.path], FINGER_RANGES_M["Panda"], self.frame)
        rotation = rotation_matrix(obs["ee_ori"], "axis_angle")
        model = str(file.attribute(demo, "model_file", ""))
        return arm.of_poses(self.info.embodiment, obs["ee_pos"], rotation, obs["gripper_states"], actions, model)

    def _describe(self, path: Path, file: Hdf5File, demo: str) -> SourceInfo:
        keys = ["rewards", "dones", "robot_states", "obs/joint_states", *(["states"] if self.options.states else [])]
        self._extra_keys: dict[str, StreamSpec] = {}
        for key in keys:
            if f"{demo}/{key}" in file:
                shape = file.node(f"{demo}/{key}").shape
                name = "joint" if key == "obs/joint_states" else key.rpartition("/")[2]
                unit = "rad" if name == "joint" else "unknown"
                kind = "reward" if key == "rewards" else ""
                self._extra_keys[key] = vector_stream(name, shape[1] if len(shape) > 1 else 1, unit=unit, kind=kind)
        arm = RobosuiteArm("Panda", self._controllers[file.path], FINGER_RANGES_M["Panda"], self.frame)
        flip = self._flip(file)
        text = f"OSC_POSE deltas added to the measured pose; images: {flip}; rows paired as {self.options.pairing}"
        findings = [Finding("convention", text, "note", stream="action")]
        if self.frame == "world":
            text = "poses are in the world frame, not in that of the robot's base"
            findings.append(Finding("convention", text, "warning", stream="state"))
        if self._kwargs(file).get("controller_configs") is None:
            text = "env_args holds no controller: robosuite's default (50 mm and 0.5 rad at 1) is taken"
            findings.append(Finding("convention", text, "warning", stream="action"))
        extra = {f"source/{key}": spec for key, spec in self._extra_keys.items()}
        return SourceInfo(
            embodiment=arm.card(self.options.card, 7, self.fps),
            fps=self.fps,
            episodes=self.demos.ids,
            task=self._bddl(file).removesuffix(".bddl") if len(self.demos.files) == 1 else path.name,
            cameras={_slot(key): file.frame_size(f"{demo}/obs/{key}") for key in self.images},
            extra={"source/action": vector_stream("action", 7, unit="command", source="commanded"), **extra},
            findings=tuple(findings),
            provenance={
                "format": "libero",
                "frame": self.frame,
                "pairing": self.options.pairing,
                "flip": flip,
                "time": f"nominal, {self.fps:g} Hz",
            },
        )


def _slot(key: str) -> str:
    return key.removesuffix("_rgb").replace("/", "_")


def _detect(path: Path) -> str | None:
    found = data_attributes(path)
    if found is None or not {"bddl_file_name", "problem_info"} & found[1]:
        return None
    return f"/data with a BDDL task in {found[0].name}"


FORMAT = Format("libero", LiberoOptions, _detect, guarded(LiberoSource))
