"""Three unlike robots in every batch train one policy of the recipe; what a robot lacks has exactly no gradient.

    python tests/claims/data/mixture_trains.py --work runs/claims/mixture --out docs/results

Budget: full, about 20 minutes on one core (100 demonstrations per robot, success on unseen episodes of both arms);
--budget quick, about two minutes, trains briefly on few demonstrations and drives no arm. What is finished in --work is
not done again. The third robot has two arms of joints only; its reaches are made here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np
import torch
import yaml

from robopolicy import checkpoint
from robopolicy.config import build
from robopolicy.data.episode import Episode
from robopolicy.data.store import EpisodeStore
from robopolicy.embodiment import Arm, Channel, ChannelGroup, Embodiment
from robopolicy.errors import StoreNotFoundError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import read_report
from robopolicy.evaluation.statistics import wilson
from robopolicy.policies.loading import load_weights
from robopolicy.training.feed import open_source
from robopolicy.training.recipe import Recipe

RECIPE = "pick_place/diffusion"
ARMS, BIMANUAL = ("panda", "ur5e_2f85"), "two_arms"
SETTINGS = {
    "full": {"demonstrations": 100, "steps": 9000, "every": 500, "episodes": 100, "fall": 0.5},
    "quick": {"demonstrations": 8, "steps": 400, "every": 50, "episodes": 0, "fall": 0.8},
}
"""``fall``: the last validation loss of every robot is at most this share of that after a single step."""
LEAST_SUCCESS = 0.8


def bimanual() -> Embodiment:
    """Two arms of six joints with a gripper each, by their joints."""
    joints = [
        Channel(f"{side}.{name}", "normalised" if name == "gripper" else "rad", 0.0 if name == "gripper" else -3.0, low)
        for side in ("left", "right")
        for name, low in (*((f"joint{i}", 3.0) for i in range(6)), ("gripper", 1.0))
    ]
    return Embodiment(
        name=BIMANUAL,
        description="two arms of six joints",
        action_space="joint_position",
        state_space="joint_position",
        control_hz=20.0,
        setpoint_hz=20.0,
        joints=ChannelGroup(tuple(joints)),
        arms=tuple(Arm(side, gripper=f"{side}.gripper") for side in ("left", "right")),
        home={},
    )


def reaches(path: Path, episodes: int) -> None:
    """Smooth reaches of both arms to a goal that is observed; grippers close on the way. Continued if cut."""
    card = bimanual()
    arm = [n for n in card.joints.names if not n.endswith("gripper")]
    at = [card.joints.index(n) for n in arm]
    names = [f"goal.{n}" for n in arm]
    try:
        store = EpisodeStore.open(path, "a", embodiment=card)
    except StoreNotFoundError:
        store = EpisodeStore.create(path, card, task="reach", environment_state=names, joints=False)
    with store:
        for index in range(store.num_episodes, episodes):
            rng = np.random.default_rng([5, index])
            rows = int(rng.integers(60, 100))
            s = np.linspace(0, 1, rows + 1)[:, None]
            begin, goal = rng.uniform(-1.5, 1.5, (2, len(arm)))
            q = np.repeat(s < 0.7, len(card.joints), axis=1).astype(np.float32)
            q[:, at] = begin + (goal - begin) * s**3 * (10 - 15 * s + 6 * s * s)
            streams = {
                "state": q[:-1],
                "action": q[1:],
                "environment_state": np.repeat(goal[None], rows, axis=0).astype(np.float32),
                "time_ns": np.arange(rows, dtype=np.int64) * 50_000_000,
            }
            store.append(Episode(streams, "reach", True, {"index": index}))


def prepare(work: Path, demonstrations: int) -> Path:
    """The three stores and the YAML of their mixture, in equal shares."""
    for name in ARMS:
        words = ("task=pick_place", f"embodiment={name}", f"episodes={demonstrations}", "workers=1")
        claim_run.robopolicy("collect", *words, f"out={work / name}.zarr", log=work / "collect.log")
    reaches(work / f"{BIMANUAL}.zarr", demonstrations)
    path = work / "mixture.yaml"
    stores = [{"path": str(work / f"{name}.zarr"), "weight": 1.0} for name in (*ARMS, BIMANUAL)]
    path.write_text(yaml.safe_dump({"stores": stores}))
    return path


def train(run: Path, mixture: Path, settings: dict[str, Any]) -> None:
    """By the recipe as it is, but for the number of steps; resumed if cut."""
    log = Path(f"{run}.log")
    if (run / "train.json").is_file():
        return
    if (run / "config.yaml").is_file():
        claim_run.robopolicy("train", "--resume", run, log=log)
        return
    stage = "recipe.stages.policy"
    words = (f"{stage}.steps={settings['steps']}", f"{stage}.validation.every={settings['every']}")
    words = (*words, f"{stage}.validation.fraction=0.1", "recipe.threads=1", "progress=false")
    claim_run.robopolicy("train", f"recipe={RECIPE}", f"data={mixture}", f"out={run}", *words, log=log)


def validation(run: Path) -> dict[str, float]:
    """Robot -> its last validation loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = (*ARMS, BIMANUAL)
    return {n: [row[f"validation_loss/{n}"] for row in rows if f"validation_loss/{n}" in row][-1] for n in names}


def largest_gradient(policy: Any, batch: Any, absent: torch.Tensor) -> float:
    """Of the loss by actions and by what the network says, over entries that a robot does not have."""
    said: list[torch.Tensor] = []
    denoise = policy.inner.unet.denoise

    def recorded(x: torch.Tensor, films: Any) -> torch.Tensor:
        said.append(denoise(x, films))
        said[0].retain_grad()
        return said[0]

    action = batch.action.clone().requires_grad_(True)
    policy.inner.unet.denoise = recorded
    rng = torch.Generator().manual_seed(0)
    policy.loss(dataclasses.replace(batch, action=action), rng=rng).total.backward()
    del policy.inner.unet.denoise
    assert action.grad is not None
    gradients = (action.grad[..., policy.action_at], said[0].grad)
    return max(float(g[absent[..., policy.action_at]].abs().max()) for g in gradients if g is not None)


def masked_gradients(run: Path, mixture: Path, batches: int = 20) -> tuple[float, float, int]:
    """(with masks, with masks removed, robots per batch at least) over training batches at the trained weights."""
    stored = checkpoint.load(checkpoint.find(run))
    recipe = build(Recipe, stored.document("recipe"), where="recipe")
    stage = recipe.stages["policy"]
    feed = open_source(mixture).feed(stage, "policy", recipe, stage.batch_size)
    load_weights(feed.policy, stored.tensors("weights"), run)
    assert feed.order is not None
    order = feed.order(recipe.seed, 0, batches, stage.batch_size)
    masked, unmasked, fewest = 0.0, 0.0, 3
    for batch in feed.train.batches(order.reshape(-1)):
        fewest = min(fewest, len(set(batch.embodiment_index.tolist())))
        absent = ~batch.action_mask.any(1)[:, None].expand_as(batch.action)
        masked = max(masked, largest_gradient(feed.policy, batch, absent))
        without = dataclasses.replace(batch, action_mask=torch.ones_like(batch.action_mask))
        unmasked = max(unmasked, largest_gradient(feed.policy, without, absent))
    return masked, unmasked, fewest


def main() -> None:
    """Run what is missing, then write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], budget="full")
    settings, work = SETTINGS[options.budget], options.work
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    mixture, run = prepare(work, settings["demonstrations"]), work / "run"
    train(run, mixture, settings)
    train(work / "untrained", mixture, {**settings, "steps": 1, "every": 1})
    before, after = validation(work / "untrained"), validation(run)
    losses = {name: (before[name], after[name]) for name in after}
    masked, unmasked, fewest = masked_gradients(run, mixture)
    success, trials = {}, settings["episodes"]
    for name in ARMS if trials else ():
        out = run / f"eval_{name}"
        if not (out / "report.html").is_file():
            words = (f"policy={run}", f"embodiment={name}", f"episodes={trials}", "workers=1", f"out={out}")
            claim_run.robopolicy("eval", *words, log=Path(f"{run}.log"))
        success[name] = read_report(out)["success_rate"]
    falls = all(last <= settings["fall"] * first for first, last in losses.values())
    reached = masked == 0.0 and fewest == 3 and falls and all(rate >= LEAST_SUCCESS for rate in success.values())
    solved = round(sum(success.values()) * trials)
    result = ClaimResult(
        claim=f"{RECIPE} on three robots in every batch: loss falls for each, "
        + ("one policy solves unseen episodes of both arms, " if trials else "")
        + "the gradient of what a robot lacks is exactly 0",
        source="Liu et al. 2024, arXiv 2410.07864 (slots and masks); Chi et al. 2023, arXiv 2303.04137 (recipe)",
        command="python tests/claims/data/mixture_trains.py --work runs/claims/mixture --out docs/results"
        + (" --budget quick" if options.budget == "quick" else ""),
        commit=claim_run.commit(),
        target=f"masked gradient == 0.0; last validation loss <= {settings['fall']} of that after one step"
        + (f"; success >= {LEAST_SUCCESS} on both arms" if trials else ""),
        value={
            "masked_gradient": masked,
            "robots_per_batch": fewest,
            "validation_loss": {name: [round(v, 4) for v in pair] for name, pair in losses.items()},
            "success": success,
            "demonstrations_per_robot": settings["demonstrations"],
            "steps": settings["steps"],
        },
        interval=wilson(solved, trials * len(ARMS)) if trials else None,
        n=trials * len(ARMS) if trials else None,
        seeds=[0],
        control={"what": "largest gradient there, masks removed", "value": unmasked, "failed": unmasked > 0.0},
        passed=bool(reached and unmasked > 0.0),
        cpu_s=claim_run.recorded_cpu_s(run),
    )
    claim_run.write(result, options.out, "data", "mixture_trains")


if __name__ == "__main__":
    main()
