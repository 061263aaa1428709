"""The files of a ManiSkill recording, and which of its arrays goes where."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.data.convert.hdf5_episode import Hdf5File, hdf5_files, leaves, natural_order
from robopolicy.errors import DataError, explain

__all__ = ["Arrays", "read_description", "sort_arrays", "trajectory_file"]

_DEPTH_MM = ("int16", "uint16")


@dataclass
class Arrays:
    """The arrays of a trajectory, by key below it.

    Attributes:
        colour: Key -> camera slot.
        depth: Key -> stream.
        numbers: Keys of low-dimensional arrays.
        others: Keys of what has no place in the store.
    """

    colour: dict[str, str] = field(default_factory=dict)
    depth: dict[str, str] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def sort_arrays(file: Hdf5File, trajectory: str, env_states: bool) -> Arrays:
    """Look at every observation of a trajectory, and at the simulator's states if wanted.

    Raises:
        DataError: there are no observations.
    """
    if f"{trajectory}/obs" not in file:
        raise DataError(
            explain(
                f"{file.path}: {trajectory} has no observations",
                given=natural_order(file.node(trajectory).keys()),
                mend="replay it with an observation mode: mani_skill.trajectory.replay_trajectory -o rgbd",
            )
        )
    found = Arrays()
    node = file.node(f"{trajectory}/obs")
    keys = [f"obs/{key}" for key in leaves(node)] if hasattr(node, "keys") else ["obs"]
    if env_states and f"{trajectory}/env_states" in file:
        keys += [f"env_states/{key}" for key in leaves(file.node(f"{trajectory}/env_states"))]
    for key in keys:
        array = file.node(f"{trajectory}/{key}")
        place, _, kind = key.rpartition("/")
        camera = place.removeprefix("obs/sensor_data/").removeprefix("obs/image/").replace("/", "_")
        picture = len(array.shape) == 4
        if "sensor_param" in key:
            continue
        if picture and array.shape[3] == 3 and kind in ("rgb", "Color"):
            found.colour[key] = camera
        elif picture and array.shape[3] == 1 and kind == "depth" and array.dtype in _DEPTH_MM:
            found.depth[key] = f"depth/{camera}"
        elif len(array.shape) <= 2 and array.dtype.kind in "fiub":
            found.numbers.append(key)
        else:
            found.others.append(key)
    return found


def trajectory_file(path: Path) -> Path:
    """The one HDF5 file there.

    Raises:
        DataError: none, or several.
    """
    files = hdf5_files(path)
    if len(files) != 1:
        raise DataError(
            explain(
                f"{path} is not one trajectory file", given=[f.name for f in files], mend="name the .h5 file itself"
            )
        )
    return files[0]


def read_description(path: Path) -> dict[str, Any]:
    """The JSON beside the file.

    Raises:
        DataError: missing, damaged, or without a list of episodes.
    """
    twin = path.with_suffix(".json")
    try:
        about = json.loads(twin.read_text(encoding="utf-8"))
        for entry in about["episodes"]:
            entry["episode_id"]
    except FileNotFoundError:
        raise DataError(
            explain(f"{twin} is missing", mend="control modes are only there: fetch it beside the .h5 file")
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(explain(f"{twin} is damaged: {error!r}", allowed="'episodes' with 'episode_id'")) from error
    assert isinstance(about, dict)
    return about
