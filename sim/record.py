"""Recorders of an episode: demonstrations as streams, and videos."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.episode import StreamSpec
from robopolicy.errors import SimulationError, StorageError, explain
from robopolicy.sim.frame import Frame, Modalities
from robopolicy.sim.sensors import SENSOR_HISTORY, sensor_channels
from robopolicy.types import ActionChunk

if TYPE_CHECKING:
    from robopolicy.sim.env import Env

__all__ = ["DemonstrationRecorder", "Recording", "VideoRecorder", "pack_chunk", "unpack_chunk"]


@dataclass(frozen=True)
class Recording:
    """What of an episode is stored besides state, action, joints and time.

    Attributes:
        cameras: Colour pictures, streams ``image/<camera>``.
        depth: Cameras whose depth is stored, streams ``depth/<camera>``, uint16 mm.
        sensors: Histories, streams ``sensor/<name>``, float32 [K * C], the oldest sample first.
        point_cloud: Points of the stream ``point_cloud``, float32 [P * 6].
        qpos: Whether ``qpos``, the positions of everything that moves, is stored.
        chunk_rows: H of ``executed_chunk``, 0 to leave what was executed out.
    """

    cameras: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    point_cloud: int = 0
    qpos: bool = False
    chunk_rows: int = 0

    @property
    def modalities(self) -> Modalities:
        """What has to be in every frame."""
        return Modalities(self.cameras, self.depth, (), self.point_cloud, self.qpos)

    def settings(self) -> dict[str, Any]:
        """What differs from a store without any of it, for its provenance."""
        found = {"depth": list(self.depth), "sensors": list(self.sensors)}
        found |= {"point_cloud": self.point_cloud, "qpos": self.qpos}  # type: ignore[dict-item]
        return {key: value for key, value in found.items() if value}

    def streams(self, env: Env) -> dict[str, StreamSpec]:
        """The further streams of a store of this environment."""
        card = env.card
        specs: dict[str, StreamSpec] = {}
        if self.chunk_rows:
            names = card.action.names
            units = tuple(channel.unit for channel in card.action.channels)
            specs["executed_action"] = StreamSpec("float32", (len(names),), names, units, source="commanded")
            # a float64 has more digits than any stored stream but integers, so its bits are kept as one
            specs["executed_chunk"] = StreamSpec("int64", (self.chunk_rows * len(names),), kind="float64 bits")
        for name in self.depth:
            camera = card.camera(name)
            specs[f"depth/{name}"] = StreamSpec("uint16", (camera.height, camera.width, 1), kind="depth")
        for name in self.sensors:
            channels, _ = sensor_channels(env.model, name)
            rows = [f"{channel}.{k}" for k in range(SENSOR_HISTORY) for channel in channels]
            units = tuple("N m" if "torque" in row else "N" for row in rows)
            kind = "wrench" if name == "wrench" else "tactile"
            specs[f"sensor/{name}"] = StreamSpec("float32", (len(rows),), tuple(rows), units, kind, "tool", "measured")
        if self.point_cloud:
            specs["point_cloud"] = StreamSpec("float32", (6 * self.point_cloud,), kind="point_cloud", frame="base")
        if self.qpos:
            specs["qpos"] = StreamSpec("float32", (env.model.nq,), kind="physics_state")
        return specs


class DemonstrationRecorder:
    """Collects the streams of one demonstration, one row per control step.

    Args:
        recording: What to record; names of cameras stand for their colour pictures.
    """

    def __init__(self, recording: Recording | tuple[str, ...] = ()):
        self._recording = recording if isinstance(recording, Recording) else Recording(tuple(recording))
        self.modalities = self._recording.modalities
        self._executed: ActionChunk | None = None
        self._rows: dict[str, list[NDArray[Any]]] = {}

    def cameras(self, step: int) -> tuple[str, ...]:
        """All of them, at every step."""
        return self._recording.cameras

    def executed(self, chunk: ActionChunk) -> None:
        """What is executed instead of the chunk that the next call of :meth:`step` shows."""
        self._executed = chunk

    def step(self, frame: Frame, chunk: ActionChunk | None, joint_command: NDArray[np.floating]) -> None:
        """Append one row; the label is the chunk's first action, before any perturbation.

        Raises:
            SimulationError: the policy was not asked at this step, so there is no label.
        """
        if chunk is None:
            raise SimulationError(
                explain("a demonstration needs an action at every control step", mend="record a policy with Ta = 1")
            )
        row: dict[str, NDArray[Any]] = {
            "state": frame.state,
            "environment_state": frame.environment_state,
            "action": np.asarray(chunk.values[0], np.float32),
            "joint_position": frame.joint_position,
            "joint_command": np.asarray(joint_command, np.float32),
            "time_ns": np.asarray(frame.time_ns, np.int64),
        }
        row |= {f"image/{name}": frame.image[name] for name in self._recording.cameras}
        row |= self._further(frame, self._executed or chunk)
        for name, value in row.items():
            self._rows.setdefault(name, []).append(value)
        self._executed = None

    def _further(self, frame: Frame, executed: ActionChunk) -> dict[str, NDArray[Any]]:
        wanted = self._recording
        row: dict[str, NDArray[Any]] = {f"depth/{name}": frame.depth[name] for name in wanted.depth}
        row |= {f"sensor/{name}": frame.sensor[name].ravel() for name in wanted.sensors}
        if wanted.point_cloud and frame.point_cloud is not None:
            row["point_cloud"] = frame.point_cloud.ravel()
        if wanted.qpos and frame.qpos is not None:
            row["qpos"] = frame.qpos.astype(np.float32)
        if wanted.chunk_rows:
            row["executed_action"] = np.asarray(executed.values[0], np.float32)
            row["executed_chunk"] = pack_chunk(executed.values, wanted.chunk_rows)
        return row

    def streams(self) -> dict[str, NDArray[Any]]:
        """Each stream as one array [N, ...]."""
        return {name: np.stack(rows) for name, rows in self._rows.items()}


def pack_chunk(values: NDArray[np.floating], rows: int) -> NDArray[np.int64]:
    """Values [H, A] as the bits of their float64, int64 [rows * A]; missing rows are filled with the bits of a NaN.

    Raises:
        SimulationError: more than ``rows`` of them.
    """
    values = np.asarray(values, np.float64)
    if len(values) > rows:
        raise SimulationError(
            explain("a chunk is longer than the stream of executed chunks", given=len(values), allowed=rows)
        )
    whole = np.full((rows, values.shape[1]), np.nan)
    whole[: len(values)] = values
    return whole.ravel().view(np.int64)


def unpack_chunk(bits: NDArray[np.int64], channels: int) -> NDArray[np.float64]:
    """Inverse of :func:`pack_chunk`: float64 [H, A]."""
    values = np.ascontiguousarray(bits).view(np.float64).reshape(-1, channels)
    return values[~np.isnan(values).all(axis=1)]


class VideoRecorder:
    """Keeps every ``every``-th frame of one camera.

    Args:
        camera: Name of the camera.
        control_hz: Rate of the control steps.
        every: Control steps between two pictures.
    """

    def __init__(self, camera: str, control_hz: float, every: int = 2):
        self.camera, self._every, self._steps = camera, every, 0
        self._duration_ms = round(1000 * every / control_hz)
        self.frames: list[NDArray[np.uint8]] = []

    def cameras(self, step: int) -> tuple[str, ...]:
        """The camera on every ``every``-th step."""
        return (self.camera,) if step % self._every == 0 else ()

    def step(self, frame: Frame, chunk: ActionChunk | None, joint_command: NDArray[np.floating]) -> None:
        """Keep the picture of every ``every``-th step; a policy's own cameras may bring more of them."""
        if self._steps % self._every == 0:
            self.frames.append(frame.image[self.camera])
        self._steps += 1

    def save(self, path: Path) -> Path:
        """Write an animated WebP beside ``path``, then rename it into place.

        Raises:
            StorageError: the disk refused.
        """
        from PIL import Image

        pictures = [Image.fromarray(frame) for frame in self.frames]
        partial = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[0].save(
                partial,
                format="WEBP",
                save_all=True,
                append_images=pictures[1:],
                duration=self._duration_ms,
                loop=0,
                quality=80,
                method=2,
            )
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(explain(f"cannot write the video {path}", given=error, mend="free space")) from error
        return path
