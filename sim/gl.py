"""Which OpenGL backend MuJoCo renders with. Decided before mujoco is first imported, so this imports none itself."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

from robopolicy.errors import explain

__all__ = ["DEBIAN_PACKAGES", "available_backends", "choose_backend", "load_triton_first", "missing_message"]

DEBIAN_PACKAGES = ("libegl1", "libegl-mesa0", "libgl1", "libgl1-mesa-dri", "libglx-mesa0", "libgles2", "libosmesa6")
"""What software rendering needs on Debian and Ubuntu."""

_LIBRARIES = {"egl": ("libEGL.so.1", "libEGL_mesa.so.0"), "osmesa": ("libOSMesa.so.8",)}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def load_triton_first() -> None:
    """Load Triton's library, if it is installed, before Mesa's.

    Mesa's software renderer brings a shared LLVM into the process whose symbols everybody sees. Triton, which torch and
    diffusers import late, carries an LLVM of its own: loaded second, it binds to Mesa's and crashes the interpreter.
    Loaded first it keeps its own. Only the shared object is mapped, nothing of Triton or torch is imported.
    """
    found = importlib.util.find_spec("triton")
    if sys.platform != "linux" or found is None or found.origin is None or "triton" in sys.modules:
        return
    library = Path(found.origin).parent / "_C" / "libtriton.so"
    if library.is_file():
        _loads(str(library))


def available_backends() -> list[str]:
    """Headless backends whose libraries load, the preferred one first.

    A vendor's EGL without Mesa also counts as ``egl``: only ``libEGL.so.1`` has to be there.
    """
    return [name for name, libraries in _LIBRARIES.items() if _loads(libraries[0])]


def choose_backend() -> str | None:
    """Set ``MUJOCO_GL`` when the user has not: ``egl``, else ``osmesa``. Returns what is in force, or None.

    Where ``DISPLAY`` or another platform than Linux offers its own default, and neither library loads, nothing is set.
    """
    load_triton_first()
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    if sys.platform != "linux":
        return None
    for name, libraries in _LIBRARIES.items():
        # Each is loaded only when the one before it is not there: OSMesa brings a whole compiler with it.
        if _loads(libraries[0]):
            os.environ["MUJOCO_GL"] = name
            return name
    return None


def missing_message(reason: object) -> str:
    """The error text for a machine that cannot render."""
    return explain(
        "no OpenGL context could be made, so cameras cannot be rendered",
        given=f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')}; {reason}",
        allowed="MUJOCO_GL=egl or MUJOCO_GL=osmesa, set before mujoco is imported",
        mend="apt-get install -y --no-install-recommends " + " ".join(DEBIAN_PACKAGES),
    )
