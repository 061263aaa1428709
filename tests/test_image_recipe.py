"""The image recipe as a process chain: collect with cameras, train, stop, resume, load, act."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy import checkpoint
from robopolicy.cli.main import main
from robopolicy.data.store import EpisodeStore
from robopolicy.policies import load_policy
from robopolicy.sim.collect import collect
from robopolicy.types import Observation

SMALL = (
    *("recipe=pick_place/diffusion_image", "progress=false", "recipe.threads=1"),
    *("recipe.stages.policy.batch_size=4", "recipe.stages.policy.parameters.unet.down=[8,16]"),
    *("recipe.stages.policy.parameters.unet.step_dim=8", "recipe.stages.policy.validation.every=0"),
    *("recipe.stages.policy.checkpoint_every=2", "recipe.stages.policy.optimizer.warmup_steps=1"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("image_recipe") / "pick.zarr"
    collect("pick_place", "panda", 2, path, cameras=("front", "wrist"))
    return path


def test_train_resume_and_act(store, tmp_path):
    run = tmp_path / "run"
    assert main(["train", *SMALL, "recipe.stages.policy.steps=4", f"data={store}", f"out={run}"]) == 0
    newest = checkpoint.latest(run)
    weights = checkpoint.load(newest).tensors("ema")
    # Go back to step 2 and do the rest again: the same bits, cameras, crops and averages included.
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    (run / "train.json").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    again = checkpoint.load(checkpoint.latest(run)).tensors("ema")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    raw = checkpoint.load(checkpoint.latest(run)).tensors("weights")
    learnt = [n for n in raw if n.endswith("weight") and "vision" in n]
    assert learnt
    assert all(not torch.equal(raw[n], again[n]) for n in learnt)  # every encoder weight has its own average

    policy = load_policy(run)
    with EpisodeStore.open(store) as opened:
        observation = Observation(
            state=np.array(opened.read("state", 3, 5)),
            time_ns=np.array([50_000_000, 100_000_000]),
            embodiment=opened.embodiment.hash,
            image={name: np.array(opened.read(f"image/{name}", 3, 5)) for name in ("front", "wrist")},
        )
    chunk = policy.act(observation, rng=0)
    assert chunk.values.shape == (15, 10)
    blind = {name: np.zeros_like(frames) for name, frames in observation.image.items()}
    other = policy.act(Observation(observation.state, observation.time_ns, observation.embodiment, blind), rng=0)
    assert not np.allclose(chunk.values, other.values)  # it looks
