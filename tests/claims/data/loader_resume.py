"""Ten training steps from images equal five, a checkpoint and five more, bit for bit: every tier, 0, 1 and 2 workers.

    python tests/claims/data/loader_resume.py --work runs/loader_resume --out docs/results

Budget: quick, a few minutes. A tiny image policy is trained through the trainer as a user would; the run is cut back to
its fifth step and resumed. Besides, all runs of one order of samples must end with the same weights, whatever the tier
and the number of workers. The control is a run from another seed.
"""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np
import torch

from robopolicy import checkpoint
from robopolicy.data.bench.synthetic import camera_frames
from robopolicy.data.episode import Episode
from robopolicy.data.split import train_val_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment import Camera, load_embodiment
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator
from robopolicy.training.run import resume, train

SIZE, EPISODES, STEPS = 96, 6, 30
TIERS: dict[str, dict[str, Any]] = {
    "decoded RAM": {"cache_gib": 4.0},
    "decoded file": {"cache_gib": 0.0, "cache_folder": "cache"},
    "encoded": {"cache_gib": 0.002},
    "stream": {"cache_gib": 0.0},
}
WORKERS = (0, 1, 2)
RECIPE: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "threads": 1,
    "stages": {
        "policy": {
            "policy": "diffusion",
            "steps": 10,
            "batch_size": 12,
            "checkpoint_every": 5,
            "parameters": {
                "environment_state": False,
                "cameras": ["front"],
                "unet": {"down": [16, 32], "step_dim": 16},
                "vision": {"backbone": "CompactConv", "keypoints": 8, "feature_dim": 16, "crop": SIZE - 4},
                "sampler": {"steps": 4},
            },
            "validation": {"fraction": 0.2, "every": 0},
        }
    },
}


def write_store(path: Path) -> None:
    """JPEG frames and a smooth motion."""
    card = load_embodiment("panda")
    camera = Camera("front", SIZE, SIZE, 60.0, "world", (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    with EpisodeStore.create(path, card, task="reach", cameras=[camera], joints=False, codec="jpeg") as store:
        for i in range(EPISODES):
            rng = generator("loader_resume", i)
            turn = np.tile([1, 0, 0, 0, -1, 0.0], (STEPS, 1))
            place = rng.uniform(0.3, 0.6, 3) + np.linspace(0, 0.1, STEPS)[:, None] * rng.normal(size=3)
            state = np.concatenate([place, turn, np.linspace(1, 0, STEPS)[:, None]], axis=1).astype(np.float32)
            streams: dict[str, Any] = {"state": state, "action": np.concatenate([state[1:], state[-1:]])}
            streams["time_ns"] = np.arange(STEPS) * round(1e9 / store.fps)
            streams["image/front"] = camera_frames(rng, STEPS, SIZE, SIZE)
            store.append(Episode(streams))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights, averaged weights and optimiser state of the newest checkpoint."""
    stored = checkpoint.load(checkpoint.latest(run))
    assert stored.document("trainer")["step"] == 10
    return {f"{f}:{k}": v for f in ("weights", "ema", "optimizer") for k, v in stored.tensors(f).items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


def one_case(work: Path, store: Path, tier: str, workers: int, seed: int = 3) -> tuple[dict[str, torch.Tensor], bool]:
    """Weights after ten steps, and whether five and five gave the same."""
    recipe = {**copy.deepcopy(RECIPE), **TIERS[tier], "workers": workers, "seed": seed}
    if "cache_folder" in recipe:
        recipe["cache_folder"] = str(work / "cache")
    _check_tier(store, tier, recipe, seed)
    run, cut = work / f"{tier} {workers} {seed}".replace(" ", "_"), work / "cut"
    for folder in (run, cut):
        shutil.rmtree(folder, ignore_errors=True)
    train(recipe, store, run, progress=False)
    shutil.copytree(run, cut)
    for path in (cut / "checkpoints").glob("*/step_*10"):
        shutil.rmtree(path)
    resume(cut, progress=False)
    whole = weights(run)
    return whole, same(whole, weights(cut))


def _check_tier(store: Path, tier: str, recipe: dict[str, Any], seed: int) -> None:
    """The settings really lead to the tier that is meant."""
    opened = EpisodeStore.open(store)
    training, _ = train_val_episodes(opened.num_episodes, 0.2, seed)
    nbytes = round(recipe["cache_gib"] * 2**30) * len(training) // opened.num_episodes
    spec = WindowSpec(2, 16, environment_state=False, cameras=("front",))
    found = WindowDataset(opened, spec, training, cache_bytes=nbytes, cache_folder=recipe.get("cache_folder")).tiers
    if found != {"front": tier}:
        raise SystemExit(f"{recipe} gives {found}, not {tier}")


def main() -> None:
    """Every tier with every number of workers."""
    arguments = claim_run.arguments(__doc__ or "")
    store = arguments.work / "reach.zarr"
    if not store.exists():
        arguments.work.mkdir(parents=True, exist_ok=True)
        write_store(store)
    exact, ended = 0, {}
    for tier in TIERS:
        for workers in WORKERS:
            ended[tier, workers], resumed = one_case(arguments.work, store, tier, workers)
            exact += resumed
            print(f"{tier}, {workers} workers: {'the same' if resumed else 'DIFFERENT'}")
    whole, local = ended["decoded RAM", 0], ended["stream", 0]
    alike = sum(same(found, whole if tier.startswith("decoded") else local) for (tier, _), found in ended.items())
    other, _ = one_case(arguments.work, store, "decoded RAM", 0, seed=4)
    failed = not same(other, whole)
    result = ClaimResult(
        claim="Training from images resumes bit for bit for every tier of the loader and any number of workers",
        source="ten steps, or five, a checkpoint and five; weights, averaged weights and optimiser state",
        command=f"python tests/claims/data/{Path(__file__).name} --work runs/loader_resume --out docs/results",
        commit=claim_run.commit(),
        target=f"{len(ended)} of {len(ended)}",
        value={"resumed exactly": exact, "equal to the other tiers and workers": alike, "cases": len(ended)},
        interval=None,
        n=len(ended),
        seeds=[3],
        control={"what": "another seed gives other weights", "value": None, "failed": failed},
        passed=bool(exact == alike == len(ended) and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, arguments.out, "data", Path(__file__).stem)


if __name__ == "__main__":
    main()
