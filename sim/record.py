"""Recorders of an episode: demonstrations as streams, and videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import SimulationError, StorageError, explain
from robopolicy.sim.env import Frame
from robopolicy.types import ActionChunk

__all__ = ["DemonstrationRecorder", "VideoRecorder"]


class DemonstrationRecorder:
    """Collects the streams of one demonstration, one row per control step.

    Args:
        cameras: Cameras to record.
    """

    def __init__(self, cameras: tuple[str, ...] = ()):
        self._cameras = cameras
        self._rows: dict[str, list[NDArray[Any]]] = {}

    def cameras(self, step: int) -> tuple[str, ...]:
        """All of them, at every step."""
        return self._cameras

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
        row |= {f"image/{name}": frame.image[name] for name in self._cameras}
        for name, value in row.items():
            self._rows.setdefault(name, []).append(value)

    def streams(self) -> dict[str, NDArray[Any]]:
        """Each stream as one array [N, ...]."""
        return {name: np.stack(rows) for name, rows in self._rows.items()}


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
