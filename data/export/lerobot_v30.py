"""LeRobot v3.0: tables of all episodes in one parquet file after another, and one video after another per camera.

Layout and column names as LeRobot 0.4.4 writes and reads them (Apache-2.0, github huggingface/lerobot). A frame is
found by its time: the n-th row of an episode is at ``from_timestamp + n / fps`` of its video: rows are nominal there.
What the format has no place for (card, provenance, labels) stands in ``meta/robopolicy.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import storage_errors
from robopolicy.data.episode import StreamSpec, channel_names
from robopolicy.data.export.lerobot_stats import ColumnStats, ImageStats
from robopolicy.data.export.lerobot_tables import TableFiles, write_episodes, write_tasks
from robopolicy.data.export.lerobot_video import VideoFiles
from robopolicy.data.snapshot import strict_json
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, explain

__all__ = ["write"]

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK_FILES = 1000
_OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_ROWS = 64
"""Frames that are in memory at a time."""


def write(
    store: EpisodeStore,
    path: Path,
    *,
    frames: Literal["video", "image"] = "video",
    codec: Literal["av1", "h264", "hevc"] = "av1",
    crf: int = 30,
    key_frame_every: int = 2,
    pixel_format: str = "yuv420p",
    data_file_mb: float = 100.0,
    video_file_mb: float = 200.0,
    robot_type: str = "",
) -> list[Finding]:
    """Write ``store`` as a LeRobot v3.0 data set.

    Args:
        store: Opened for reading.
        path: Folder to make.
        frames: ``video``, or ``image`` for files in the tables (exact where the store is raw).
        codec: Of the videos.
        crf: Quality of the videos, lower is better.
        key_frame_every: Frames between two key frames; 2 keeps random access cheap.
        pixel_format: ``yuv420p`` halves the colour resolution, ``yuv444p`` does not (h264 only).
        data_file_mb, video_file_mb: Size after which a new file is begun.
        robot_type: As it stands in info.json; the card's name when empty.

    Returns:
        What could not be kept.

    Raises:
        DataError: two streams would get one name, or frames that the codec cannot hold.
        MissingDependencyError: without pyarrow, or without av for videos.
    """
    findings: list[Finding] = []
    features, keys = _features(store, frames, findings)
    tables = TableFiles(path, DATA_PATH, data_file_mb, CHUNK_FILES)
    videos: dict[str, VideoFiles] = {}
    if frames == "video":
        for camera in store.cameras:
            key = keys[f"image/{camera}"]
            template = VIDEO_PATH.replace("{video_key}", key)
            videos[camera] = VideoFiles(
                path, template, store.fps, codec, crf, key_frame_every, pixel_format, video_file_mb, CHUNK_FILES
            )
    with storage_errors(path):
        path.mkdir(parents=True)
        try:
            episodes, tasks, statistics = _write_episodes(store, keys, tables, videos, findings)
        finally:
            tables.close()
            for video in videos.values():
                video.close()
        for camera, video in videos.items():
            features[keys[f"image/{camera}"]]["info"] = video.described()
        write_tasks(path / "meta" / "tasks.parquet", tasks)
        write_episodes(path / "meta" / "episodes" / "chunk-000" / "file-000.parquet", episodes)
        info = _info(store, features, len(tasks), frames == "video", robot_type, data_file_mb, video_file_mb)
        _json(path / "meta" / "stats.json", statistics)
        _json(path / "meta" / "robopolicy.json", _about(store, keys))
        _json(path / "meta" / "info.json", info)
    return findings


def _features(
    store: EpisodeStore, frames: str, findings: list[Finding]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(features of info.json, stream -> feature)."""
    features: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    for name, spec in store.streams.items():
        if name == "time_ns":
            continue
        if spec.image and spec.dtype != "uint8":
            findings.append(Finding("left_out", f"{name} is depth, which LeRobot v3.0 has no form for", stream=name))
            continue
        key = _key(name)
        if key in features or key in _OWN:
            raise DataError(
                explain("two streams would have one name in LeRobot", given=(name, key), mend="rename one in the store")
            )
        keys[name] = key
        features[key] = _feature(store, name, spec, frames)
    for name in _OWN:
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return features, keys


def _key(stream: str) -> str:
    """Stream -> feature; those that came from a LeRobot data set get their name back."""
    if stream == "action":
        return stream
    if stream.startswith("source/"):
        return stream.removeprefix("source/").replace("/", ".")
    if stream.startswith("image/"):
        return "observation.images." + stream.removeprefix("image/").replace("/", ".")
    return "observation." + stream.replace("/", ".")


def _feature(store: EpisodeStore, name: str, spec: StreamSpec, frames: str) -> dict[str, Any]:
    if spec.image:
        return {"dtype": frames, "shape": list(spec.shape), "names": ["height", "width", "channels"]}
    names = channel_names(name, store.embodiment, store.environment_state_names, spec)
    return {"dtype": spec.dtype, "shape": list(spec.shape) or [1], "names": list(names) or None}


@dataclass
class _Statistics:
    """Of one episode and of all, per feature."""

    columns: dict[str, ColumnStats]
    images: dict[str, ImageStats]

    @classmethod
    def empty(cls) -> _Statistics:
        return cls({}, {})


def _write_episodes(
    store: EpisodeStore,
    keys: dict[str, str],
    tables: TableFiles,
    videos: dict[str, VideoFiles],
    findings: list[Finding],
) -> tuple[list[dict[str, Any]], list[str], dict[str, Any]]:
    """All episodes in order -> (rows of the table of episodes, tasks, statistics over all)."""
    tasks: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    total = _Statistics.empty()
    worst_s = 0.0
    for index in range(store.num_episodes):
        info = store.info(index)
        start, stop, length = info["start"], info["stop"], info["length"]
        task = info["language"] or store.task
        number = tasks.setdefault(task, len(tasks))
        columns: dict[str, NDArray[Any] | list[bytes]] = {
            key: store.read(name, start, stop) for name, key in keys.items() if not name.startswith("image/")
        }
        columns["timestamp"] = (np.arange(length) / store.fps).astype(np.float32)
        columns["frame_index"] = np.arange(length, dtype=np.int64)
        columns["episode_index"] = np.full(length, index, np.int64)
        columns["index"] = np.arange(start, stop, dtype=np.int64)
        columns["task_index"] = np.full(length, number, np.int64)
        stats = _Statistics({k: ColumnStats.of(np.asarray(v)) for k, v in columns.items()}, {})
        place: dict[str, Any] = {}
        for camera in store.cameras:
            key = keys[f"image/{camera}"]
            image_stats = ImageStats(length)
            read = image_stats.watched(_frames(store, camera, start, stop))
            if camera in videos:
                place |= {f"videos/{key}/{k}": v for k, v in videos[camera].add(read).items()}
            else:
                columns[key] = list(_files(store, camera, start, stop, read))
            stats.images[key] = image_stats
        place |= {f"data/{k}": v for k, v in tables.add(columns).items()}
        rows.append(_row(index, info, task, place, stats))
        _gather(total, stats)
        time_ns = store.read("time_ns", start, stop)
        worst_s = max(worst_s, float(np.abs((time_ns - time_ns[0]) * 1e-9 - np.arange(length) / store.fps).max()))
    if worst_s > 1e-3:
        text = f"measured times are up to {worst_s:.3g} s from nominal ones; LeRobot gets the nominal ones"
        findings.append(Finding("timestamps", text, stream="time_ns"))
    statistics = {key: s.to_dict() for key, s in total.columns.items()} | {
        k: s.to_dict() for k, s in total.images.items()
    }
    return rows, list(tasks), statistics


def _row(index: int, info: dict[str, Any], task: str, place: dict[str, Any], stats: _Statistics) -> dict[str, Any]:
    row = {
        "episode_index": index,
        "tasks": [task],
        "length": info["length"],
        "dataset_from_index": info["start"],
        "dataset_to_index": info["stop"],
        **place,
        "success": bool(info["success"]),
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }
    found = {k: s.to_dict() for k, s in stats.columns.items()} | {k: s.to_dict() for k, s in stats.images.items()}
    for key, entries in found.items():
        row |= {f"stats/{key}/{name}": value for name, value in entries.items()}
    return row


def _gather(total: _Statistics, one: _Statistics) -> None:
    for key, columns in one.columns.items():
        total.columns[key] = total.columns[key].merged(columns) if key in total.columns else columns
    for key, images in one.images.items():
        total.images[key] = total.images[key].merged(images) if key in total.images else images


def _frames(store: EpisodeStore, camera: str, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    """Decoded frames of one episode, a few at a time."""
    for first in range(start, stop, _ROWS):
        yield from store.read(f"image/{camera}", first, min(first + _ROWS, stop))


def _files(
    store: EpisodeStore, camera: str, start: int, stop: int, frames: Iterator[NDArray[np.uint8]]
) -> Iterator[bytes]:
    """Image files of one episode: the store's own JPEG files, or PNG, which loses nothing."""
    import io

    from PIL import Image

    jpeg = store.attributes["cameras"][camera]["codec"] == "jpeg"
    blobs = getattr(store.images(camera), "blobs", None) if jpeg else None
    for row, frame in zip(range(start, stop), frames, strict=True):
        if blobs is not None:
            yield blobs(row, row + 1)[0]
        else:
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
            yield buffer.getvalue()


def _info(
    store: EpisodeStore,
    features: dict[str, Any],
    tasks: int,
    video: bool,
    robot_type: str,
    data_file_mb: float,
    video_file_mb: float,
) -> dict[str, Any]:
    fps = store.fps
    return {
        "codebase_version": "v3.0",
        "robot_type": robot_type or store.embodiment.name,
        "total_episodes": store.num_episodes,
        "total_frames": store.num_steps,
        "total_tasks": tasks,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": data_file_mb,
        "video_files_size_in_mb": video_file_mb,
        "fps": int(fps) if fps == int(fps) else fps,
        "splits": {"train": f"0:{store.num_episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if video and store.cameras else None,
        "features": features,
    }


def _about(store: EpisodeStore, keys: dict[str, str]) -> dict[str, Any]:
    """What LeRobot has no place for."""
    return {
        "schema": "robopolicy.lerobot/1",
        "content_hash": store.content_hash,
        "embodiment": strict_json(store.embodiment.to_dict()),
        "provenance": store.attributes.get("provenance", {}),
        "streams": {key: {"stream": name, **store.streams[name].to_dict()} for name, key in keys.items()},
        "episodes": [store.info(i)["metadata"] for i in range(store.num_episodes)],
    }


def _json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=4, allow_nan=False), encoding="utf-8")
