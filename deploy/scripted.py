"""Policies without a network, for dry runs and tests of the daemon; each is a factory(embodiment) -> Policy.

Used as ``policy=robopolicy.deploy.scripted:sweep`` in place of a run folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.errors import EmbodimentError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["ScriptedPolicy", "hold", "sweep"]

STEPS = 15
ACTION_HORIZON = 8


@dataclass(frozen=True)
class ScriptedPolicy:
    """Swings the TCP about the home pose as a sine of absolute time; amplitude 0 stays where the arm is.

    Attributes:
        embodiment: An ``ee_pose`` card.
        amplitude_m: Swing along x.
        period_s: Of one swing.
        think_s: Time that a call takes, as a network would.
    """

    embodiment: Embodiment
    amplitude_m: float = 0.0
    period_s: float = 4.0
    think_s: float = 0.005

    def __post_init__(self) -> None:
        if self.embodiment.action_space != "ee_pose":
            raise EmbodimentError(
                explain("scripted policies move the TCP", given=self.embodiment.action_space, allowed="ee_pose")
            )

    @property
    def spec(self) -> PolicySpec:
        """Two observations, fifteen actions, re-planned every eight."""
        return PolicySpec(self.embodiment, 2, ACTION_HORIZON, STEPS + 1)

    def act(
        self, observation: Observation, *, rng: Any, prefix: ActionChunk | None = None, goal: Any = None
    ) -> ActionChunk:
        """The next fifteen actions. -> values [15, A]."""
        time.sleep(self.think_s)
        card = self.embodiment
        t0_ns = int(observation.time_ns[-1])
        values = np.repeat(observation.state[-1:].astype(float), STEPS, axis=0)
        if self.amplitude_m:
            values = np.repeat(_home(card)[None], STEPS, axis=0)
            t = t0_ns / 1e9 + np.arange(1, STEPS + 1) * card.control_dt_s
            values[:, card.action.index("ee_position.x")] += self.amplitude_m * np.sin(2 * np.pi * t / self.period_s)
        return ActionChunk(values, t0_ns, card.control_dt_s, card.hash, horizon=ACTION_HORIZON)


def hold(embodiment: Embodiment) -> ScriptedPolicy:
    """Stay."""
    return ScriptedPolicy(embodiment)


def sweep(embodiment: Embodiment) -> ScriptedPolicy:
    """Swing 5 cm to both sides, once in four seconds."""
    return ScriptedPolicy(embodiment, amplitude_m=0.05)


def _home(card: Embodiment) -> Any:
    from robopolicy.control.kinematics import Kinematics

    return np.asarray(Kinematics(card).tcp_state(card.home_position), float)
