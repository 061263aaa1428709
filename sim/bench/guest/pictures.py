"""Pictures of a compiled MuJoCo model, in the benchmark's own look or in a cheaper one."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Pictures"]


class Pictures:
    """Renderers of one model, one per size.

    ``stock`` leaves the model's visual settings alone. ``fast`` switches off shadows, multisampling, reflections and
    the sky: five to ten times cheaper on a processor, and not comparable with published results on pictures.

    Args:
        model: ``mujoco.MjModel``.
        data: Its ``MjData``.
        profile: ``stock`` or ``fast``.
    """

    def __init__(self, model: Any, data: Any, profile: str):
        self._model, self._data, self._fast = model, data, profile == "fast"
        self._renderers: dict[tuple[int, int], Any] = {}
        if self._fast:  # read when a context is made
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0

    def names(self) -> tuple[str, ...]:
        """Cameras of the model."""
        return tuple(self._model.camera(i).name for i in range(self._model.ncam))

    def picture(self, camera: str, height: int, width: int, data: Any = None) -> np.ndarray:
        """uint8 [H, W, 3], row 0 at the top."""
        import mujoco

        size = (height, width)
        if size not in self._renderers:
            buffer = self._model.vis.global_
            buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
            self._renderers[size] = mujoco.Renderer(self._model, height, width)
        renderer = self._renderers[size]
        renderer.update_scene(self._data if data is None else data, camera=camera)
        if self._fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        image: np.ndarray = renderer.render()
        return image

    def close(self) -> None:
        """Free the contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
