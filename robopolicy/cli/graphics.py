"""Which GL backend renders off screen on this machine, found by really rendering one picture with each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

__all__ = ["BACKENDS", "GlTrial", "choose_backend", "try_backend"]

BACKENDS = ("egl", "osmesa")
"""Tried in this order; EGL can use a GPU and is the faster one in software too."""

# Runs in a process of its own: a broken driver may crash, and mujoco binds one backend for the life of a process.
PROGRAM = """
import mujoco, numpy
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size=".2" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
    assert picture.std() > 1, "the picture is of one colour"
    from OpenGL import GL
    print(GL.glGetString(GL.GL_RENDERER).decode())
"""


@dataclass(frozen=True)
class GlTrial:
    """What one backend answered.

    Attributes:
        backend: Value for ``MUJOCO_GL``.
        works: Whether a picture came out.
        detail: The renderer's name, or why it failed.
    """

    backend: str
    works: bool
    detail: str


def try_backend(backend: str, timeout_s: float = 60.0) -> GlTrial:
    """Render one small picture with ``MUJOCO_GL=backend`` in a process of its own."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend, "LP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return GlTrial(backend, False, f"no answer within {timeout_s:g} s")
    if done.returncode == 0:
        return GlTrial(backend, True, done.stdout.strip().splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("  ")]
    # mujoco's clean-up prints "Exception ignored" after the real cause, which is the last line of the first traceback.
    cause = next(
        (line for line in said if ":" in line and not line.startswith(("Traceback", "Exception ignored"))), None
    )
    return GlTrial(backend, False, cause or f"the process ended with code {done.returncode}")


def choose_backend() -> tuple[GlTrial | None, list[GlTrial]]:
    """The first backend that renders, and all that were tried. A ``MUJOCO_GL`` that is set goes first."""
    wished = os.environ.get("MUJOCO_GL", "").lower()
    tried: list[GlTrial] = []
    for backend in dict.fromkeys([*([wished] if wished in (*BACKENDS, "glfw") else []), *BACKENDS]):
        tried.append(try_backend(backend))
        if tried[-1].works:
            return tried[-1], tried
    return None, tried
