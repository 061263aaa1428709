"""Small LeRobot data sets in every shape that the readers have to understand, written to the documented layout."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

FPS, HEIGHT, WIDTH = 10, 32, 48
NAMES = ("shoulder", "elbow", "wrist", "gripper")


def numbers(index: int, rows: int) -> dict[str, NDArray[np.float32]]:
    """A pure function of its arguments."""
    rng = np.random.default_rng([5, index])
    path = np.cumsum(rng.normal(size=(rows + 1, 4)), axis=0).astype(np.float32) * 0.05
    effort = rng.normal(size=(rows, 2)).astype(np.float32)
    return {"observation.state": path[:-1], "action": path[1:], "observation.effort": effort}


def frame(index: int, row: int) -> NDArray[np.uint8]:
    """A smooth picture whose brightness says episode and row, so that a wrong frame is far from the right one."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    level = 20 + 25 * (row % 8) + 7 * (index % 5)
    return np.stack([level + x // 8, level + y // 8, np.full_like(x, level)], -1).clip(0, 255).astype(np.uint8)


def png(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=95) if kind == "JPEG" else Image.fromarray(image).save(
        buffer, kind
    )
    return buffer.getvalue()


def video(path: Path, frames: list[NDArray[np.uint8]], codec: str = "libx264", fps: float = FPS, gop: int = 5) -> None:
    """Frame n at n / fps; with B-frames, so that the order of packets is not that of times."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "10", "g": str(gop)} if codec == "libx264" else {"g": str(gop)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        for i, image in enumerate(frames):
            shown = av.VideoFrame.from_ndarray(image, format="rgb24")
            shown.pts = i
            shown.time_base = 1 / Fraction(fps).limit_denominator(1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))


def features(kind: str, codec: str = "h264", names: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [4], "names": names or [list(NAMES)]},
        "action": {"dtype": "float32", "shape": [4], "names": {"motors": list(NAMES)} if names is None else names},
        "observation.effort": {"dtype": "float32", "shape": [2], "names": None},
    }
    if kind == "video":
        info = {"video.fps": FPS, "video.codec": codec, "video.pix_fmt": "yuv420p", "has_audio": False}
        found["observation.images.top"] = {
            "dtype": "video",
            "shape": [HEIGHT, WIDTH, 3],
            "names": ["height", "width", "channel"],
            "info": info,
        }
    elif kind:
        axes = ["channels", "height", "width"]
        found["observation.image"] = {"dtype": "image", "shape": [3, HEIGHT, WIDTH], "names": axes}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        dtype = "float32" if name == "timestamp" else "int64"
        found[name] = {"dtype": dtype, "shape": [1], "names": None}
    return found


def table(index: int, rows: int, start: int, image_kind: str = "") -> pa.Table:
    """The rows of one episode as LeRobot stores them."""
    columns: dict[str, Any] = {
        key: pa.FixedSizeListArray.from_arrays(pa.array(v.reshape(-1)), v.shape[1])
        for key, v in numbers(index, rows).items()
    }
    if image_kind:
        blobs = [{"bytes": png(frame(index, t), image_kind), "path": f"frame-{t:06d}.png"} for t in range(rows)]
        columns["observation.image"] = pa.array(blobs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns["timestamp"] = pa.array((np.arange(rows) / FPS).astype(np.float32))
    columns["frame_index"] = pa.array(np.arange(rows))
    columns["episode_index"] = pa.array(np.full(rows, index))
    columns["index"] = pa.array(np.arange(start, start + rows))
    columns["task_index"] = pa.array(np.zeros(rows, np.int64))
    return pa.table(columns)


def write_v21(
    root: Path,
    lengths: list[int],
    *,
    kind: str = "video",
    image_kind: str = "PNG",
    codec: str = "libx264",
    stated_codec: str = "h264",
    video_folder: str = "videos",
    absent: tuple[int, ...] = (),
    no_video: tuple[int, ...] = (),
    video_rows: dict[int, int] | None = None,
    video_fps: float = FPS,
    names: Any = None,
) -> Path:
    """A v2.1 data set; ``absent`` episodes are listed but have no files."""
    (root / "meta").mkdir(parents=True)
    start = 0
    for i, rows in enumerate(lengths):
        if i not in absent:
            path = root / f"data/chunk-000/episode_{i:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(i, rows, start, image_kind if kind == "image" else ""), path)
            if kind == "video" and i not in no_video:
                count = (video_rows or {}).get(i, rows)
                place = root / f"{video_folder}/chunk-000/observation.images.top/episode_{i:06d}.mp4"
                video(place, [frame(i, t) for t in range(count)], codec, video_fps)
        start += rows
    lines = [{"episode_index": i, "tasks": [f"task {i % 2}"], "length": n} for i, n in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": i, "task": f"task {i}"} for i in range(2)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    info = {
        "codebase_version": "v2.1",
        "robot_type": "toy_arm",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features(kind, stated_codec, names),
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def write_v30(root: Path, files: list[list[int]], *, gap_s: float = 0.0, one_group: bool = False) -> Path:
    """A v3.0 data set: ``files`` lists the lengths of the episodes in each file."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    start = 0
    key = "observation.images.top"
    for number, lengths in enumerate(files):
        tables, frames = [], []
        for length in lengths:
            index = len(rows)
            place = {"chunk_index": 0, "file_index": number}
            begin = len(frames) / FPS
            frames += [frame(index, t) for t in range(length)]
            rows.append(
                {
                    "episode_index": index,
                    "tasks": [f"task {index % 2}"],
                    "length": length,
                    "dataset_from_index": start,
                    "dataset_to_index": start + length,
                    **{f"data/{k}": v for k, v in place.items()},
                    **{f"videos/{key}/{k}": v for k, v in place.items()},
                    f"videos/{key}/from_timestamp": begin + gap_s,
                    f"videos/{key}/to_timestamp": begin + gap_s + length / FPS,
                    "stats/action/min": [0.0] * 4,
                }
            )
            tables.append(table(index, length, start))
            start += length
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for part in [pa.concat_tables(tables)] if one_group else tables:
                writer.write_table(part)
        video(root / f"videos/{key}/chunk-000/file-{number:03d}.mp4", frames)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["task 0", "task 1"]}), root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "robot_type": "toy_arm",
        "total_episodes": len(rows),
        "total_frames": start,
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features("video"),
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root
