"""Writes small MCAP recordings with asynchronous topics whose true values are functions of time."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import yaml
from mcap.writer import Writer
from mcap_ros2.writer import Writer as Ros2Writer
from PIL import Image
from scipy.spatial.transform import Rotation

START_NS = 1_700_000_000_000_000_000

HEADER = """\
std_msgs/Header header
"""
COMMON = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
SCHEMAS = {
    "geometry_msgs/msg/PoseStamped": HEADER
    + "geometry_msgs/Pose pose"
    + COMMON
    + """================================================================================
MSG: geometry_msgs/Pose
geometry_msgs/Point position
geometry_msgs/Quaternion orientation
================================================================================
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
================================================================================
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w
""",
    "sensor_msgs/msg/JointState": HEADER
    + "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort"
    + COMMON,
    "sensor_msgs/msg/CompressedImage": HEADER + "string format\nuint8[] data" + COMMON,
    "sensor_msgs/msg/Image": HEADER
    + "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
    + COMMON,
    "std_msgs/msg/String": "string data",
}
Sample = tuple[int, str, Any, int]
"""(log time, topic, message, publish time)."""


def header(stamp_ns: int) -> Message:
    return Message(stamp=Message(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id="")


def times(rate_hz: float, seconds: float, rng: np.random.Generator, jitter_s: float = 0.0, drop: float = 0.0):
    """int64 stamps from a random phase on, jittered, some missing; strictly increasing."""
    t = np.arange(rng.uniform(0, 1 / rate_hz), seconds, 1 / rate_hz)
    t = t + rng.uniform(-jitter_s, jitter_s, len(t))
    keep = rng.random(len(t)) >= drop
    keep[:2] = keep[-2:] = True
    return START_NS + np.unique(np.round(np.maximum(t[keep], 0) * 1e9).astype(np.int64))


def position(t_s: float) -> np.ndarray:
    """[3] where the tool truly is."""
    return np.array([np.sin(t_s), np.cos(0.7 * t_s), 0.3 * t_s])


def rotation(t_s: float) -> Rotation:
    """How the tool truly is turned: at constant rate about one axis, where slerp is exact."""
    return Rotation.from_rotvec(np.array([0.2, -0.3, 0.9]) * t_s)


def pose_message(stamp_ns: int) -> Message:
    t = (stamp_ns - START_NS) / 1e9
    p, q = position(t), rotation(t).as_quat()
    if stamp_ns % 2:
        q = -q  # the same rotation
    place = Message(**dict(zip("xyz", map(float, p), strict=True)))
    return Message(
        header=header(stamp_ns), pose=Message(position=place, orientation=Message(**dict(zip("xyzw", q, strict=True))))
    )


def joint_message(stamp_ns: int, names: Iterable[str], value: Callable[[str, float], float]) -> Message:
    t, names = (stamp_ns - START_NS) / 1e9, list(names)
    values = [value(n, t) for n in names]
    return Message(header=header(stamp_ns), name=names, position=values, velocity=[], effort=[])


def jpeg(color: int, size: tuple[int, int] = (16, 24)) -> bytes:
    """A JPEG file of one grey level; its first pixel says which."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), color, np.uint8)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def jpeg_message(stamp_ns: int, color: int, size: tuple[int, int] = (16, 24)) -> Message:
    return Message(header=header(stamp_ns), format="jpeg", data=jpeg(color, size))


def raw_message(stamp_ns: int, pixels: np.ndarray, encoding: str, padding: int = 0) -> Message:
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    return Message(
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def write_ros2(path: Path, topics: dict[str, str], samples: Iterable[Sample], chunk_size: int = 4096) -> Path:
    """``topics``: name -> schema; samples are written in order of their log time."""
    with path.open("wb") as stream:
        writer = Ros2Writer(stream, chunk_size=chunk_size)
        schemas = {name: writer.register_msgdef(name, SCHEMAS[name]) for name in dict.fromkeys(topics.values())}
        for log_ns, topic, message, publish_ns in sorted(samples, key=lambda s: s[0]):
            writer.write_message(topic, schemas[topics[topic]], message, log_ns, publish_ns)
        writer.finish()
    return path


def write_json(path: Path, samples: Iterable[tuple[int, str, dict[str, Any]]], **options: Any) -> Path:
    with path.open("wb") as stream:
        writer = Writer(stream, **options)
        writer.start()
        channels: dict[str, int] = {}
        schema = writer.register_schema("any", "jsonschema", b"{}")
        for log_ns, topic, message in sorted(samples, key=lambda s: s[0]):
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "json", schema)
            writer.add_message(channels[topic], log_ns, json.dumps(message).encode(), log_ns)
        writer.finish()
    return path


def json_stamp(stamp_ns: int) -> dict[str, Any]:
    return {"timestamp": {"sec": stamp_ns // 10**9, "nsec": stamp_ns % 10**9}}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_map(path: Path, **entries: Any) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path
