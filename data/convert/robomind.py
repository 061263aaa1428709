"""RoboMIND 1.0 to 1.2 (HDF5, one file per episode): the ten layouts of :mod:`robopolicy.data.convert.robomind_layouts`.

``state`` and ``action`` follow the card: joints as recorded, tool poses by forward kinematics of the card (the recorded
end effector has a tool point and a base of its own; it is kept as ``source/end_effector``). The action is the puppet's
next row for Franka, UR, Tien Kung with Xsens and the simulated robots, the master's row for AgileX and Tien Kung with
Gello, as the project's robomind.yaml has it. Faults that the releases are known for end an episode unless their repair
is chosen: ``stuck_ee``, ``missing_camera``, ``raw_frame``, ``broken_frame``, ``depth_unit``, ``length``,
``nominal_time``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from robopolicy.data.convert.hdf5_episode import Hdf5File, is_hdf5, natural_order
from robopolicy.data.convert.robomind_episode import EpisodeReader
from robopolicy.data.convert.robomind_frames import decode_depth, image_size
from robopolicy.data.convert.robomind_language import find_language, read_language
from robopolicy.data.convert.robomind_layouts import FOLDERS, LAYOUTS, Layout, layout_of
from robopolicy.data.convert.robomind_plan import Place, Plan, simulated_fps
from robopolicy.data.convert.source import Finding, Format, Reading, SourceInfo
from robopolicy.data.episode import StreamSpec
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, DataError, explain, suggest
from robopolicy.schema import setting

__all__ = ["FORMAT", "RobomindOptions", "RobomindSource"]

FILE = "trajectory.hdf5"
_NOMINAL_HZ = 30.0
_LOOKED_AT = 64
"""Files that are opened, at most, to learn the size of every camera: 675 recordings lack one."""


@dataclass(frozen=True)
class RobomindOptions:
    """Options of ``format=robomind``."""

    layout: str = setting("folder name of the embodiment, or auto", default="auto")
    embodiment: str = setting("card with the same channels in the place of the usual one", default="")
    action: Literal["auto", "puppet", "master"] = setting("whose joints are the action", default="auto")
    shift: int | None = setting(
        "rows by which the action is ahead; 1 for the puppet, 0 for the master", default=None, ge=0
    )
    pose: Literal["kinematics", "recorded"] = setting(
        "where the tool poses of state and action are from", default="kinematics"
    )
    gripper: tuple[float, float] | None = setting("recorded value of a closed and of an open gripper", default=None)
    command_gripper: tuple[float, float] | None = setting("the same for the master's, where it differs", default=None)
    end_effector: bool = setting("keep the recorded end effector as source/end_effector", default=True)
    colour: Literal["auto", "bgr", "rgb"] = setting("what OpenCV's imdecode gives; auto by layout", default="auto")
    cameras: tuple[str, ...] = setting("cameras to convert, without 'camera_'; all when empty", default=())
    depth: bool = setting("convert depth images too (uint16 mm)", default=False)
    fps: float | None = setting("rows/s; 30, or measured from the simulated time", default=None, gt=0)
    sim_stride: int | None = setting("rows of joints per simulated frame; measured when not given", default=None, ge=1)
    splits: tuple[str, ...] = setting("train, val; all when empty", default=())
    language: tuple[str, ...] = setting(
        "instruction CSV and annotation JSON, or their folders; else looked for", default=()
    )
    repair: tuple[
        Literal["stuck_ee", "missing_camera", "raw_frame", "broken_frame", "depth_unit", "length", "nominal_time"], ...
    ] = setting("faults to mend instead of refusing the episode", default=())


class RobomindSource:
    """All trajectories below a folder of one embodiment."""

    def __init__(self, path: Path, options: RobomindOptions):
        """List the trajectories and look into as few as tell the sizes of the cameras.

        Raises:
            DataError: none there, several embodiments, or a convention that has to be stated.
            ConfigError: options that do not fit the layout.
        """
        self._options = options
        self._places = _places(path, options)
        first = next(iter(self._places.values()))
        with Hdf5File(first.file) as file:
            layout = _layout(options, first.file, file)
        if not options.end_effector:
            layout = replace(layout, poses=())
        _check_one_layout(self._places.values(), layout, options)
        self._card = _card(layout, options)
        wanted = _cameras(layout, options)
        sizes, depths = _sizes(self._places.values(), layout, wanted, options.depth)
        absent = [name for name in wanted if name not in sizes]
        plan = Plan(
            layout=layout,
            card=self._card,
            grippers=_gripper_ends(layout, options, first.file),
            action_root=layout.action_root if options.action == "auto" else options.action,
            shift=options.shift,
            pose=options.pose,
            bgr=layout.bgr if options.colour == "auto" else options.colour == "bgr",
            cameras={name: sizes[name] for name in wanted if name in sizes},
            depths=depths,
            fps=options.fps or (simulated_fps(first.file, layout, options.sim_stride) if layout.time else _NOMINAL_HZ),
            stride=options.sim_stride,
            repair=frozenset(options.repair),
        )
        plan.check()
        files = tuple(Path(name).expanduser() for name in options.language) or find_language(path)
        self._language = read_language(files)
        self._reader = EpisodeReader(plan, self._language)
        self._info = _info(path, plan, self._places, absent, files)

    @property
    def info(self) -> SourceInfo:
        """What the source holds."""
        return self._info

    def read(self, episode: str) -> Reading:
        """One episode.

        Raises:
            DataError: the file is damaged or lacks an array of its layout.
        """
        if episode not in self._places:
            mend = suggest(episode, self._places)
            raise DataError(explain("no such episode", given=episode, allowed=f"{len(self._places)} ids", mend=mend))
        return self._reader.read(episode, self._places[episode])

    def close(self) -> None:
        """Nothing is kept open."""


def _detect(path: Path) -> str | None:
    found = next(_trajectories(path, limit=2000), None)
    if found is None or not is_hdf5(found):
        return None
    with Hdf5File(found) as file:
        if "observations/rgb_images" not in file:
            return None
    named = [part for part in found.parts if part in FOLDERS]
    return f"{FILE} with observations/rgb_images" + (f" in {named[-1]}" if named else "")


def _trajectories(path: Path, limit: int | None = None) -> Any:
    """Files named trajectory.hdf5 at or below ``path``, folders in natural order; gives up after ``limit`` folders."""
    if path.is_file():
        if path.name == FILE:
            yield path
        return
    for count, (folder, below, files) in enumerate(os.walk(path)):
        if limit is not None and count >= limit:
            return
        below[:] = natural_order(below)
        if FILE in files:
            yield Path(folder) / FILE


def _places(path: Path, options: RobomindOptions) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for file in _trajectories(path):
        place = Place.of(path, file)
        if not options.splits or place.split in options.splits:
            found[place.id] = place
    if not found:
        mend = f"check the path and options.splits={list(options.splits)}" if options.splits else "check the path"
        raise DataError(explain(f"no {FILE} below {path}", mend=mend))
    return found


def _layout(options: RobomindOptions, path: Path, file: Hdf5File) -> Layout:
    if options.layout == "auto":
        return layout_of(path, file)
    if options.layout not in FOLDERS:
        mend = suggest(options.layout, FOLDERS)
        raise ConfigError(explain("no such layout of RoboMIND", given=options.layout, allowed=list(FOLDERS), mend=mend))
    return LAYOUTS[FOLDERS[options.layout]]


def _check_one_layout(places: Any, layout: Layout, options: RobomindOptions) -> None:
    if options.layout != "auto":
        return
    folders = sorted(
        {part for place in places for part in place.file.parts if FOLDERS.get(part, layout.name) != layout.name}
    )
    if folders:
        raise DataError(
            explain(
                "a store holds one robot, and here are several embodiments",
                given=[layout.name, *folders],
                mend="convert each folder h5_... into a store of its own",
            )
        )


def _card(layout: Layout, options: RobomindOptions) -> Embodiment:
    card = load_embodiment(options.embodiment or layout.card)
    if set(card.joints.names) != set(layout.channels):
        raise ConfigError(
            explain(
                f"the card '{card.name}' has other joints than {layout.name}",
                given=card.joints.names,
                allowed=layout.channels,
            )
        )
    return card


def _cameras(layout: Layout, options: RobomindOptions) -> dict[str, str]:
    """Slot -> name in the file."""
    known = {name.removeprefix("camera_"): name for name in layout.cameras}
    unknown = [name for name in options.cameras if name.removeprefix("camera_") not in known]
    if unknown:
        raise ConfigError(explain(f"no such cameras in {layout.name}", given=unknown, allowed=list(known)))
    wanted = [name.removeprefix("camera_") for name in options.cameras] or list(known)
    return {slot: known[slot] for slot in wanted}


def _gripper_ends(layout: Layout, options: RobomindOptions, path: Path) -> dict[str, tuple[float, float]]:
    """``state`` and ``action`` -> (closed, open); empty for a layout without grippers."""
    if not layout.grippers:
        return {}
    ends = options.gripper or layout.gripper
    if ends is None:
        with Hdf5File(path) as file:
            part = layout.parts[0]
            values = file.vectors(f"{layout.state_root}/{part.key}", len(part.channels))[:, -1]
        raise DataError(
            explain(
                f"RoboMIND does not say what the gripper values of {layout.name} mean",
                given=f"{path} has {values.min():.4g} to {values.max():.4g}",
                allowed="the value of a closed and of an open gripper",
                mend="state them, for example options.gripper=[0,0.04]"
                + (", and options.command_gripper=[...] for the master" if layout.action_root == "master" else ""),
            )
        )
    return {"state": ends, "action": options.command_gripper or ends}


def _sizes(
    places: Any, layout: Layout, cameras: dict[str, str], depth: bool
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Slot -> (height, width) of colour and of depth, from the first files that have the camera."""
    sizes: dict[str, tuple[int, int]] = {}
    depths: dict[str, tuple[int, int]] = {}
    for place in list(places)[:_LOOKED_AT]:
        with Hdf5File(place.file) as file:
            for slot, name in cameras.items():
                key, behind = f"observations/rgb_images/{name}", f"observations/depth_images/{name}"
                if slot not in sizes and key in file:
                    size = _first_size(file, key)
                    sizes |= {} if size is None else {slot: size}
                if depth and slot not in depths and behind in file and len(file.node(behind)):
                    image = decode_depth(_blob(file, behind, 0))
                    depths |= {slot: (image.shape[0], image.shape[1])} if image is not None else {}
        if len(sizes) == len(cameras) and (not depth or len(depths) == len(cameras)):
            break
    return sizes, depths


def _first_size(file: Hdf5File, key: str) -> tuple[int, int] | None:
    for row in range(min(len(file.node(key)), 8)):
        size = image_size(_blob(file, key, row))
        if size is not None:
            return size
    return None


def _blob(file: Hdf5File, key: str, row: int) -> bytes:
    item = file.read(key, slice(row, row + 1))[0]
    return item if isinstance(item, bytes) else bytes(item.tobytes())


def _info(
    path: Path, plan: Plan, places: dict[str, Place], absent: list[str], language: tuple[Path, ...]
) -> SourceInfo:
    layout, card = plan.layout, plan.card
    findings = [Finding("colour_order", plan.colour_rule(), "note")]
    if layout.grippers:
        closed, opened = plan.grippers["state"]
        said = layout.gripper_source if (closed, opened) == layout.gripper else "stated by options"
        severity = "warning" if said.startswith("not stated") else "note"
        findings.append(Finding("convention", f"gripper: {closed:g} closed, {opened:g} open ({said})", severity))
    for slot in absent:
        findings.append(
            Finding("missing_camera", f"camera '{slot}' is in none of the first files and is left out", "warning")
        )
    findings.append(Finding("convention", plan.action_rule(), "note"))
    if not language:
        findings.append(
            Finding("language", "no instruction CSV or annotation JSON found; instructions are empty", "warning")
        )
    tasks = sorted({place.task for place in places.values()})
    units = tuple("unknown" if n.split(".")[-1].startswith(("gripper", "hand")) else "rad" for n in layout.channels)
    raw = StreamSpec("float32", (len(layout.channels),), layout.channels, units)
    extra = {"source/state": replace(raw, source="measured"), "source/action": replace(raw, source="commanded")}
    return SourceInfo(
        embodiment=card,
        fps=plan.fps,
        episodes=tuple(places),
        task=tasks[0] if len(tasks) == 1 else layout.name,
        cameras=plan.cameras,
        joints=card.state_space != "joint_position",
        extra={**extra, **plan.extra_streams()},
        findings=tuple(findings),
        provenance={
            "origin": "RoboMIND (arXiv 2412.13877), Apache-2.0",
            "layout": layout.name,
            "language": [file.name for file in language],
            "tasks": len(tasks),
        },
    )


FORMAT = Format("robomind", RobomindOptions, _detect, RobomindSource)
