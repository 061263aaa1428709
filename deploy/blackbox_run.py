"""What a black box says of the run it belongs to: configuration, card, hashes, versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robopolicy.control.native import CONTROL_CORE
from robopolicy.deploy.config import DaemonConfig
from robopolicy.deploy.records import PROCESSES
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import Embodiment
from robopolicy.schema import to_dict

__all__ = ["FORMAT", "describe_run", "limits_hash", "session_of"]

FORMAT = 1
PACKAGES = ("robopolicy", "numpy", "mcap")
LIMITS = ("max_velocity", "max_acceleration", "max_jerk")


def describe_run(config: DaemonConfig, *, session: str) -> dict[str, Any]:
    """The metadata of a file that is opened now.

    Args:
        config: What the daemon runs.
        session: See :func:`session_of`.
    """
    card = config.card
    now_ns = monotonic_ns()
    return {
        "format": FORMAT,
        "session": session,
        "opened_ns": now_ns,
        "wall_minus_monotonic_ns": time.time_ns() - now_ns,
        "config": to_dict(config),
        "card": card.to_dict(),
        "card_hash": card.hash,
        "limits_hash": limits_hash(card, config.control),
        "joints": list(card.joints.names),
        "processes": list(PROCESSES),
        "policy": config.policy,
        "policy_hash": _policy_hash(Path(config.policy)),
        "commit": _commit(),
        "control_core": CONTROL_CORE,
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": platform.machine(),
    }


def limits_hash(card: Embodiment, control: dict[str, Any]) -> str:
    """SHA-256 of everything that bounds a setpoint: the card's limits and workspaces, and the executor's overrides."""
    joints = card.joints
    limits = {name: joints.limit(name).tolist() for name in LIMITS}
    limits |= {"lower": joints.lower.tolist(), "upper": joints.upper.tolist()}
    boxes = [arm.workspace for arm in card.arms]
    text = json.dumps({"limits": limits, "workspace": boxes, "control": control}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def session_of(pid: int) -> str:
    """A name for the life of the process ``pid`` that no later process shares: its number and its time of birth."""
    try:
        born = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        born = str(time.time_ns())
    return f"{pid}-{born}"


def _policy_hash(path: Path) -> str:
    """SHA-256 of the newest manifest, or of the description of an exported policy; empty for a policy in code."""
    found = [*path.rglob("manifest.json"), *path.glob("policy.json")] if path.is_dir() else []
    if not found:
        return ""
    newest = max(found, key=lambda p: p.stat().st_mtime_ns)
    return hashlib.sha256(newest.read_bytes()).hexdigest()


def _commit() -> str:
    """Commit of the code, where it runs from a clone; marked when files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    words = ("git", "-C", str(root), "describe", "--always", "--dirty=-changed", "--abbrev=12", "--exclude=*")
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=5.0, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
