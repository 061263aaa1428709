"""The files of an RLDS data set: which splits and shards it says it has, which are there, where their records begin."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.hdf5_episode import natural_order
from robopolicy.data.convert.tfrecord import index_records, read_record
from robopolicy.errors import DataError, explain

__all__ = ["RldsFiles", "Shard", "find_data_set"]

FEATURES, INFO = "features.json", "dataset_info.json"
_SHARD = re.compile(r"(?P<data_set>.+)-(?P<split>[^-]+)\.tfrecord-(?P<index>\d{5})-of-(?P<count>\d{5})")
_KEPT_INDICES = 4


@dataclass(frozen=True)
class Shard:
    """One TFRecord file.

    Attributes:
        split: Its split.
        index: Its number within the split.
        path: The file.
        records: How many episodes the source says it holds, None when it does not say.
        present: Whether the file is there.
    """

    split: str
    index: int
    path: Path
    records: int | None
    present: bool


def find_data_set(path: Path) -> Path | None:
    """The folder with ``features.json``: the path itself, or its newest version folder; None when there is none."""
    folder = path.parent if path.is_file() and ".tfrecord" in path.name else path
    if not folder.is_dir():
        return None
    if (folder / FEATURES).is_file():
        return folder
    inside = {p.name: p for p in folder.iterdir() if (p / FEATURES).is_file()}
    versions = natural_order(n for n in inside if re.fullmatch(r"\d+\.\d+\.\d+", n))
    return inside[versions[-1]] if versions else None


class RldsFiles:
    """The shards of one data set, and the records of those that are present."""

    def __init__(self, folder: Path, splits: tuple[str, ...] = ()):
        """Read ``dataset_info.json``; without it the files are counted.

        Args:
            folder: With ``features.json``.
            splits: Those wanted; all when empty.

        Raises:
            DataError: a damaged description, an unknown split, or no file at all.
        """
        self.folder = folder
        self.name, self.version = folder.parent.name, folder.name
        described = self._described()
        self.shards = described if described is not None else self._found()
        known = list(dict.fromkeys(shard.split for shard in self.shards))
        unknown = [split for split in splits if split not in known]
        if unknown:
            raise DataError(explain(f"{folder} has no split {unknown}", allowed=known, mend="leave out splits"))
        if splits:
            self.shards = [shard for shard in self.shards if shard.split in splits]
        if not any(shard.present for shard in self.shards):
            wanted = [shard.path.name for shard in self.shards[:5]]
            raise DataError(
                explain(f"{folder} holds none of its files", allowed=wanted or "*.tfrecord-*", mend="fetch")
            )
        self._indices: OrderedDict[Path, NDArray[np.int64]] = OrderedDict()

    def count(self, shard: Shard) -> int:
        """Episodes of a present shard, as the source says, or counted."""
        return shard.records if shard.records is not None else len(self.index(shard))

    def index(self, shard: Shard) -> NDArray[np.int64]:
        """int64 [n, 2] offset and length of its records; the indices of a few shards are kept.

        Raises:
            DataError: as :func:`robopolicy.data.convert.tfrecord.index_records`.
        """
        if shard.path not in self._indices:
            self._indices[shard.path] = index_records(shard.path)
            while len(self._indices) > _KEPT_INDICES:
                self._indices.popitem(last=False)
        return self._indices[shard.path]

    def record(self, shard: Shard, number: int) -> bytes:
        """The data of one record.

        Raises:
            DataError: cut, altered, or not there.
        """
        index = self.index(shard)
        if number >= len(index):
            raise DataError(
                explain(
                    f"{shard.path}: record {number} is missing",
                    given=f"{len(index)} records",
                    allowed=f"{shard.records} by {INFO}",
                    mend="fetch the file again",
                )
            )
        offset, length = (int(n) for n in index[number])
        return read_record(shard.path, offset, length, number)

    def _described(self) -> list[Shard] | None:
        path = self.folder / INFO
        if not path.is_file():
            return None
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            self.name, self.version = described["name"], described.get("version", self.version)
            shards: list[Shard] = []
            for split in described["splits"]:
                lengths = [int(n) for n in split.get("shardLengths", ())]
                for index, records in enumerate(lengths):
                    file = self.folder / self._file_name(split, index, len(lengths), described)
                    shards.append(Shard(split["name"], index, file, records, file.is_file()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                explain(
                    f"{path} is damaged: {error!r}", mend="fetch it again, or remove it: the files are then counted"
                )
            ) from error
        return shards

    @staticmethod
    def _file_name(split: dict[str, Any], index: int, count: int, described: dict[str, Any]) -> str:
        template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        parts = {
            "DATASET": described["name"],
            "SPLIT": split["name"],
            "FILEFORMAT": described.get("fileFormat", "tfrecord"),
            "SHARD_INDEX": f"{index:05d}",
            "NUM_SHARDS": f"{count:05d}",
            "SHARD_X_OF_Y": f"{index:05d}-of-{count:05d}",
        }
        for name, value in parts.items():
            template = template.replace("{" + name + "}", value)
        return Path(template).name

    def _found(self) -> list[Shard]:
        """By the names of the files; a number that is missing between others is a missing shard."""
        groups: dict[str, dict[int, Path]] = {}
        counts: dict[str, int] = {}
        for path in self.folder.iterdir():
            match = _SHARD.fullmatch(path.name)
            if match:
                groups.setdefault(match["split"], {})[int(match["index"])] = path
                counts[match["split"]] = int(match["count"])
                self.name = match["data_set"]
        shards: list[Shard] = []
        for split in sorted(groups):
            some = next(iter(groups[split].values()))
            for index in range(counts[split]):
                name = re.sub(r"\d{5}(-of-\d{5})$", rf"{index:05d}\1", some.name)
                path = self.folder / name
                shards.append(Shard(split, index, path, None, path.is_file()))
        return shards
