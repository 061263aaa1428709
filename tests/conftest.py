"""For every test: one thread per process, off-screen rendering, and hypothesis without clock or chance."""

from __future__ import annotations

import os

# Before anything imports numpy, torch or mujoco, and inherited by every process that a test starts.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from hypothesis import settings  # noqa: E402

from robopolicy.sim.gl import choose_backend  # noqa: E402

choose_backend()

# The same examples on every run, and no limit on time: a busy machine must not fail a property.
settings.register_profile("robopolicy", derandomize=True, deadline=None, database=None)
settings.load_profile("robopolicy")
