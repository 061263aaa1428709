"""A small store of smooth reaches on the panda card, and a recipe that trains on it in a moment."""

import numpy as np

from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.embodiment import load_embodiment

RECIPE = {
    "seed": 3,
    "device": "cpu",
    "log_every": 2,
    "stages": {
        "policy": {
            "policy": "diffusion",
            "steps": 10,
            "batch_size": 12,
            "checkpoint_every": 5,
            "parameters": {"unet": {"down": [16, 32], "step_dim": 16}, "sampler": {"steps": 4}},
            "optimizer": {"lr": 1e-3, "warmup_steps": 3, "clip_norm": 1.0},
            "validation": {"fraction": 0.2, "every": 4, "batches": 2},
        }
    },
}


def write_store(path, episodes=6, length=20, nan=False):
    card = load_embodiment("panda")
    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, card, task="reach", environment_state=("goal.x", "goal.y", "goal.z")) as store:
        for _ in range(episodes):
            start, goal = (rng.uniform([0.35, -0.25, 0.05], [0.65, 0.25, 0.4]) for _ in range(2))
            s = np.linspace(0, 1, length)[:, None] ** 2
            state = np.concatenate(
                [start + (goal - start) * s, np.tile([1, 0, 0, 0, -1, 0.0], (length, 1)), 1 - s], axis=1
            ).astype(np.float32)
            joints = np.zeros((length, len(card.joints)), np.float32)
            store.append(
                Episode(
                    streams={
                        "state": state,
                        "action": np.concatenate([state[1:], state[-1:]]),
                        "environment_state": np.tile(goal, (length, 1)).astype(np.float32),
                        "joint_position": joints,
                        "joint_command": joints,
                        "time_ns": np.arange(length, dtype=np.int64) * 50_000_000,
                    }
                )
            )
    return path
