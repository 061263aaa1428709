"""HDF5 files of demonstrations ``/data/demo_0`` ...: robomimic's layout, shared by LIBERO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robopolicy.data.convert.hdf5_damage import hdf5_errors
from robopolicy.data.convert.hdf5_episode import Hdf5File, hdf5_files, is_hdf5, leaves, natural_order
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, MissingDependencyError, explain, suggest

__all__ = ["OWN_STATE", "DemoFiles", "data_attributes", "is_image", "is_vector", "observation_keys", "own_card"]

OWN_STATE = "state"
"""Observation that our own export writes."""


def data_attributes(path: Path) -> tuple[Path, frozenset[str], frozenset[str]] | None:
    """First HDF5 file there, names of the attributes of its ``/data`` and of what ``/data`` holds; None if not so."""
    for file in hdf5_files(path)[:1]:
        if not is_hdf5(file):
            continue
        try:
            with hdf5_errors(file), Hdf5File(file) as opened:
                if "data" in opened and hasattr(opened.root["data"], "keys"):
                    group = opened.root["data"]
                    return file, frozenset(group.attrs), frozenset(group.keys())
        except (DataError, MissingDependencyError):
            return None
    return None


class DemoFiles:
    """One such file, or a folder of them. Ids are ``demo_3``, in a folder ``<file>:demo_3``."""

    def __init__(self, path: Path, filter_key: str = ""):
        """List the demonstrations, in the order of their numbers.

        Args:
            path: File or folder.
            filter_key: Name below ``/mask``; only its demonstrations are taken.

        Raises:
            DataError: no such file, no demonstrations, no such mask, or a mask that names none.
        """
        files = hdf5_files(path)
        if not files:
            raise DataError(explain(f"no HDF5 file at {path}", allowed=(".hdf5", ".h5"), mend="check the path"))
        self.path = path
        self._where: dict[str, tuple[Path, str]] = {}
        for file in files:
            with Hdf5File(file) as opened:
                for demo in self._demos(opened, filter_key):
                    self._where[demo if len(files) == 1 else f"{file.stem}:{demo}"] = (file, demo)
        if not self._where:
            raise DataError(explain(f"{path} holds no demonstrations", allowed="/data/demo_0 ..."))
        self._open: Hdf5File | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """All demonstrations."""
        return tuple(self._where)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold them."""
        return tuple(dict.fromkeys(file for file, _ in self._where.values()))

    def locate(self, episode: str) -> tuple[Hdf5File, str]:
        """The open file of a demonstration and its group; the file before is closed.

        Raises:
            DataError: no such demonstration.
        """
        if episode not in self._where:
            mend = suggest(episode, self._where)
            raise DataError(explain(f"{self.path} has no such episode", given=episode, mend=mend))
        file, demo = self._where[episode]
        return self.file(file), f"data/{demo}"

    def file(self, path: Path) -> Hdf5File:
        """The file, open until another one is asked for."""
        if self._open is None or self._open.path != path:
            self.close()
            self._open = Hdf5File(path)
        return self._open

    def close(self) -> None:
        """Close the open file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @staticmethod
    def _demos(file: Hdf5File, filter_key: str) -> list[str]:
        held = natural_order(name for name in file.node("data").keys() if name.startswith("demo"))  # noqa: SIM118
        if not filter_key:
            return held
        wanted = [name.decode() if isinstance(name, bytes) else str(name) for name in file.read(f"mask/{filter_key}")]
        absent = sorted(set(wanted) - set(held))
        if absent:
            raise DataError(explain(f"{file.path}: mask '{filter_key}' names what is not there", given=absent))
        return natural_order(wanted)


def observation_keys(file: Hdf5File, demo: str, fits: Callable[[Any], bool]) -> list[str]:
    """Keys below ``obs`` whose array fits.

    Raises:
        DataError: there are no observations.
    """
    if f"{demo}/obs" not in file:
        held = natural_order(file.node(demo).keys())
        raise DataError(
            explain(
                f"{file.path}: {demo} has no observations",
                given=held,
                allowed="a group 'obs'",
                mend="render them first (robomimic/scripts/dataset_states_to_obs.py)",
            )
        )
    return [key for key in leaves(file.node(f"{demo}/obs")) if fits(file.node(f"{demo}/obs/{key}"))]


def own_card(kwargs: Mapping[str, Any], file: Hdf5File, demo: str) -> Embodiment | None:
    """The card of a file that was exported from a store with its actions as they were."""
    entry, key = kwargs.get("embodiment"), f"{demo}/obs/{OWN_STATE}"
    if not isinstance(entry, Mapping) or kwargs.get("normalised") or key not in file:
        return None
    card = Embodiment.from_dict(entry)
    widths = (file.node(key).shape[-1], file.node(f"{demo}/actions").shape[-1])
    return card if widths == (len(card.state), len(card.action)) else None


def is_image(node: Any) -> bool:
    """Whether an array may be colour frames [T, H, W, 3]."""
    return len(node.shape) == 4 and node.shape[3] == 3


def is_vector(node: Any) -> bool:
    """Whether an array is numbers [T] or [T, n]."""
    return len(node.shape) in (1, 2) and node.dtype.kind in "fiub"
