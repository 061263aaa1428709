"""robomimic HDF5: ``/data/demo_i`` with ``obs/``, ``actions``, ``states``, ``rewards``, ``dones``, and masks.

What actions mean is in the attribute ``env_args`` of ``/data``: the configuration of robosuite's controller. Where it
is understood (:mod:`robopolicy.data.convert.robosuite`), actions become absolute targets; poses are brought into the
robot's base frame when the demonstration carries its model. Otherwise every number stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.demo_files import (
    OWN_STATE,
    DemoFiles,
    data_attributes,
    is_image,
    is_vector,
    observation_keys,
    own_card,
)
from robopolicy.data.convert.hdf5_damage import guarded
from robopolicy.data.convert.hdf5_episode import (
    Hdf5File,
    natural_order,
    nominal_time_ns,
    numbered_channels,
    require_rows,
    vector_stream,
)
from robopolicy.data.convert.robosuite import FINGER_RANGES_M, controller_of, robots_of, unmeant
from robopolicy.data.convert.robosuite_arm import RobosuiteArm, frame_of
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import generic_card, rotation_matrix
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain
from robopolicy.schema import setting

__all__ = ["FORMAT", "RobomimicOptions", "RobomimicSource"]

Array = NDArray[np.float64]
_ROBOSUITE = 1
_ASSUMED_HZ = 20.0
_PRIVILEGED = "object"
_POSITION, _FINGERS, _JOINTS = "robot0_eef_pos", "robot0_gripper_qpos", "robot0_joint_pos"
_QUATERNIONS = ("robot0_eef_quat_site", "robot0_eef_quat")
"""xyzw; the first is that of the site whose position is recorded, where there is one (robosuite 1.5)."""


@dataclass(frozen=True)
class RobomimicOptions:
    """Options of ``format=robomimic``."""

    filter: str = setting("only the demonstrations of /mask/<filter>; all when empty", default="")
    convention: Literal["auto", "none"] = setting("none: keep every number as it is", default="auto")
    robot: str = setting("robot, where env_args does not say", default="")
    card: str = setting("embodiment card of the robot; empty: an arm known by its pose only", default="")
    frame: Literal["auto", "base", "world"] = setting(
        "frame of poses; auto: base where the model is kept", default="auto"
    )
    gripper_range: tuple[float, ...] = setting("first gripper joint when closed, when open", default=())
    fps: float = setting("rows per second; 0: control_freq of env_args, else 20", default=0.0, ge=0.0)
    states: bool = setting("keep the simulator's flat state", default=True)
    assume_success: bool = setting("mark every episode as successful", default=False)


class RobomimicSource:
    """One file, or a folder of files of one environment."""

    def __init__(self, path: Path, options: RobomimicOptions):
        """Read the attributes and the shapes of the first demonstration.

        Raises:
            DataError: no such layout, no observations, or options that do not fit.
        """
        self.options = options
        self.demos = DemoFiles(path, options.filter)
        file, demo = self.demos.locate(self.demos.ids[0])
        env_args = file.json_attribute("data", "env_args")
        self.kwargs: Mapping[str, Any] = env_args.get("env_kwargs") or {}
        if options.robot:
            self.kwargs = {**self.kwargs, "robots": [options.robot]}
        self.task = str(env_args.get("env_name", path.stem))
        self.fps = options.fps or float(self.kwargs.get("control_freq", 0.0)) or _ASSUMED_HZ
        kind = env_args.get("type", env_args.get("env_type"))
        self._action_width = int(file.node(f"{demo}/actions").shape[-1])
        self.own = None if options.convention == "none" else own_card(self.kwargs, file, demo)
        self.arm, self.why = self._understood(file, demo, kind)
        self._same_environment(env_args)
        self.images = observation_keys(file, demo, is_image)
        self.vectors = observation_keys(file, demo, is_vector)
        self.others = observation_keys(file, demo, lambda node: not is_image(node) and not is_vector(node))
        self.info = self._describe(file, demo)

    def close(self) -> None:
        """Close the open file."""
        self.demos.close()

    def read(self, episode: str) -> Reading:
        """One demonstration.

        Raises:
            DataError, NonFiniteError: damaged; file and key are named.
        """
        file, demo = self.demos.locate(episode)
        actions = file.vectors(f"{demo}/actions", self._action_width)
        rows = len(actions)
        declared = int(file.attribute(demo, "num_samples", rows))
        obs = {key: file.vectors(f"{demo}/obs/{key}") for key in self.vectors}
        lengths = {"num_samples": declared} | {f"obs/{k}": len(v) for k, v in obs.items()}
        streams: dict[str, Any] = {"source/action": actions}
        for key in self.images:
            streams[f"image/{_slot(key)}"] = file.frames(f"{demo}/obs/{key}", slice(None))
            lengths[f"obs/{key}"] = len(file.node(f"{demo}/obs/{key}"))
        for key in ("rewards", "dones", "states"):
            if f"source/{key}" in self.info.extra:
                streams[f"source/{key}"] = file.vectors(f"{demo}/{key}", self.info.extra[f"source/{key}"].shape[0])
                lengths[key] = len(streams[f"source/{key}"])
        require_rows(f"{file.path}: {demo}", lengths, rows)
        findings: list[Finding] = []
        streams["state"], streams["action"] = self._meant(file, demo, obs, actions)
        outside = self.arm.controller.clipped(actions[:, :-1]) if self.arm else 0
        if outside:
            text = f"{outside} commands lie outside the controller's input range and are clipped by it"
            findings.append(Finding("clipped", text, "note", episode, "action"))
        if self.info.environment_state:
            streams["environment_state"] = obs[_PRIVILEGED]
        for key in self._kept:
            streams[f"source/obs/{key}"] = obs[key]
        streams["time_ns"] = nominal_time_ns(rows, self.fps)
        rewards = np.asarray(streams.get("source/rewards", np.zeros((1, 1))))
        sparse = not self.kwargs.get("reward_shaping", False)
        stated = sparse and "source/rewards" in streams
        success = True if self.options.assume_success else (bool(rewards.max() > 0) if stated else None)
        metadata = {"source": {"id": episode, "file": file.path.name}}
        language = str(file.json_attribute(demo, "ep_meta").get("lang", ""))
        return Reading(Episode(streams, language, success, metadata), findings)

    def _understood(self, file: Hdf5File, demo: str, kind: Any) -> tuple[RobosuiteArm | None, str]:
        """The arm, or None and why the numbers are left alone."""
        if self.options.convention == "none":
            return None, "by options.convention=none"
        if self.own is not None:
            return None, f"targets of card '{self.own.name}', as exported"
        if kind != _ROBOSUITE:
            return None, f"the environment is not one of robosuite (env_args type {kind!r})"
        controller = controller_of(self.kwargs)
        if controller is None:
            return None, unmeant(self.kwargs)
        posed = controller.kind == "OSC_POSE"
        wanted = ((_POSITION,), (_FINGERS,), _QUATERNIONS) if posed else ((_JOINTS,), (_FINGERS,))
        absent = [keys[-1] for keys in wanted if not any(f"{demo}/obs/{key}" in file for key in keys)]
        if absent and f"{demo}/obs" in file:
            raise DataError(
                explain(
                    f"{file.path}: {demo} has no obs {absent}, without which actions cannot become absolute",
                    given=list(file.node(f"{demo}/obs").keys()),
                    mend="extract them from the states, or options.convention=none keeps the numbers as they are",
                )
            )
        width = self._action_width
        arm_width = 6 if posed else file.node(f"{demo}/obs/{_JOINTS}").shape[-1]
        if width != arm_width + 1:
            return None, f"{width} actions instead of {arm_width + 1} for {controller.kind} and a gripper"
        robot = robots_of(self.kwargs)[0]
        fingers = self.options.gripper_range or FINGER_RANGES_M.get(robot, ())
        if len(fingers) != 2:
            return None, f"the gripper of {robot} is not known; options.gripper_range=[closed,open] states it"
        frame = frame_of(self.options.frame, self._model(file, demo), f"{file.path}: {demo}")
        if posed and controller.frame == "base" and frame != "base":
            return None, "commands are in the frame of the base, which is not known or not wanted"
        return RobosuiteArm(robot, controller, fingers, frame), ""

    @staticmethod
    def _model(file: Hdf5File, demo: str) -> str:
        return str(file.attribute(demo, "model_file", ""))

    def _same_environment(self, env_args: Mapping[str, Any]) -> None:
        for path in self.demos.files[1:]:
            with Hdf5File(path) as other:
                if other.json_attribute("data", "env_args") != env_args:
                    raise DataError(
                        explain(
                            f"{path} is of another environment than {self.demos.files[0].name}", mend="convert alone"
                        )
                    )

    def _meant(self, file: Hdf5File, demo: str, obs: Mapping[str, Array], actions: Array) -> tuple[Array, Array]:
        """State and action in the card's channels."""
        if self.own is not None:
            return obs[OWN_STATE], actions
        if self.arm is None:
            return np.concatenate([obs[key] for key in self._state_keys], axis=1), actions
        card = self.info.embodiment
        if self.arm.controller.kind == "JOINT_POSITION":
            return self.arm.of_joints(card, obs[_JOINTS], obs[_FINGERS], actions)
        key = next(key for key in _QUATERNIONS if key in obs)
        rotation = rotation_matrix(obs[key], "quaternion_xyzw")
        return self.arm.of_poses(card, obs[_POSITION], rotation, obs[_FINGERS], actions, self._model(file, demo))

    @property
    def _state_keys(self) -> list[str]:
        return [key for key in self.vectors if key != _PRIVILEGED]

    @property
    def _kept(self) -> list[str]:
        if self.own is not None:
            return [key for key in self._state_keys if key != OWN_STATE]
        return [] if self.arm is None else self._state_keys

    def _card(self, file: Hdf5File, demo: str) -> Embodiment:
        if self.own is not None:
            return self.own
        if self.arm is not None:
            return self.arm.card(self.options.card, self._action_width - 1, self.fps)
        robot = next(iter(robots_of(self.kwargs)), "robomimic")
        if not self._state_keys:
            raise DataError(
                explain(f"{file.path}: {demo} has no low-dimensional observations", given=self.images + self.others)
            )
        state = [(n, "unknown") for key in self._state_keys for n in self._names(file, demo, key)]
        action = [(n, "unknown") for n in numbered_channels("action", self._action_width)]
        return generic_card(robot, state=state, action=action, control_hz=self.fps, action_reference="normalised")

    @staticmethod
    def _names(file: Hdf5File, demo: str, key: str) -> tuple[str, ...]:
        shape = file.node(f"{demo}/obs/{key}").shape
        return numbered_channels(key, shape[1] if len(shape) > 1 else 1)

    def _describe(self, file: Hdf5File, demo: str) -> SourceInfo:
        extra: dict[str, StreamSpec] = {
            "source/action": vector_stream("action", self._action_width, unit="command", source="commanded")
        }
        for key in self._kept:
            extra[f"source/obs/{key}"] = StreamSpec(
                "float32", (len(self._names(file, demo, key)),), self._names(file, demo, key), source="measured"
            )
        for key in ("rewards", "dones", *(("states",) if self.options.states else ())):
            shape: tuple[int, ...] = file.node(f"{demo}/{key}").shape if f"{demo}/{key}" in file else (0,)
            if shape[-1]:
                kind = "reward" if key == "rewards" else "simulator_state" if key == "states" else ""
                extra[f"source/{key}"] = StreamSpec("float32", (shape[1] if len(shape) > 1 else 1,), kind=kind)
        privileged = self._names(file, demo, _PRIVILEGED) if _PRIVILEGED in self.vectors else ()
        robot = next(iter(robots_of(self.kwargs)), "unknown")
        return SourceInfo(
            embodiment=self._card(file, demo),
            fps=self.fps,
            episodes=self.demos.ids,
            task=self.task,
            cameras={_slot(key): file.frame_size(f"{demo}/obs/{key}") for key in self.images},
            environment_state=privileged,
            extra=extra,
            findings=tuple(self._findings(file)),
            provenance={
                "format": "robomimic",
                "robot": robot,
                "frame": self.arm.frame if self.arm else "as recorded",
                "actions": self._meaning(),
                "time": f"nominal, {self.fps:g} Hz",
                "filter": self.options.filter,
            },
        )

    def _meaning(self) -> str:
        if self.arm is None:
            return f"as recorded: {self.why}"
        controller = self.arm.controller
        what = f"changes of what is {controller.reference}" if controller.delta else "absolute"
        return f"{controller.kind}, {what}; gripper -1 open, 1 closed"

    def _findings(self, file: Hdf5File) -> list[Finding]:
        if self.own is not None:
            findings = [Finding("convention", f"actions are {self.why}", "note", stream="action")]
        elif self.arm is None:
            text = f"actions are kept as they are: {self.why}"
            findings = [Finding("convention", text, "warning", stream="action")]
        else:
            findings = [Finding("convention", self._meaning(), "note", stream="action")]
            if self.arm.frame == "world" and self.arm.controller.kind == "OSC_POSE":
                text = "poses are in the world frame, not in that of the robot's base"
                findings.append(Finding("convention", text, "warning", stream="state"))
        if self.others:
            text = f"observations without a place in the store: {self.others}"
            findings.append(Finding("not_converted", text, "warning"))
        if not self.options.fps and not self.kwargs.get("control_freq"):
            text = f"env_args says no control_freq; {self.fps:g} Hz is assumed, options.fps states it"
            findings.append(Finding("rate", text, "warning", stream="time_ns"))
        total = file.attribute("data", "total")
        if total is not None and not self.options.filter and len(self.demos.files) == 1:
            held = sum(int(file.attribute(f"data/{demo}", "num_samples", 0)) for demo in self.demos.ids)
            if held != int(total):
                text = f"attribute total says {int(total)} samples, the demonstrations say {held}"
                findings.append(Finding("length", text, "warning"))
        return findings


def _slot(key: str) -> str:
    return key.removesuffix("_image").replace("/", "_")


def _detect(path: Path) -> str | None:
    found = data_attributes(path)
    if found is None:
        return None
    file, attributes, names = found
    demos = [name for name in names if name.startswith("demo")]
    if not demos or {"bddl_file_name", "problem_info"} & attributes:
        return None
    return f"/data/{natural_order(demos)[0]} in {file.name}"


FORMAT = Format("robomimic", RobomimicOptions, _detect, guarded(RobomimicSource))
