"""Policies around an expert, for tests of tasks; importable by spawned workers."""

import dataclasses

import numpy as np


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
