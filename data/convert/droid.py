"""DROID raw (arXiv 2403.12945): one folder per episode with trajectory.h5, MP4 files and a metadata JSON.

::

    <lab>/<success|failure>/<date>/<time>/trajectory.h5
                                          metadata_<uuid>.json        serial numbers of the cameras, task
                                          recordings/MP4/<serial>.mp4 left image of each camera, one frame per step
                                          recordings/SVO/<serial>.svo needs the camera maker's SDK

Facts from droid-dataset/droid: 15 Hz; poses are those of the flange (panda_link8), xyz and roll pitch yaw about fixed
axes; grippers are 0 open and 1 closed; the action of a row was chosen from the observation of that row. The card is a
Panda with a Robotiq 2F-85, so ``state`` and ``action`` are poses of its tool point, by forward kinematics of the
measured and the commanded joints. Ranges of steps in which the robot moves (openpi's filter file) cut an episode into
several, one per range.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.data.convert.droid_episode import DroidPlan, DroidReader, Segment
from robopolicy.data.convert.hdf5_episode import Hdf5File, is_hdf5, natural_order
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.convert.video import probe_video
from robopolicy.data.episode import StreamSpec
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError, DataError, explain, suggest
from robopolicy.schema import setting

__all__ = ["FORMAT", "ROLES", "DroidOptions", "DroidSource"]

FILE = "trajectory.h5"
CONTROL_HZ = 15.0
ROLES = {"wrist": "wrist_cam_serial", "exterior_1": "ext1_cam_serial", "exterior_2": "ext2_cam_serial"}
"""Slot -> entry of the metadata with the camera's serial number."""
_LOOKED_AT = 32


@dataclass(frozen=True)
class DroidOptions:
    """Options of ``format=droid``."""

    embodiment: str = setting("card with the same joints in the place of panda_2f85", default="")
    pose: Literal["kinematics", "recorded"] = setting(
        "tool poses by forward kinematics of the joints, or from the recorded flange", default="kinematics"
    )
    outcome: Literal["all", "success", "failure"] = setting(
        "which episodes, by the name of their folder", default="all"
    )
    cameras: tuple[str, ...] = setting("wrist, exterior_1, exterior_2; all when empty", default=())
    without_svo: bool = setting("go on without cameras of which only SVO files exist", default=False)
    keep_ranges: str = setting("JSON of the steps to keep per episode (openpi); all steps without it", default="")
    language: str = setting(
        "JSON of instructions by episode (DROID's annotations); else the metadata's task", default=""
    )
    repair: tuple[Literal["missing_camera", "length", "nominal_time"], ...] = setting(
        "faults to mend instead of refusing the episode", default=()
    )


class DroidSource:
    """All trajectories below a folder."""

    def __init__(self, path: Path, options: DroidOptions):
        """List the episodes; nothing but metadata and the headers of a few videos is read.

        Raises:
            DataError: no trajectory, no readable camera, or a filter that is not of its form.
            ConfigError: unknown cameras, or a card with other joints.
        """
        card = load_embodiment(options.embodiment or "panda_2f85")
        if len(card.arms) != 1 or len(card.chain) != 7 or not card.gripper or card.state_space != "ee_pose":
            raise ConfigError(
                explain(f"'{card.name}' is no card for DROID", allowed="one arm of 7 joints and a gripper")
            )
        unknown = [name for name in options.cameras if name not in ROLES]
        if unknown:
            raise ConfigError(explain("DROID has no such cameras", given=unknown, allowed=list(ROLES)))
        segments, findings = _segments(path, options)
        self._segments = {segment.id: segment for segment in segments}
        cameras, more = _cameras(segments, options.cameras or tuple(ROLES), options.without_svo)
        plan = DroidPlan(card, options.pose, cameras, CONTROL_HZ, frozenset(options.repair))
        self._reader = DroidReader(plan)
        self._info = SourceInfo(
            embodiment=card,
            fps=CONTROL_HZ,
            episodes=tuple(self._segments),
            task="droid",
            cameras=cameras,
            joints=True,
            extra=_extra(tuple(link.joint for link in card.chain)),
            findings=(*findings, *more, *_rules()),
            provenance={
                "origin": "DROID raw (arXiv 2403.12945), CC BY 4.0",
                "rate_hz": CONTROL_HZ,
                "pose": options.pose,
            },
        )

    @property
    def info(self) -> SourceInfo:
        """What the source holds."""
        return self._info

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: the file is damaged or lacks an array.
        """
        if episode not in self._segments:
            mend = suggest(episode, self._segments)
            raise DataError(explain("no such episode", given=episode, allowed=f"{len(self._segments)} ids", mend=mend))
        return self._reader.read(self._segments[episode])

    def close(self) -> None:
        """Nothing is kept open."""


def _rules() -> tuple[Finding, ...]:
    return (
        Finding("colour_order", "videos are decoded to RGB; OpenCV would give their frames as BGR", "note"),
        Finding("convention", "gripper_position is 0 open and 1 closed in DROID, and is turned round", "note"),
    )


def _extra(joints: tuple[str, ...]) -> dict[str, StreamSpec]:
    flange = ("x", "y", "z", "roll", "pitch", "yaw")
    units = ("m", "m", "m", "rad", "rad", "rad")
    rates = ("rad/s",) * 7
    return {
        "joint_velocity": StreamSpec("float32", (7,), joints, rates, "joint_velocity", "", "measured"),
        "source/cartesian_position": StreamSpec("float32", (6,), flange, units, "ee_pose", "base", "measured"),
        "source/action_cartesian_position": StreamSpec("float32", (6,), flange, units, "ee_pose", "base", "commanded"),
        "source/action_joint_velocity": StreamSpec("float32", (7,), joints, rates, "joint_velocity", "", "commanded"),
    }


def _detect(path: Path) -> str | None:
    found = next(_trajectories(path, limit=2000), None)
    if found is None or not is_hdf5(found):
        return None
    with Hdf5File(found) as file:
        if "observation/robot_state/joint_positions" not in file or "action" not in file:
            return None
    return f"{FILE} with observation/robot_state"


def _trajectories(path: Path, limit: int | None = None) -> Iterator[Path]:
    """Files named trajectory.h5 at or below ``path``, folders in natural order; gives up after ``limit`` folders."""
    if path.is_file():
        if path.name == FILE:
            yield path
        return
    for count, (folder, below, files) in enumerate(os.walk(path)):
        if limit is not None and count >= limit:
            return
        below[:] = [name for name in natural_order(below) if name != "recordings"]
        if FILE in files:
            yield Path(folder) / FILE


def _segments(path: Path, options: DroidOptions) -> tuple[list[Segment], list[Finding]]:
    ranges = _keep_ranges(Path(options.keep_ranges).expanduser()) if options.keep_ranges else None
    texts = _instructions(Path(options.language).expanduser()) if options.language else {}
    found: list[Segment] = []
    findings: list[Finding] = []
    for file in _trajectories(path):
        whole = Segment.of(path, file, texts)
        if options.outcome != "all" and whole.success != (options.outcome == "success"):
            continue
        kept = None if ranges is None else ranges.get(whole.key)
        if ranges is not None and kept is None:
            findings.append(Finding("keep_ranges", "not in the filter file; left out", "warning", whole.id))
            continue
        found += [whole] if kept is None else whole.parts(kept)
    if not found:
        mend = "check the path, options.outcome and options.keep_ranges"
        raise DataError(explain(f"no episode below {path}", given=f"{len(findings)} left out", mend=mend))
    return found, findings


def _keep_ranges(path: Path) -> dict[str, list[tuple[int, int]]]:
    """``{folder--file: [[start, stop], ...]}`` as openpi writes it, by the last four folders of the episode."""
    entries = _json(path)
    entries = entries.get("keep_ranges", entries)
    try:
        return {
            Segment.key_of(str(name).rpartition("--")[2]): [(int(a), int(b)) for a, b in spans]
            for name, spans in entries.items()
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            explain(
                f"{path} is no filter of steps: {error}", allowed="{'<folder>--<trajectory.h5>': [[start, stop], ...]}"
            )
        ) from error


def _instructions(path: Path) -> dict[str, str]:
    """DROID's annotations: uuid -> ``{language_instruction1, ...}``, of which the first is taken."""
    texts = {}
    for uuid, entry in _json(path).items():
        if not isinstance(entry, dict):
            raise DataError(explain(f"{path} holds no annotations by episode", given=f"{uuid}: {type(entry).__name__}"))
        named = [str(entry[key]) for key in sorted(entry) if key.startswith("language_instruction") and entry[key]]
        if named:
            texts[str(uuid)] = named[0]
    return texts


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(explain(f"{path} cannot be read: {error}", mend="check the path")) from error
    except ValueError as error:
        raise DataError(explain(f"{path} is no JSON: {error}")) from error
    if not isinstance(loaded, dict):
        raise DataError(explain(f"{path} holds no mapping", given=type(loaded).__name__))
    return loaded


def _cameras(
    segments: list[Segment], wanted: tuple[str, ...], without_svo: bool
) -> tuple[dict[str, tuple[int, int]], list[Finding]]:
    """Slot -> (height, width) from the first episodes that have a video of it."""
    sizes: dict[str, tuple[int, int]] = {}
    svo: set[str] = set()
    for segment in segments[:_LOOKED_AT]:
        for slot in wanted:
            video = segment.video(slot)
            if slot not in sizes and video is not None:
                probed = probe_video(video)
                sizes[slot] = probed.height, probed.width
            elif video is None and segment.svo(slot) is not None:
                svo.add(slot)
        if len(sizes) == len(wanted):
            break
    absent = [slot for slot in wanted if slot not in sizes]
    only_svo = sorted(svo & set(absent))
    if only_svo and not without_svo:
        raise DataError(
            explain(
                f"of cameras {only_svo} there are only SVO files, which need the camera maker's SDK",
                given=str(segments[0].file.parent / "recordings"),
                mend="convert them to recordings/MP4/<serial>.mp4 first, or go on without: options.without_svo=true",
            )
        )
    why = {
        slot: "only SVO files, left out as asked" if slot in only_svo else "no recording, left out" for slot in absent
    }
    findings = [Finding("missing_camera", f"camera '{slot}': {why[slot]}", "warning") for slot in absent]
    return {slot: sizes[slot] for slot in wanted if slot in sizes}, findings


FORMAT = Format("droid", DroidOptions, _detect, DroidSource)
