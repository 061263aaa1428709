"""Policies for robots that are driven by their joints."""

import numpy as np

from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk


class Joints:
    """Joint targets made by ``target(measured [J], rng) -> [J]``, asked for ``rows`` control steps at a time."""

    def __init__(self, embodiment, rows, target):
        self.spec, self.target = PolicySpec(embodiment, 1, rows, rows), target

    def act(self, observation, *, rng, prefix=None, goal=None):
        card = self.spec.embodiment
        value = self.target(np.asarray(observation.state[-1], float), np.random.default_rng(rng))
        rows = np.tile(np.clip(value, card.joints.lower, card.joints.upper), (self.spec.action_horizon, 1))
        return ActionChunk(rows, int(observation.time_ns[-1]), card.control_dt_s, card.hash)


class Recorded:
    """Actions [N, A] of an episode, one per control step, whatever is observed; the one after it as a look ahead."""

    def __init__(self, embodiment, actions):
        self.actions, self.spec = np.asarray(actions, float), PolicySpec(embodiment, 1, 1, 2)

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns, card = int(observation.time_ns[-1]), self.spec.embodiment
        step = round(now_ns * card.control_hz / 1e9)
        rows = self.actions[np.minimum([step, step + 1], len(self.actions) - 1)]
        return ActionChunk(rows, now_ns, card.control_dt_s, card.hash, horizon=1)
