"""A tiny diffusion policy on the panda card."""

import numpy as np
import pytest

from robopolicy.embodiment import load_embodiment
from robopolicy.normalize import Normalizer
from robopolicy.types import Observation

SMALL = {"unet": {"down": [16, 32], "step_dim": 16}, "sampler": {"steps": 4}}
E = 3


@pytest.fixture(scope="session")
def panda():
    return load_embodiment("panda")


@pytest.fixture(scope="session")
def normalizer(panda):
    def box(channels):
        return {"min": channels.lower, "max": channels.upper}

    environment = {"min": np.full(E, -1.0), "max": np.full(E, 1.0)}
    return Normalizer.from_statistics(
        {"state": box(panda.state), "action": box(panda.action), "environment_state": environment}, panda
    )


@pytest.fixture
def observation(panda):
    state = np.stack([panda.state.lower * 0.4 + panda.state.upper * 0.6] * 2).astype(np.float32)
    return Observation(
        state=state,
        time_ns=np.array([1_000_000_000, 1_050_000_000]),
        embodiment=panda.hash,
        environment_state=np.zeros((2, E), np.float32),
        image={"front": np.full((2, 96, 96, 3), 128, np.uint8), "wrist": np.full((2, 96, 96, 3), 64, np.uint8)},
    )


@pytest.fixture
def make(panda, normalizer):
    import torch

    from robopolicy.policies import build_policy

    def build(**parameters):
        torch.manual_seed(0)
        return build_policy(
            "diffusion",
            {**SMALL, **parameters},
            embodiment=panda,
            normalizer=normalizer,
            environment_state=E,
        ).eval()

    return build
