"""Policies around an expert, for tests of tasks and for the claim about them; importable by spawned workers."""

import dataclasses

import numpy as np

from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk


class Changed:
    """An expert whose chunks are changed by ``change(values [H, A], embodiment) -> values``."""

    def __init__(self, expert, change):
        self.expert, self.change, self.spec = expert, change, expert.spec

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        chunk = self.expert.act(observation, rng=rng, prefix=prefix, goal=goal)
        return dataclasses.replace(chunk, values=self.change(np.array(chunk.values), self.spec.embodiment))


def jaw_open(values, embodiment):
    """Every gripper channel at 1."""
    for arm in embodiment.arms:
        values[:, embodiment.action.index(arm.gripper)] = 1.0
    return values


class Held:
    """An expert for a time, and from then on its last action again and again."""

    def __init__(self, expert, after_s):
        self.expert, self.after_ns, self.spec, self.action = expert, round(after_s * 1e9), expert.spec, None

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns = int(observation.time_ns[-1])
        if now_ns < self.after_ns or self.action is None:
            chunk = self.expert.act(observation, rng=rng, prefix=prefix, goal=goal)
            self.action = chunk.values[:1]
            return chunk
        return ActionChunk(self.action, now_ns, self.spec.embodiment.control_dt_s, self.spec.embodiment.hash, horizon=1)


class Recorded:
    """Actions [N, A] of an episode, one per control step, whatever is observed; the one after it as a look ahead."""

    def __init__(self, embodiment, actions):
        self.actions, self.spec = np.asarray(actions, float), PolicySpec(embodiment, 1, 1, 2)

    def act(self, observation, *, rng=0, prefix=None, goal=None):
        now_ns, card = int(observation.time_ns[-1]), self.spec.embodiment
        step = round(now_ns * card.control_hz / 1e9)
        rows = self.actions[np.minimum([step, step + 1], len(self.actions) - 1)]
        return ActionChunk(rows, now_ns, card.control_dt_s, card.hash, horizon=1)
