"""Renders cameras of a scene. One OpenGL context per process, made on first use and kept for every later scene."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Camera
from robopolicy.errors import MissingDependencyError
from robopolicy.sim.gl import missing_message

__all__ = ["FAST_FLAGS", "CameraRenderer"]

FAST_FLAGS = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)
"""Switched off by the ``fast`` profile."""

_context: dict[str, object] = {}


def _gl_context(width: int, height: int) -> object:
    """The process's context, created once: its size matters only to windows, we draw into MuJoCo's own buffer."""
    if "gl" not in _context:
        try:
            from mujoco.gl_context import GLContext

            context = GLContext(width, height)
            context.make_current()
        except (ImportError, AttributeError, RuntimeError, OSError) as error:
            raise MissingDependencyError(missing_message(error)) from error
        _context["gl"] = context
    return _context["gl"]


class CameraRenderer:
    """Draws the cameras of one model.

    Args:
        model: Compiled model with its offscreen buffer large enough for every camera.
        render_profile: ``fast`` or ``stock``; quality settings that belong to the model are set by ``scene.compose``.

    Raises:
        MissingDependencyError: no OpenGL; the message lists the Debian packages.
    """

    def __init__(self, model: mujoco.MjModel, render_profile: str = "fast"):
        _gl_context(model.vis.global_.offwidth, model.vis.global_.offheight)
        try:
            self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:
            raise MissingDependencyError(missing_message(error)) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._mjr)
        self.model = model
        self._scene = mujoco.MjvScene(model, maxgeom=max(200, 2 * model.ngeom + 50))
        if render_profile == "fast":
            for flag in FAST_FLAGS:
                self._scene.flags[flag] = 0
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED

    @property
    def flags(self) -> NDArray[np.uint8]:
        """Rendering flags in force, indexed by ``mujoco.mjtRndFlag``."""
        return np.array(self._scene.flags)

    def render(self, data: mujoco.MjData, camera: Camera) -> NDArray[np.uint8]:
        """One picture, uint8 [H, W, 3], row 0 at the top."""
        self._view.fixedcamid = self.model.camera(camera.name).id
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        viewport = mujoco.MjrRect(0, 0, camera.width, camera.height)
        mujoco.mjr_render(viewport, self._scene, self._mjr)
        image = np.empty((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._mjr)
        return image[::-1].copy()

    def close(self) -> None:
        """Free the model's GPU objects; the process's context stays for the next scene."""
        self._mjr.free()
