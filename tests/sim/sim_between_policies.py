"""A cheap policy that follows what is still scheduled, alone and in batches; importable by spawned workers."""

import dataclasses

import numpy as np
from sim_policies import Wander


class Follower(Wander):
    """Wanders, but where there is a prefix it begins with that and goes on from it; remembers what it was told."""

    def __init__(self, env):
        super().__init__(env)
        self.spec = dataclasses.replace(self.spec, continues=True)
        self.told = []

    def act(self, observation, *, rng, prefix=None, goal=None):
        chunk = super().act(observation, rng=np.random.default_rng(rng))
        self.told.append((int(observation.time_ns[-1]), prefix))
        if prefix is not None and prefix.horizon:
            fixed = prefix.horizon
            chunk.values[:] += prefix.values[fixed - 1] - chunk.values[fixed - 1]
            chunk.values[:fixed] = prefix.values[:fixed]
        return chunk

    def act_batch(self, observations, rngs, prefixes=()):
        told = prefixes or [None] * len(observations)
        return [self.act(o, rng=r, prefix=p) for o, r, p in zip(observations, rngs, told, strict=True)]
