"""MuJoCo worlds, tasks, scripted experts, rollouts. Importing it picks the GL backend and registers Gymnasium ids."""

from __future__ import annotations

import importlib
from typing import Any

from robopolicy.sim.gl import choose_backend
from robopolicy.sim.registration import register_environments

__all__ = ["Env", "make_env", "run_episode"]

choose_backend()
register_environments()

_HOME = {"Env": "env", "make_env": "env", "run_episode": "episode"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that the package itself loads no mujoco."""
    if name in _HOME:
        return getattr(importlib.import_module(f"robopolicy.sim.{_HOME[name]}"), name)
    raise AttributeError(f"module 'robopolicy.sim' has no attribute '{name}'; it has {sorted(__all__)}")
