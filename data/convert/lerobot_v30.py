"""LeRobot v3.0: many episodes in one parquet table and one video file; a table says where each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.lerobot import LeRobotOptions, LeRobotSource
from robopolicy.data.convert.lerobot_files import PathTemplate, read_info, require_parquet, version_of
from robopolicy.data.convert.source import Finding, Format
from robopolicy.errors import DataError, explain

__all__ = ["FORMAT"]

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_AGAIN = "copy the file again"


class _Layout:
    """Where version 3 keeps things."""

    def __init__(self, root: Path):
        self.root, self.info = root, read_info(root)
        self.findings: list[Finding] = []
        self._episodes = self._read_episodes()
        self._tasks = self._read_tasks()
        self._open: tuple[Path, Any] | None = None
        self._data = PathTemplate(root, str(self.info.get("data_path") or DATA_PATH), ())
        self._video = PathTemplate(root, str(self.info.get("video_path") or VIDEO_PATH), ())
        self._settled = False
        frames = sum(int(e.get("length") or 0) for e in self._episodes.values())
        for name, counted in (("total_episodes", len(self._episodes)), ("total_frames", frames)):
            stated = self.info.get(name)
            if stated is not None and int(stated) != counted:
                text = f"{name}: info.json says {stated}, meta/episodes adds up to {counted}"
                self.findings.append(Finding("metadata", text))

    def _read_episodes(self) -> Mapping[int, dict[str, Any]]:
        """Index -> row of the episodes table, statistics left out."""
        parquet, damaged = require_parquet()
        paths = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        if not paths:
            raise DataError(explain(f"{self.root} has no meta/episodes/*/*.parquet", mend="copy the data set again"))
        found = {}
        for path in paths:
            try:
                with parquet.ParquetFile(path) as file:
                    columns = [c for c in file.schema_arrow.names if not c.startswith("stats/")]
                    rows = file.read(columns=columns).to_pylist()
            except damaged as error:
                raise DataError(explain(f"{path} cannot be read: {error}", mend=_AGAIN)) from error
            needed = ("episode_index", "data/chunk_index", "data/file_index")
            lacking = [c for c in needed if c not in columns]
            if lacking:
                raise DataError(explain(f"{path} lacks {lacking}", given=columns))
            found.update({int(row["episode_index"]): row for row in rows})
        return dict(sorted(found.items()))

    def _read_tasks(self) -> dict[int, str]:
        """The text is the index of the table, whatever its column is called."""
        parquet, damaged = require_parquet()
        path = self.root / "meta" / "tasks.parquet"
        if not path.is_file():
            self.findings.append(Finding("metadata", "there is no meta/tasks.parquet"))
            return {}
        try:
            table = parquet.read_table(path)
        except damaged as error:
            raise DataError(explain(f"{path} cannot be read: {error}", mend=_AGAIN)) from error
        texts = [
            c for c in table.column_names if c != "task_index" and str(table.schema.field(c).type).endswith("string")
        ]
        if "task_index" not in table.column_names or not texts:
            self.findings.append(Finding("metadata", f"meta/tasks.parquet has {table.column_names}, no tasks"))
            return {}
        return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))

    def episodes(self) -> Sequence[int]:
        return list(self._episodes)

    def lacking(self, episode: int, videos: Sequence[str]) -> str:
        if not self._settled:
            self._settled = True
            self._data = self._data.settled([self._fields(e, "data") for e in self._episodes])
            named = [{**self._fields(e, f"videos/{k}"), "video_key": k} for e in self._episodes for k in videos]
            self._video = self._video.settled([fields for fields in named if fields["file_index"] is not None])
            self.findings += [*self._data.findings, *self._video.findings]
        absent = [] if self._data.path(**self._fields(episode, "data")).is_file() else ["table"]
        for key in videos:
            fields = self._fields(episode, f"videos/{key}")
            if fields["file_index"] is None or not self._video.path(**fields, video_key=key).is_file():
                absent.append(f"video {key}")
        return "no " + " and no ".join(absent) if absent else ""

    def _fields(self, episode: int, kind: str) -> dict[str, Any]:
        row = self._episodes[episode]
        return {"chunk_index": row.get(f"{kind}/chunk_index"), "file_index": row.get(f"{kind}/file_index")}

    def rows(self, episode: int) -> int | None:
        length = self._episodes[episode].get("length")
        return None if length is None else int(length)

    def tasks(self, episode: int, task_index: NDArray[np.int64] | None) -> list[str]:
        named = [str(t) for t in self._episodes[episode].get("tasks") or ()]
        if named or task_index is None:
            return named
        return [self._tasks[int(i)] for i in dict.fromkeys(task_index.tolist()) if int(i) in self._tasks]

    def table(self, episode: int, columns: Sequence[str]) -> Any:
        """Only the row groups that hold rows of the episode are read."""
        path = self._data.path(**self._fields(episode, "data"))
        _, damaged = require_parquet()
        try:
            file = self._file(path)
            names = file.schema_arrow.names
            if "episode_index" not in names:
                raise DataError(explain(f"{path} has no column episode_index", given=names))
            kept = [c for c in dict.fromkeys([*columns, "episode_index"]) if c in names]
            groups = _groups(file, episode)
            table = file.read_row_groups(groups, columns=kept)
        except damaged as error:
            raise DataError(explain(f"{path} cannot be read: {error}", mend=_AGAIN)) from error
        found = table.filter(np.asarray(table["episode_index"]) == episode)
        if not found.num_rows:
            raise DataError(explain(f"{path} has no rows of episode {episode}", mend="the table of episodes is wrong"))
        return found

    def _file(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = (path, require_parquet()[0].ParquetFile(path))
        return self._open[1]

    def video(self, episode: int, key: str) -> tuple[Path, float]:
        path = self._video.path(**self._fields(episode, f"videos/{key}"), video_key=key)
        return path, float(self._episodes[episode].get(f"videos/{key}/from_timestamp") or 0.0)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _groups(file: Any, episode: int) -> list[int]:
    """Row groups that may hold the episode, by their statistics."""
    found = []
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for i in range(group.num_columns):
            chunk = group.column(i)
            if chunk.path_in_schema == "episode_index":
                limits = chunk.statistics
                if limits is None or not limits.has_min_max or limits.min <= episode <= limits.max:
                    found.append(number)
                break
    return found


def _detect(path: Path) -> str | None:
    version = version_of(path)
    return f"meta/info.json says {version}" if version.startswith("v3.") else None


def _open(path: Path, options: LeRobotOptions) -> LeRobotSource:
    version = version_of(path)
    if not version.startswith("v3."):
        mend = "format=lerobot_v21" if version.startswith("v2.") else "name a folder with meta/info.json in it"
        raise DataError(explain(f"{path} is not a LeRobot v3 data set", given=version or "nothing", mend=mend))
    return LeRobotSource(_Layout(path), options, version)


FORMAT = Format("lerobot_v30", LeRobotOptions, _detect, _open)
"""Registered as ``lerobot_v30``."""
