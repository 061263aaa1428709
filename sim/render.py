"""Renders cameras of a scene: colour, depth and geom ids. One OpenGL context per process, kept for every scene."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Camera
from robopolicy.errors import MissingDependencyError
from robopolicy.sim.gl import missing_message

__all__ = ["FAST_FLAGS", "CameraRenderer", "View", "depth_mm"]

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


@dataclass(frozen=True)
class View:
    """What one camera sees; row 0 at the top.

    Attributes:
        image: uint8 [H, W, 3], or None when it was not asked for.
        depth: uint16 [H, W, 1] mm along the view axis, 0 where nothing is seen, or None.
        segmentation: int16 [H, W, 1] geom ids, -1 for anything else, or None.
    """

    image: NDArray[np.uint8] | None = None
    depth: NDArray[np.uint16] | None = None
    segmentation: NDArray[np.int16] | None = None


def depth_mm(buffer: NDArray[np.float32], near_m: float, far_m: float) -> NDArray[np.uint16]:
    """A reversed depth buffer in millimetres along the view axis.

    A perspective projection stores ``z = n (f - d) / (d (f - n))``, 1 at the near plane and 0 at the far one, so
    ``d = n f / (z (f - n) + n)``.

    Args:
        buffer: [...] in 0..1.
        near_m, far_m: Clipping planes.

    Returns:
        uint16 [...], 0 where nothing was drawn or it is further than 65.5 m.
    """
    metres = near_m * far_m / (buffer.astype(np.float64) * (far_m - near_m) + near_m)
    millimetres = np.rint(metres * 1e3)
    millimetres[(buffer <= 0) | (millimetres > 65535)] = 0
    return millimetres.astype(np.uint16)


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
        # reversed: the floating-point buffer then resolves far things as finely as near ones
        self._mjr.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
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
        image = self.look(data, camera).image
        assert image is not None
        return image

    def look(
        self,
        data: mujoco.MjData,
        camera: Camera,
        *,
        colour: bool = True,
        depth: bool = False,
        segmentation: bool = False,
    ) -> View:
        """What a camera sees. Colour and depth come from one pass, geom ids from another."""
        # another scene's renderer may have been at work: without this its picture would be read
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._mjr)
        self._view.fixedcamid = self.model.camera(camera.name).id
        mujoco.mjv_updateScene(
            self.model, data, self._option, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        viewport = mujoco.MjrRect(0, 0, camera.width, camera.height)
        size = (camera.height, camera.width)
        image = np.empty((*size, 3), np.uint8) if colour else None
        buffer = np.empty(size, np.float32) if depth else None
        if colour or depth:
            mujoco.mjr_render(viewport, self._scene, self._mjr)
            mujoco.mjr_readPixels(image, buffer, viewport, self._mjr)
        planes = self.model.vis.map
        extent = self.model.stat.extent
        return View(
            None if image is None else image[::-1].copy(),
            None if buffer is None else depth_mm(buffer[::-1], planes.znear * extent, planes.zfar * extent)[..., None],
            self._ids(viewport) if segmentation else None,
        )

    def _ids(self, viewport: mujoco.MjrRect) -> NDArray[np.int16]:
        """Geom ids of the scene last updated: a second pass that paints each object in the colour of its number."""
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        try:
            mujoco.mjr_render(viewport, self._scene, self._mjr)
        finally:
            flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        pixels = np.empty((viewport.height, viewport.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, viewport, self._mjr)
        number = pixels.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16])
        table = np.full(self._scene.ngeom + 1, -1, np.int16)  # number 0 is the background
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and 0 <= geom.segid < self._scene.ngeom:
                table[geom.segid + 1] = geom.objid
        return table[np.where(number < len(table), number, 0)][::-1, :, None].copy()

    def close(self) -> None:
        """Free the model's GPU objects; the process's context stays for the next scene."""
        self._mjr.free()
