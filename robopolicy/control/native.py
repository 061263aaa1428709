"""The compiled half of the control tick, if there is one.

``_native.c`` repeats the scalar arithmetic of this package in C, twenty times as fast: the limiter, inverse kinematics
and the reference path. Without a C compiler at installation the Python modules do the same by themselves. Setting the
environment variable ``ROBOPOLICY_CONTROL`` to ``python`` before the import leaves the compiled half out.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["CONTROL_CORE", "native"]

native: Any = None
"""The extension module, or None."""

if os.environ.get("ROBOPOLICY_CONTROL") != "python":
    try:
        from robopolicy.control import _native as native
    except ImportError:
        native = None

CONTROL_CORE = "python" if native is None else "native"
"""Which of the two is at work, for reports."""
