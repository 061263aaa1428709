"""A policy that swings the arm, and does whatever a file tells it to do wrong; for the fault campaign.

The file is named by ``ROBOPOLICY_FAULT_FILE``; its content is the name of the fault, read anew at every call. Empty is
none. Used as ``policy=faulty_policy:swing``.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["CHUNK_FAULTS", "CRASHES", "Swing", "swing"]

STEPS, HORIZON = 15, 5
PERIOD_S, SWING_M, SWING_RAD = 4.0, 0.04, 0.25


def _nan(chunk: ActionChunk) -> dict[str, Any]:
    values = chunk.values.copy()
    values[len(values) // 2, 0] = np.nan
    return {"values": values}


def _offset(size: float) -> Any:
    def change(chunk: ActionChunk) -> dict[str, Any]:
        values = chunk.values.copy()
        values[:, 0] += size
        return {"values": values}

    return change


def _bang(chunk: ActionChunk) -> dict[str, Any]:
    values = chunk.values.copy()
    values[:, 0] += 0.15 * (-1.0) ** np.arange(len(values))
    return {"values": values}


def _aged(age_s: float) -> Any:
    return lambda chunk: {"t0_ns": chunk.t0_ns - round(age_s * 1e9)}


CHUNK_FAULTS: dict[str, Any] = {
    "nan": _nan,
    "all_nan": lambda c: {"values": np.full_like(c.values, np.nan)},
    "infinite": lambda c: {"values": np.where(np.arange(c.values.shape[1]) == 0, np.inf, c.values)},
    "too_wide": lambda c: {"values": np.concatenate([c.values, c.values[:, :1]], axis=1)},
    "too_narrow": lambda c: {"values": c.values[:, :-1]},
    "other_dt": lambda c: {"dt_s": c.dt_s * 2},
    "other_robot": lambda c: {"embodiment": "0123456789abcdef"},
    "nothing_valid": lambda c: {"valid": np.zeros(len(c.values), bool)},
    "too_long": lambda c: {"values": np.repeat(c.values, 10, axis=0), "valid": None},
    "stale": _aged(5.0),
    "from_the_future": _aged(-5.0),
    "ten_times_the_range": lambda c: {"values": c.values * 10},
    "zeros": lambda c: {"values": np.zeros_like(c.values)},
    "jump": _offset(0.5),
    "small_jump": _offset(0.1),
    "bang_bang": _bang,
    "one_row": lambda c: {"values": c.values[:1], "valid": None, "horizon": 1},
}
"""What may be wrong with a chunk."""

CRASHES = ("raises", "exits", "killed", "hangs", "suspended", "slow", "leaks")
"""What may be wrong with a call."""


@dataclasses.dataclass(frozen=True)
class Swing:
    """A sine of absolute time about the home posture: the TCP along x, or the first joint."""

    embodiment: Embodiment
    fault_file: str

    @property
    def spec(self) -> PolicySpec:
        """One observation, fifteen actions, re-planned every five."""
        return PolicySpec(self.embodiment, 1, HORIZON, STEPS)

    def act(self, observation: Observation, *, rng: Any, prefix: Any = None, goal: Any = None) -> ActionChunk:
        """The next fifteen actions, spoilt as the file says."""
        card, t0_ns = self.embodiment, int(observation.time_ns[-1])
        home = RobotKinematics(card).tcp_state(card.home_position) if card.action_space == "ee_pose" else None
        base = card.home_position if home is None else np.asarray(home, float)[: len(card.action)]
        values = np.repeat(np.asarray(base, float)[None], STEPS, axis=0)
        t = t0_ns / 1e9 + np.arange(1, STEPS + 1) * card.control_dt_s
        values[:, 0] += (SWING_RAD if home is None else SWING_M) * np.sin(2 * np.pi * t / PERIOD_S)
        chunk = ActionChunk(values, t0_ns, card.control_dt_s, card.hash, horizon=HORIZON)
        path = Path(self.fault_file)
        fault = path.read_text().strip() if path.is_file() else ""
        self._crash(fault)
        change = CHUNK_FAULTS.get(fault)
        if fault == "jump" and home is None:
            change = _offset(1.5)  # radians
        return chunk if change is None else dataclasses.replace(chunk, **change(chunk))

    @staticmethod
    def _crash(fault: str) -> None:
        if fault == "raises":
            raise RuntimeError("a policy that fails")
        if fault == "exits":
            os._exit(3)
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hangs":
            time.sleep(3600)
        if fault == "suspended":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "slow":
            time.sleep(1.5)
        if fault == "leaks":
            Swing.leaked.append(np.ones(20_000_000))


Swing.leaked = []  # type: ignore[attr-defined]


def swing(embodiment: Embodiment) -> Swing:
    """The policy."""
    return Swing(embodiment, os.environ.get("ROBOPOLICY_FAULT_FILE", ""))
