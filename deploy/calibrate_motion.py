"""A small slow turn of the tool, as a policy: what the lag of the motion is measured with."""

from __future__ import annotations

from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.rotations import axis_angle_to_matrix, matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.types import ActionChunk, Observation

__all__ = ["TurnPolicy", "turn"]

AMPLITUDE_RAD = 0.05
PERIOD_S = 2.0
RAMP_S = 2.0
"""The swing grows over this time, so that it begins at rest."""
STEPS = 20
AGAIN_NS = 2_000_000_000


class TurnPolicy:
    """Turns the tool about its own axis by three degrees to and fro, from wherever it is.

    The tool's point stays where it is; on most arms only the last joint moves. In ``joint_position`` it is the last
    joint of the chain. At its fastest it goes 0.16 rad/s, a tenth and less of what any arm here may do.

    Args:
        embodiment: The robot.
    """

    def __init__(self, embodiment: Embodiment):
        self._card = embodiment
        self._begun_ns = self._last_ns = 0
        self._start = np.zeros(0)

    @property
    def spec(self) -> PolicySpec:
        """Asked twice a second or so."""
        return PolicySpec(self._card, 1, STEPS // 2, STEPS + 1)

    def act(
        self, observation: Observation, *, rng: Any, prefix: ActionChunk | None = None, goal: Any = None
    ) -> ActionChunk:
        """The next second. -> values [STEPS, A]."""
        card, now_ns = self._card, int(observation.time_ns[-1])
        if not self._begun_ns or not 0 <= now_ns - self._last_ns < AGAIN_NS:
            self._begun_ns, self._start = now_ns, observation.state[-1].astype(float)
        self._last_ns = now_ns
        seconds = (now_ns - self._begun_ns) / 1e9 + np.arange(1, STEPS + 1) * card.control_dt_s
        angle = AMPLITUDE_RAD * np.minimum(seconds / RAMP_S, 1.0) * np.sin(2 * np.pi * seconds / PERIOD_S)
        values = np.repeat(self._start[None], STEPS, axis=0)
        if card.action_space == "joint_position":
            last = card.action.index(card.chain[-1].joint)
            # into the range, whichever side of its middle the joint stands on
            side = -1.0 if self._start[last] > 0.5 * (card.action.upper[last] + card.action.lower[last]) else 1.0
            values[:, last] += side * angle
        else:
            rotation = card.action.select("ee_rotation")
            about = axis_angle_to_matrix(angle[:, None] * np.array([0.0, 0.0, 1.0]))
            values[:, rotation] = matrix_to_rotation_6d(rotation_6d_to_matrix(self._start[rotation]) @ about)
        return ActionChunk(values, now_ns, card.control_dt_s, card.hash, horizon=STEPS // 2)


def turn(embodiment: Embodiment) -> TurnPolicy:
    """The policy of ``robopolicy deploy calibrate-latency``."""
    return TurnPolicy(embodiment)
