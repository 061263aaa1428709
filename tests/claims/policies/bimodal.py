"""Demonstrations that pass left and right of a disc: denoising policies keep both ways, regression runs into the disc.

    python tests/claims/policies/bimodal.py --work runs/claims/bimodal --out docs/results

Budget: full; one training run of some minutes on one core for every policy and seed, finished ones are not done again.
The world is tests/claims/policies/point_world.py: 400 demonstrations, and 200 unseen episodes per policy and seed. All
policies have the same sizes, demonstrations, steps and seeds. Each entry of the ledger is one policy: the share of
episodes that pass on each side, and of those that touch the disc. Behaviour cloning is the control of all of them: it
must collide in most.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import point_world

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.statistics import wilson

CONTROL = "behaviour_cloning"
POLICIES = {
    "diffusion": {},
    "flow": {},
    "beso": {
        "goal_dropout": 0.0,
        "gpt": {"width": 64, "layers": 3, "heads": 4, "attention_dropout": 0.0},
        # the published three steps decide between the ways too late; so do few deterministic ones
        "sampler": {"kind": "euler_ancestral", "steps": 10},
    },
    CONTROL: {},
}
"""Registry name -> what is laid over the sizes of the world's recipe."""
LEAST_SIDE, MOST_SIDE, MOST_COLLISIONS, LEAST_OF_CONTROL = 0.3, 0.7, 0.05, 0.5
UNDECIDED_M = 0.3
"""Wider than the disc: whoever is before it may go either way. With a narrow band the mean of both ways leads out of it
before the disc, and regression gets around."""
COMMAND = "python tests/claims/policies/bimodal.py --work runs/claims/bimodal --out docs/results"


def outcomes(work: Path, name: str, seeds: int, steps: int, episodes: int) -> list[point_world.Outcome]:
    """Episodes of all seeds of one policy."""
    found = []
    for seed in range(seeds):
        recipe = point_world.recipe(name, POLICIES[name], steps, seed)
        policy = point_world.train(recipe, work / "points.zarr", work / f"{name}_{steps}_seed{seed}")
        found += point_world.run(policy, episodes, 100 + seed)
    return found


def shares(found: list[point_world.Outcome]) -> dict[str, float]:
    """What the episodes did, each as a share of all of them."""
    count = len(found)
    return {
        "left": sum(o.side == "left" and not o.collided for o in found) / count,
        "right": sum(o.side == "right" and not o.collided for o in found) / count,
        "collided": sum(o.collided for o in found) / count,
        "success": sum(o.success for o in found) / count,
    }


def main() -> None:
    """Train and run what is missing, then write the entries."""
    options = claim_run.arguments(__doc__.splitlines()[0], steps=2000, episodes=200, seeds=3, demonstrations=400)
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "points.zarr").exists():
        point_world.make_store(work / "points.zarr", options.demonstrations, 0, undecided_m=UNDECIDED_M).close()
    found = {name: outcomes(work, name, options.seeds, options.steps, options.episodes) for name in POLICIES}
    value = {name: shares(rows) for name, rows in found.items()}
    control = value[CONTROL]["collided"]
    for name in POLICIES:
        if name == CONTROL:
            continue
        own, rows = value[name], found[name]
        both = all(LEAST_SIDE <= own[side] <= MOST_SIDE for side in ("left", "right"))
        result = ClaimResult(
            claim=f"{name} keeps both ways of bimodal demonstrations and does not average them",
            source="Chi et al. 2023, arXiv 2303.04137, section 4.1",
            target=f"each side {LEAST_SIDE}..{MOST_SIDE} of the episodes, collisions < {MOST_COLLISIONS}",
            command=COMMAND,
            commit=claim_run.commit(),
            value={**own, "steps": options.steps},
            interval=wilson(sum(o.collided for o in rows), len(rows)),
            n=len(rows),
            seeds=tuple(range(options.seeds)),
            control={
                "what": "share of collisions of behaviour cloning on the same sizes and demonstrations",
                "value": control,
                "failed": control > LEAST_OF_CONTROL,
            },
            cpu_s=claim_run.recorded_cpu_s(*work.glob(f"{name}_{options.steps}_seed*")),
            passed=bool(both and own["collided"] < MOST_COLLISIONS and control > LEAST_OF_CONTROL),
        )
        claim_run.write(result, options.out, "policies", f"bimodal_{name}")


if __name__ == "__main__":
    main()
