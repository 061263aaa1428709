"""Reports are the same bit for bit for any number of workers and any order; episodes do not touch each other.

    python tests/claims/simulation/independence.py --work runs/claims/independence --out docs/results

Budget: quick, about 3 minutes of CPU. The controls are runners that let episodes touch, on purpose: environments that
start their next episode by themselves, and an arm that begins where the episode before it ended.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sim"))
import claim_run
from sim_independence import autoreset, carried_over, depends_on_others, fingerprint, ours
from sim_shared_policies import tiny_diffusion

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.sim.rollout import rollout

POLICIES = ("expert", "null", "random")
EPISODES = 20
SHUFFLES = ((1, None), (2, None), (4, None), (1, 0), (2, 1), (4, 2))
"""Workers, and the seed of the order, None for the order of the indices."""


def order_of(seed: int | None) -> list[int]:
    """The indices in some order."""
    indices = list(range(EPISODES))
    return indices if seed is None else random.Random(seed).sample(indices, EPISODES)


def different_reports(policy: str) -> int:
    """Number of different reports over all numbers of workers and orders; 1 if nothing matters."""
    plan = dict.fromkeys(range(EPISODES), policy)
    return len({fingerprint(list(ours(plan, workers=w, order=order_of(s)).values()), policy) for w, s in SHUFFLES})


def different_shared_reports() -> int:
    """The same for a diffusion policy with random weights that one process holds for all workers."""
    found = set()
    for workers, seed in SHUFFLES:
        results = rollout(
            tiny_diffusion,
            task="pick_place",
            embodiment="panda",
            episodes=order_of(seed),
            workers=workers,
            inference="shared",
            max_steps=60,
        )
        found.add(fingerprint(results, "diffusion"))
    return len(found)


def main() -> None:
    """Run it, write the ledger entry."""
    options = claim_run.arguments(__doc__ or "")
    options.work.mkdir(parents=True, exist_ok=True)
    reports = {policy: different_reports(policy) for policy in POLICIES}
    reports["diffusion, shared inference"] = different_shared_reports()
    watched, others = list(range(1, 10, 2)), list(range(0, 10, 2))
    touched = len(depends_on_others(ours, watched, others))
    caught = {runner.__name__: len(depends_on_others(runner, watched, others)) for runner in (autoreset, carried_over)}
    failed = all(count > 0 for count in caught.values())
    value = {f"different reports, {name}": count for name, count in reports.items()}
    value["episodes that change with the outcome of others"] = touched
    result = ClaimResult(
        claim="pick_place: reports of 1, 2 and 4 workers in any order are equal bit for bit, all but times, and no "
        "episode depends on the outcome of another",
        source="public defects of other evaluators: results that depend on vectorisation and on when others finish",
        command="python tests/claims/simulation/independence.py --work runs/claims/independence --out docs/results",
        commit=claim_run.commit(),
        target="1 report per policy, 0 episodes that change",
        value=value,
        interval=None,
        n=EPISODES * len(SHUFFLES) * len(reports),
        seeds=[seed for _, seed in SHUFFLES if seed is not None],
        control={"what": "runners that let episodes touch: changed episodes of 5", "value": caught, "failed": failed},
        passed=set(reports.values()) == {1} and touched == 0 and failed,
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "simulation", "independence")


if __name__ == "__main__":
    main()
