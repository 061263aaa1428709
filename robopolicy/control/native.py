"""The compiled half of the control tick, if there is one.

``_native.c`` repeats the scalar arithmetic of this package in C, twenty times as fast: the limiter, inverse kinematics
and the reference path. Without a C compiler at installation the Python modules do the same by themselves. Setting the
environment variable ``ROBOPOLICY_CONTROL`` to ``python`` before the import leaves the compiled half out.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTROL_CORE", "finite", "native"]

native: Any = None
"""The extension module, or None."""

if os.environ.get("ROBOPOLICY_CONTROL") != "python":
    try:
        from robopolicy.control import _native as native
    except ImportError:
        native = None

CONTROL_CORE = "python" if native is None else "native"
"""Which of the two is at work, for reports."""


def finite(values: NDArray[np.float64]) -> bool:
    """Whether every one of them is finite; in the tick this takes a tenth of what numpy's own does."""
    if native is not None and values.dtype == float and values.flags.c_contiguous:
        return bool(native.finite(values))
    return bool(np.isfinite(values).all())
