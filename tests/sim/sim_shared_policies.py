"""Tiny policies for the tests of shared inference; importable by spawned workers."""

import numpy as np
import torch
from sim_policies import Wander

from robopolicy.normalize import Normalizer
from robopolicy.policies import build_policy
from robopolicy.types import ActionChunk

TINY = {"unet": {"down": [16, 32], "step_dim": 16}, "sampler": {"steps": 4}}


def tiny_diffusion(env, seed=0, **parameters):
    """A real diffusion policy with random weights."""
    card, width = env.embodiment, len(env.task.environment_state_names)
    streams = {
        name: {"min": part.lower, "max": part.upper} for name, part in (("state", card.state), ("action", card.action))
    }
    streams["environment_state"] = {"min": np.full(width, -1.0), "max": np.full(width, 1.0)}
    torch.manual_seed(seed)
    policy = build_policy(
        "diffusion",
        TINY | parameters,
        embodiment=card,
        normalizer=Normalizer.from_statistics(streams, card),
        environment_state=width,
    )
    return policy.eval().requires_grad_(False)


class BatchWander(Wander):
    """Wanders, and can do so for several at once; remembers how many."""

    def __init__(self, env):
        super().__init__(env)
        self.rows = []

    def act_batch(self, observations, rngs):
        self.rows.append(len(observations))
        return [Wander.act(self, o, rng=np.random.default_rng(r)) for o, r in zip(observations, rngs, strict=True)]


class Neighbourly(BatchWander):
    """A row of its batch depends on the row before it, as with kernels that round by place."""

    def act_batch(self, observations, rngs):
        chunks = super().act_batch(observations, rngs)
        shifted = [chunks[i - 1].values[:, :3].mean() * 1e-9 for i in range(len(chunks))]
        return [
            ActionChunk(c.values + s, c.t0_ns, c.dt_s, c.embodiment, horizon=c.horizon)
            for c, s in zip(chunks, shifted, strict=True)
        ]
