"""ManiSkill HDF5 + JSON: ``traj_<i>`` with T actions and T + 1 observations, and what recorded them beside it.

Facts (mani_skill/utils/wrappers/record.py, agents/controllers): ``control_mode`` of each episode says what the actions
are; they are in [-1, 1] wherever the controller normalises, and the bounds are those of the robot's controllers, which
the JSON does not hold. Known ones are in the entry ``controllers`` of ``configs/format/maniskill.yaml``; where there
are none, actions keep their numbers. The robot is the articulation that ``env_states`` names, whose first seven
numbers are where it stands. Observation T + 1, which no action follows, is left out. Failed episodes are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.hdf5_damage import guarded, hdf5_errors
from robopolicy.data.convert.hdf5_episode import (
    Hdf5File,
    hdf5_files,
    leaves,
    natural_order,
    nominal_time_ns,
    numbered_channels,
    require_rows,
    vector_stream,
)
from robopolicy.data.convert.maniskill_actions import ControlMode, control_mode, known_robots
from robopolicy.data.convert.maniskill_files import read_description, sort_arrays, trajectory_file
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.unify import generic_card
from robopolicy.data.episode import Episode, StreamSpec
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, ShapeError, explain, suggest
from robopolicy.schema import setting

__all__ = ["FORMAT", "ManiskillOptions", "ManiskillSource"]

_ASSUMED_HZ = 20.0
_WIDEST = 16_384
_SIDE = ("success", "fail", "terminated", "truncated", "rewards")


@dataclass(frozen=True)
class ManiskillOptions:
    """Options of ``format=maniskill``."""

    robot: str = setting("robot, where the file does not name one; none: keep every number as it is", default="")
    fps: float = setting("rows per second; 0: control_freq of the environment, else 20", default=0.0, ge=0.0)
    rotation_scale_rad: float = setting(
        "signed rotation (rad) that a 1 means in pd_ee_*_pose; it changed between versions; 0: keep the numbers",
        default=0.0,
    )
    env_states: bool = setting("keep the simulator's states", default=False)
    control_mode: str = setting("take only episodes of this control mode; empty: there must be one", default="")


class ManiskillSource:
    """One ``trajectory.h5`` with its JSON."""

    def __init__(self, path: Path, options: ManiskillOptions):
        """Read the JSON and the shapes of the first trajectory.

        Raises:
            DataError: a missing or damaged JSON, no observations, several control modes.
        """
        self.options = options
        self.path = trajectory_file(path)
        about = read_description(self.path)
        self.about = about
        self.environment: Mapping[str, Any] = about.get("env_info") or {}
        self.kwargs: Mapping[str, Any] = self.environment.get("env_kwargs") or {}
        self.file = Hdf5File(self.path)
        self.listed = {f"traj_{entry['episode_id']}": entry for entry in about["episodes"]}
        held = natural_order(name for name in self.file.root if str(name).startswith("traj_"))
        self.mode_name, self.ids = self._chosen(held)
        self.fps = options.fps or self._rate()
        self.first = self.ids[0]
        self.mode = self._mode()
        self.info = self._describe(held)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, episode: str) -> Reading:
        """One trajectory.

        Raises:
            DataError, NonFiniteError: damaged; file and key are named.
        """
        if episode not in self.ids:
            raise DataError(explain(f"{self.path} has no such episode", given=episode, mend=suggest(episode, self.ids)))
        actions = self.file.vectors(f"{episode}/actions")
        rows = len(actions)
        entry = self.listed.get(episode, {})
        lengths = {"elapsed_steps": int(entry.get("elapsed_steps", rows))}
        side = {k: self.file.vectors(f"{episode}/{k}", 1) for k in _SIDE if f"{episode}/{k}" in self.file}
        require_rows(f"{self.path}: {episode}", lengths | {k: len(v) for k, v in side.items()}, rows)
        if not rows:
            return Reading(None, [Finding("length", "an episode without actions", "error", episode)])
        values: dict[str, NDArray[np.float64]] = {}
        for key in self._numbers:
            values[key] = self.file.vectors(f"{episode}/{key}")
        require_rows(f"{self.path}: {episode}", {k: len(v) for k, v in values.items()}, rows + 1)
        values = {key: array[:rows] for key, array in values.items()}
        findings: list[Finding] = []
        streams: dict[str, Any] = {"source/action": actions}
        if self.mode is None:
            streams["state"] = np.concatenate([values[key] for key in self._state_keys], axis=1)
            streams["action"] = actions
        else:
            streams["state"], streams["action"] = self.mode.meant(self.info.embodiment, values, actions)
            outside = int((np.abs(actions) > 1 + 1e-6).sum()) if self.mode.normalised else 0
            if outside:
                text = f"{outside} commands lie outside [-1, 1] and are clipped by the controller"
                findings.append(Finding("clipped", text, "note", episode, "action"))
        for key in self._extra_keys:
            streams[f"source/{key}"] = values[key]
        for key in ("rewards", "success", "fail"):
            if f"source/{key}" in self.info.extra and key in side:
                streams[f"source/{key}"] = side[key] if key == "rewards" else side[key][:, 0].astype(np.int64)
        self._pictures(episode, rows, streams)
        streams["time_ns"] = nominal_time_ns(rows, self.fps)
        success = bool(side["success"][-1, 0]) if "success" in side else bool(entry.get("success", False))
        kept = ("episode_seed", "reset_kwargs", "control_mode", "elapsed_steps", "info", "success", "fail")
        metadata = {"source": {"id": episode, **{k: entry[k] for k in kept if k in entry}}}
        return Reading(Episode(streams, str(entry.get("language", "")), success, metadata), findings)

    def _pictures(self, episode: str, rows: int, streams: dict[str, Any]) -> None:
        for key, slot in self._arrays.colour.items():
            self._require_pictures(episode, key, rows)
            streams[f"image/{slot}"] = self.file.frames(f"{episode}/{key}", slice(0, rows))
        for key, name in self._arrays.depth.items():
            self._require_pictures(episode, key, rows)
            # int16 in the source because torch has no uint16; a distance is never negative.
            streams[name] = self.file.read(f"{episode}/{key}", slice(0, rows)).view(np.uint16)

    def _require_pictures(self, episode: str, key: str, rows: int) -> None:
        require_rows(f"{self.path}: {episode}", {key: len(self.file.node(f"{episode}/{key}"))}, rows + 1)

    def _chosen(self, held: list[str]) -> tuple[str, tuple[str, ...]]:
        """The control mode and the trajectories that have it."""
        default = str(self.kwargs.get("control_mode", ""))
        modes = {name: str(self.listed.get(name, {}).get("control_mode") or default) for name in held}
        wanted = self.options.control_mode or next(iter(modes.values()), "")
        others = sorted(set(modes.values()) - {wanted})
        if others and not self.options.control_mode:
            raise DataError(
                explain(
                    f"{self.path} holds episodes of several control modes",
                    given=sorted(set(modes.values())),
                    mend=f"convert them one by one: options.control_mode={wanted}",
                )
            )
        chosen = tuple(name for name in held if modes[name] == wanted)
        if not chosen:
            raise DataError(
                explain(
                    f"{self.path} holds no trajectory of control mode '{wanted}'", allowed=sorted(set(modes.values()))
                )
            )
        return wanted, chosen

    def _rate(self) -> float:
        config = self.kwargs.get("sim_config") or self.kwargs.get("sim_cfg") or {}
        return float(config.get("control_freq", 0.0)) or _ASSUMED_HZ

    def _robot(self) -> str:
        """As the user, the environment's arguments or the recorded states name it; empty when nobody does."""
        told = self.options.robot or self.kwargs.get("robot_uids") or ""
        if told:
            return told if isinstance(told, str) else ""
        key = f"{self.first}/env_states/articulations"
        held = list(self.file.node(key).keys()) if key in self.file else []
        known = [name for name in held if name in known_robots()]
        return known[0] if len(known) == 1 else ""

    def _mode(self) -> ControlMode | None:
        self.why = ""
        robot = self._robot()
        if robot in ("", "none"):
            self.why = "the robot is not named; options.robot=panda states it" if not robot else "by options.robot=none"
            return None
        found = control_mode(robot, self.mode_name, self.options.rotation_scale_rad)
        if isinstance(found, str):
            self.why = found
            return None
        absent = [key for key in found.needed if f"{self.first}/{key}" not in self.file]
        if absent:
            held = leaves(self.file.node(self.first))
            self.why = f"{absent} are not recorded (there are {', '.join(k for k in held if 'env_states' not in k)})"
            return None
        width = self.file.node(f"{self.first}/actions").shape[-1]
        if width != found.width:
            self.why = f"{width} actions instead of {found.width} for {self.mode_name}"
            return None
        return found

    def _describe(self, held: list[str]) -> SourceInfo:
        self._arrays = sort_arrays(self.file, self.first, self.options.env_states)
        numbers, colour, depth = self._arrays.numbers, self._arrays.colour, self._arrays.depth
        needed = self.mode.needed if self.mode else ()
        self._numbers = list(dict.fromkeys((*numbers, *needed)))
        self._state_keys = [key for key in numbers if key.startswith("obs")]
        self._extra_keys = [k for k in numbers if self.mode is not None or k not in self._state_keys]
        width = int(self.file.node(f"{self.first}/actions").shape[-1])
        unit = "unknown" if self.mode is None or not self.mode.normalised else "command"
        extra: dict[str, StreamSpec] = {"source/action": vector_stream("action", width, unit=unit, source="commanded")}
        for key in self._extra_keys:
            extra[f"source/{key}"] = StreamSpec("float32", (self._width(key),), kind=_kind(key))
        if f"{self.first}/rewards" in self.file:
            extra["source/rewards"] = StreamSpec("float32", (1,), ("reward",), kind="reward")
        for key in ("success", "fail"):
            if f"{self.first}/{key}" in self.file:
                extra[f"source/{key}"] = StreamSpec("int64", ())
        for key, name in depth.items():
            height, width_px = self.file.node(f"{self.first}/{key}").shape[1:3]
            extra[name] = StreamSpec("uint16", (int(height), int(width_px), 1), kind="depth", source="measured")
        task = str(self.environment.get("env_id", self.path.stem))
        return SourceInfo(
            embodiment=self._card(width),
            fps=self.fps,
            episodes=self.ids,
            task=task,
            cameras={slot: self.file.frame_size(f"{self.first}/{key}") for key, slot in colour.items()},
            extra=extra,
            expected_episodes=len(self.listed),
            findings=tuple(self._findings(held)),
            provenance={
                "format": "maniskill",
                "control_mode": self.mode_name,
                "actions": self.mode.description if self.mode else f"as recorded: {self.why}",
                "source_type": str(self.about.get("source_type", "")),
                "commit": self.about.get("commit_info"),
                "time": f"nominal, {self.fps:g} Hz",
            },
        )

    def _width(self, key: str) -> int:
        shape = self.file.node(f"{self.first}/{key}").shape
        width = int(shape[1]) if len(shape) > 1 else 1
        if width > _WIDEST:
            raise ShapeError(explain(f"{self.path}: '{key}' is too wide", given=width, allowed=_WIDEST))
        return width

    def _card(self, width: int) -> Embodiment:
        if self.mode is not None:
            return self.mode.card(self.fps)
        if not self._state_keys:
            raise DataError(
                explain(f"{self.path} has no low-dimensional observations", given=list(self._arrays.colour))
            )
        names = [
            name
            for key in self._state_keys
            for name in numbered_channels(key.removeprefix("obs/").replace("/", "."), self._width(key))
        ]
        return generic_card(
            self._robot() or "maniskill",
            state=[(name, "unknown") for name in names],
            action=[(name, "unknown") for name in numbered_channels("action", width)],
            control_hz=self.fps,
            action_reference="normalised",
            description="ManiSkill, actions as recorded",
        )

    def _findings(self, held: list[str]) -> list[Finding]:
        findings = []
        if self.mode is None:
            text = f"actions of {self.mode_name or 'an unnamed control mode'} are kept as they are: {self.why}"
            findings.append(Finding("convention", text, "warning", stream="action"))
        else:
            findings.append(Finding("convention", self.mode.description, "note", stream="action"))
        absent = [name for name in natural_order(self.listed) if name not in held]
        unlisted = [name for name in held if name not in self.listed]
        for names, text in ((absent, "are listed in the JSON and not in the file"), (unlisted, "are not in the JSON")):
            if names:
                findings.append(
                    Finding("missing_episode", f"{len(names)} trajectories {text}: {names[:10]}", "warning")
                )
        lost = self._arrays.others
        if lost:
            findings.append(Finding("not_converted", f"arrays without a place in the store: {lost}", "warning"))
        if not self.options.fps and self._rate() == _ASSUMED_HZ:
            text = f"{_ASSUMED_HZ:g} Hz, ManiSkill's default, is taken; options.fps states another"
            findings.append(Finding("rate", text, "note", stream="time_ns"))
        return findings


def _kind(key: str) -> str:
    return {"qpos": "joint_position", "qvel": "joint_velocity"}.get(key.rpartition("/")[2], "")


def _detect(path: Path) -> str | None:
    files = hdf5_files(path)
    if len(files) != 1 or not files[0].with_suffix(".json").is_file():
        return None
    try:
        with hdf5_errors(files[0]), Hdf5File(files[0]) as file:
            names = [name for name in file.root if str(name).startswith("traj_")]
            fits = bool(names) and "actions" in file.root[names[0]]
    except (DataError, AttributeError, TypeError):
        return None
    return f"{names[0]} in {files[0].name} with its JSON" if fits else None


FORMAT = Format("maniskill", ManiskillOptions, _detect, guarded(ManiskillSource))
