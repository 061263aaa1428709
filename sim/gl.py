"""Which OpenGL backend MuJoCo renders with. Decided before mujoco is first imported, so this imports none itself."""

from __future__ import annotations

import ctypes
import os
import sys

from robopolicy.errors import explain

__all__ = ["DEBIAN_PACKAGES", "available_backends", "choose_backend", "missing_message"]

DEBIAN_PACKAGES = ("libegl1", "libegl-mesa0", "libgl1", "libgl1-mesa-dri", "libglx-mesa0", "libgles2", "libosmesa6")
"""What software rendering needs on Debian and Ubuntu."""

_LIBRARIES = {"egl": ("libEGL.so.1", "libEGL_mesa.so.0"), "osmesa": ("libOSMesa.so.8",)}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def available_backends() -> list[str]:
    """Headless backends whose libraries load, the preferred one first.

    A vendor's EGL without Mesa also counts as ``egl``: only ``libEGL.so.1`` has to be there.
    """
    return [name for name, libraries in _LIBRARIES.items() if _loads(libraries[0])]


def choose_backend() -> str | None:
    """Set ``MUJOCO_GL`` when the user has not: ``egl``, else ``osmesa``. Returns what is in force, or None.

    Where ``DISPLAY`` or another platform than Linux offers its own default, and neither library loads, nothing is set.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    if sys.platform != "linux":
        return None
    found = available_backends()
    if found:
        os.environ["MUJOCO_GL"] = found[0]
        return found[0]
    return None


def missing_message(reason: object) -> str:
    """The error text for a machine that cannot render."""
    return explain(
        "no OpenGL context could be made, so cameras cannot be rendered",
        given=f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')}; {reason}",
        allowed="MUJOCO_GL=egl or MUJOCO_GL=osmesa, set before mujoco is imported",
        mend="apt-get install -y --no-install-recommends " + " ".join(DEBIAN_PACKAGES),
    )
