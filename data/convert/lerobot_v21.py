"""LeRobot v2.0 and v2.1: one parquet table and one video per camera and episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.lerobot import LeRobotOptions, LeRobotSource
from robopolicy.data.convert.lerobot_files import PathTemplate, read_info, read_lines, require_parquet, version_of
from robopolicy.data.convert.source import Finding, Format
from robopolicy.errors import DataError, explain

__all__ = ["FORMAT"]

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


class _Layout:
    """Where version 2 keeps things."""

    def __init__(self, root: Path):
        self.root, self.info = root, read_info(root)
        self.findings: list[Finding] = []
        self._chunk = int(self.info.get("chunks_size", 1000))
        lines = read_lines(root / "meta" / "episodes.jsonl", "episode_index")
        self._episodes: Mapping[int, Mapping[str, Any]] = dict(sorted(lines.items()))
        tasks = root / "meta" / "tasks.jsonl"
        self._tasks = {k: str(v.get("task", "")) for k, v in read_lines(tasks, "task_index").items()}
        examples = [self._fields(e) for e in self._episodes]
        self._data = PathTemplate(root, str(self.info.get("data_path") or DATA_PATH), ()).settled(examples)
        self.findings += self._data.findings
        self._video = PathTemplate(root, str(self.info.get("video_path") or VIDEO_PATH), ())
        frames = sum(int(e.get("length", 0)) for e in self._episodes.values())
        for name, counted in (("total_episodes", len(self._episodes)), ("total_frames", frames)):
            stated = self.info.get(name)
            if stated is not None and int(stated) != counted:
                text = f"{name}: info.json says {stated}, episodes.jsonl adds up to {counted}"
                self.findings.append(Finding("metadata", text))

    def _fields(self, episode: int) -> dict[str, Any]:
        return {"episode_chunk": episode // self._chunk, "episode_index": episode}

    def episodes(self) -> Sequence[int]:
        return list(self._episodes)

    def lacking(self, episode: int, videos: Sequence[str]) -> str:
        absent = [] if self._data.path(**self._fields(episode)).is_file() else ["table"]
        for key in videos:
            if not self._video.tried:
                self._video = self._video.settled([{**self._fields(e), "video_key": key} for e in self._episodes])
                self.findings += self._video.findings
            if not self._video.path(**self._fields(episode), video_key=key).is_file():
                absent.append(f"video {key}")
        return "no " + " and no ".join(absent) if absent else ""

    def rows(self, episode: int) -> int | None:
        length = self._episodes[episode].get("length")
        return None if length is None else int(length)

    def tasks(self, episode: int, task_index: NDArray[np.int64] | None) -> list[str]:
        named = [str(t) for t in self._episodes[episode].get("tasks") or ()]
        if named or task_index is None:
            return named
        return [self._tasks[int(i)] for i in dict.fromkeys(task_index.tolist()) if int(i) in self._tasks]

    def table(self, episode: int, columns: Sequence[str]) -> Any:
        parquet, damaged = require_parquet()
        path = self._data.path(**self._fields(episode))
        try:
            with parquet.ParquetFile(path) as file:
                kept = [c for c in dict.fromkeys(columns) if c in file.schema_arrow.names]
                return file.read(columns=kept)
        except damaged as error:
            raise DataError(explain(f"{path} cannot be read: {error}", mend="copy the file again")) from error

    def video(self, episode: int, key: str) -> tuple[Path, float]:
        return self._video.path(**self._fields(episode), video_key=key), 0.0

    def close(self) -> None:
        return


def _detect(path: Path) -> str | None:
    version = version_of(path)
    return f"meta/info.json says {version}" if version.startswith("v2.") else None


def _open(path: Path, options: LeRobotOptions) -> LeRobotSource:
    version = version_of(path)
    if not version.startswith("v2."):
        mend = "format=lerobot_v30" if version.startswith("v3.") else "bring it to v2.1 with lerobot's own script"
        raise DataError(explain(f"{path} is not a LeRobot v2 data set", given=version or "nothing", mend=mend))
    return LeRobotSource(_Layout(path), options, version)


FORMAT = Format("lerobot_v21", LeRobotOptions, _detect, _open)
"""Registered as ``lerobot_v21``."""
