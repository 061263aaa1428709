"""Made-up episodes that every test of the room can shape."""

import random

import pytest

from robopolicy.evaluation.result import EpisodeResult

HEADER = {
    "task": "pick_place",
    "embodiment": "panda",
    "embodiment_hash": "a1" * 32,
    "policy": "diffusion",
    "checkpoint": "runs/pick",
    "checkpoint_hash": "c0" * 32,
    "split": "test",
    "command": "robopolicy eval runs/pick task=pick_place",
    "seeds": {"training": 0},
    "control": {"latency_ms": 50.0},
}


def make_episode(index, success, **changes):
    """Episode ``index``; its initial state depends on nothing else."""
    rng = random.Random(index)
    initial_state = [rng.uniform(-0.3, 0.3) for _ in range(4)]
    length = rng.randint(60, 90) if success else 120
    fields = {
        "index": index,
        "split": "test",
        "task": "pick_place",
        "embodiment": "panda",
        "success_once": success,
        "success_at_end": success,
        "length": length,
        "duration_s": length / 20,
        "termination": "success" if success else "timeout",
        "inference_ms": [10.0 + index % 7, 12.0],
        "latency_ms": 50.0,
        "ticks": length * 5,
        "tracking_ticks": length * 5 - 5,
        "missing_setpoints": 0,
        "clipped_ticks": index % 3,
        "max_seam_velocity_step": 0.5,
        "chunks": 2,
        "initial_state": initial_state,
        "cpu_s": 0.5,
    }
    return EpisodeResult(**{**fields, **changes})


@pytest.fixture
def header():
    return dict(HEADER)


@pytest.fixture
def episode():
    return make_episode


@pytest.fixture
def outcomes():
    """Results from a string of outcomes: '1' success, '0' failure."""
    return lambda text, start=0, **changes: [make_episode(start + i, c == "1", **changes) for i, c in enumerate(text)]
