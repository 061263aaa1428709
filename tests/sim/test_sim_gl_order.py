"""Rendering first and torch's compiler second, in one process: Mesa and Triton each carry an LLVM."""

import importlib.util
import os
import subprocess
import sys

import pytest

from robopolicy.sim.gl import available_backends

CODE = """
import robopolicy.sim
from robopolicy.sim.env import Env
env = Env("pick_place", "panda", cameras=("front",))
env.reset(options={"split": "test", "index": 0})
assert env.frame().image["front"].std() > 1
env.close()
import diffusers.training_utils
TRITON
print("both")
"""


@pytest.mark.parametrize("chosen", [*available_backends(), None])
def test_a_policy_can_be_loaded_after_a_picture_was_rendered(chosen):
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    if chosen is not None:
        environment["MUJOCO_GL"] = chosen
    code = CODE.replace("TRITON", "import triton" if importlib.util.find_spec("triton") else "")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, "both"), done.stderr[-2000:]
