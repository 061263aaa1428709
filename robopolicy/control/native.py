"""The compiled half of the control tick, if there is one.

``_native.c`` repeats the scalar arithmetic of this package in C, twenty times as fast: the limiter, inverse kinematics
and the reference path. Without a C compiler at installation the Python modules do the same by themselves. Setting the
environment variable ``ROBOPOLICY_CONTROL`` to ``python`` before the import leaves the compiled half out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CONTROL_CORE", "MOST_CHANNELS", "finite", "native"]

native: Any = None
"""The extension module, or None."""

if os.environ.get("ROBOPOLICY_CONTROL") != "python":
    try:
        from robopolicy.control import _native as native
    except ImportError:
        native = None

MOST_CHANNELS = 64
"""Command channels that the compiled form can hold."""

CONTROL_CORE = "python" if native is None else "native"
"""Which of the two is at work, for reports."""


def _finite(values: ArrayLike) -> bool:
    return bool(np.isfinite(values).all())


finite: Callable[[ArrayLike], bool] = _finite if native is None else native.finite
"""Whether every one of some numbers is finite; compiled this takes a tenth of the time, for contiguous float64."""
