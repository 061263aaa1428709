"""The forms in which anybody's tools can read the black box: JSON of states, chunks, events and reports."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

from robopolicy.control.verdict import Verdict
from robopolicy.deploy.blackbox import Channel, json_channel
from robopolicy.deploy.records import EXECUTOR_MODES, REASONS, REFUSALS
from robopolicy.deploy.state_machine import State

__all__ = [
    "CHUNK",
    "EVENT",
    "LOST",
    "REPORT",
    "STATE",
    "camera_channel",
    "chunk_json",
    "dumps",
    "image_json",
    "plain",
    "state_json",
]

_NUMBER: dict[str, Any] = {"type": "number"}
_TEXT: dict[str, Any] = {"type": "string"}
_VECTOR: dict[str, Any] = {"type": "array", "items": {"type": ["number", "null"]}}

STATE = json_channel(
    "/state",
    dict.fromkeys(("t_ns", "tick", "epoch", "late_ms", "work_ms", "velocity_step", "remaining_s"), _NUMBER)
    | dict.fromkeys(("state", "mode", "reason", "message"), _TEXT)
    | dict.fromkeys(("position", "velocity", "setpoint"), _VECTOR)
    | {"verdict": {"type": "array", "items": _TEXT}},
)
CHUNK = json_channel(
    "/chunk", dict.fromkeys(("t_obs_ns", "t_made_ns", "inference_ms"), _NUMBER) | {"values": {"type": "array"}}
)
EVENT = json_channel("/event", {"number": _NUMBER, "t_ns": _NUMBER, "event": _TEXT})
REPORT = json_channel("/report", {})
LOST = json_channel("/lost", {"ring": _TEXT, "lost": _NUMBER})


def camera_channel(name: str) -> Channel:
    """Frames of one camera in Foxglove's form of compressed images."""
    properties = {
        "timestamp": {"type": "object", "properties": {key: {"type": "integer"} for key in ("sec", "nsec")}},
        "frame_id": _TEXT,
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": _TEXT,
    }
    return json_channel(f"/camera/{name}", properties, "foxglove.CompressedImage")


def plain(value: Any) -> Any:
    """Any record or field as JSON can hold it; numbers that are not finite become null."""
    if isinstance(value, np.void) and value.dtype.names:
        return {name: plain(value[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray):
        return [plain(x) for x in value] if value.dtype.kind == "S" or value.ndim > 1 else _finite(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bytes):
        return number.decode("utf-8", "replace")
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _finite(values: list[Any]) -> list[Any]:
    return [None if isinstance(x, float) and not math.isfinite(x) else x for x in values]


def state_json(record: np.void) -> bytes:
    """One tick; the words are those of the state machine, the executor and the limiter."""
    bits = int(record["verdict"])
    return dumps(
        {
            "t_ns": int(record["t_ns"]),
            "tick": int(record["tick"]),
            "state": State(int(record["state"])).name,
            "mode": EXECUTOR_MODES[int(record["mode"])],
            "reason": REASONS[int(record["reason"])],
            "message": bytes(record["message"]).decode("utf-8", "replace"),
            "epoch": int(record["epoch"]),
            "late_ms": int(record["late_ns"]) / 1e6,
            "work_ms": int(record["work_ns"]) / 1e6,
            "verdict": list(Verdict(bits).clipped) if bits else [],
            "seam": bool(record["seam"]),
            "accepted": bool(record["accepted"]),
            "velocity_step": plain(record["velocity_step"]),
            "remaining_s": plain(record["remaining_s"]),
            "latency_ms": plain(record["latency_ms"]),
            "overruns": int(record["overruns"]),
            "refused": {name: int(n) for name, n in zip(REFUSALS, record["refused"], strict=True) if n},
            **{name: _finite(record[name].tolist()) for name in ("position", "velocity", "setpoint")},
        }
    )


def chunk_json(record: np.void, number: int) -> bytes:
    """One chunk as the policy made it."""
    n = int(record["n"])
    names = ("epoch", "obs_id", "t_obs_ns", "t_made_ns", "dt_ns", "horizon")
    return dumps(
        {
            "number": number,
            **{name: int(record[name]) for name in names},
            "inference_ms": int(record["inference_ns"]) / 1e6,
            "valid": [bool(x) for x in record["valid"][:n]],
            "values": plain(record["values"][:n]),
        }
    )


def image_json(frame: np.ndarray[Any, Any], camera: str, log_ns: int) -> bytes:
    """One frame uint8 [H, W, 3] as a JPEG file."""
    from robopolicy.data.codecs import encode_jpeg

    blob = encode_jpeg(np.ascontiguousarray(frame))
    stamp = {"sec": log_ns // 1_000_000_000, "nsec": log_ns % 1_000_000_000}
    text = base64.b64encode(blob).decode("ascii")
    return dumps({"timestamp": stamp, "frame_id": camera, "format": "jpeg", "data": text})


def dumps(value: Any) -> bytes:
    """Bytes of a JSON message."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
