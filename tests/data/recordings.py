"""Where real recordings of others are; tests that need them skip when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def recordings(name: str) -> Path:
    """Folder of one set of recordings, from ``ROBOPOLICY_RECORDINGS`` or beside the checkout."""
    stated = os.environ.get("ROBOPOLICY_RECORDINGS")
    folder = Path(stated) if stated else ROOT.parent / "shared" / "data"
    if not (folder / name).is_dir():
        pytest.skip(f"no recordings '{name}' below ROBOPOLICY_RECORDINGS")
    return folder / name
