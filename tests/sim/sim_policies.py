"""Cheap policies for tests, importable by spawned workers."""

import os

import numpy as np

from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk


class Wander:
    """A chunk of sixteen poses that drift from the observed one, by the generator it is given; To = 2, Ta = 8."""

    cameras: tuple[str, ...] = ()

    def __init__(self, env):
        self.env = env
        self.seen = []
        self.spec = PolicySpec(env.embodiment, 2, 8, 16, cameras=self.cameras)

    def act(self, observation, *, rng, prefix=None, goal=None):
        self.seen.append(observation)
        step = np.zeros(10)
        step[:3] = 0.003 * rng.standard_normal(3)
        values = observation.state[-1] + step * np.arange(1, 16)[:, None]
        return ActionChunk(values, int(observation.time_ns[-1]), 0.05, self.env.embodiment.hash, horizon=8)


class Seeing(Wander):
    """The same, with a camera."""

    cameras = ("front",)


class Crash(Wander):
    """Raises, or kills its process, in its first call."""

    def act(self, observation, *, rng, prefix=None, goal=None):
        if os.environ.get("SIM_TEST_CRASH") == "kill":
            os.kill(os.getpid(), 9)
        raise RuntimeError("no such weights")
