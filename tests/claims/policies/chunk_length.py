"""How many steps of a chunk to execute: enough to get past a pause, few enough to see a push.

    python tests/claims/policies/chunk_length.py --work runs/claims/chunk_length --out docs/results

Budget: full; two short training runs on one core, then episodes of the toy world of point_world.py. One policy
(To 2, Tp 16) is trained on demonstrations that stay idle for eight steps before the start and after the disc, one on
the same demonstrations without pauses; what is finished in --work is not done again. Both act with Ta of 1, 8 and all
that a chunk has (Tp - To + 1 = 15), on the same episodes, paired. Two entries:

- with pauses, Ta = 8 is at least as good as Ta = 1. A policy of single steps cannot tell how long it has waited, so it
  waits for a random time; a chunk that is longer than the pause contains its end. Control: without pauses nothing is
  left of the difference.
- under a push across the disc, all of a chunk is worse than Ta = 8: what is left of it was planned from the other side.
  Control: without a push nothing is left of the difference. The verdict is on the policy without pauses, since a
  pushed point that still waits has not begun a plan that could be wrong; figures of the other are reported.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import claim_run
import point_world

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.files import read_json, write_json
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe

PAUSE = 8
"""Steps of idling, twice in each demonstration."""
STORES = {"pauses": (PAUSE, PAUSE), "none": (0, 0)}
LENGTHS = (1, 8, 15)
PUSH_M = 1.1
WORST = -0.05
"""The lower end of the gain of Ta = 8 over Ta = 1 must not be below: no worse, up to this margin."""
AT_ALL = 0.5
"""Success with Ta = 8 below which "no worse" would say nothing."""
GONE = 0.05
"""A difference of at most this, or one whose interval contains 0, is none."""
COMMAND = "python tests/claims/policies/chunk_length.py --work runs/claims/chunk_length --out docs/results"

Gain = tuple[float, float, float]


def wins(
    work: Path, policy: str, kind: str, steps: int, demonstrations: int, episodes: int, seed: int
) -> dict[str, Any]:
    """Success of every episode by ``<Ta>/<push>``; made once."""
    path = work / f"{policy}_{kind}_{steps}_seed{seed}_{episodes}.json"
    if path.is_file():
        return read_json(path, "success of episodes")
    store = work / f"{kind}_{demonstrations}_seed{seed}.zarr"
    if not store.exists():  # renamed into place, so that a store that was cut is not taken for a whole one
        half = store.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        point_world.make_store(half, demonstrations, seed, STORES[kind])
        half.rename(store)
    recipe = point_world.recipe(policy, {}, steps, seed)
    trained = point_world.train(recipe, store, work / f"{policy}_{kind}_{demonstrations}_{steps}_seed{seed}")
    found: dict[str, Any] = {"steps": {}}
    for length in LENGTHS:
        for push in (0.0, PUSH_M):
            outcomes = point_world.run(trained, episodes, seed, length, push)
            found[f"{length}/{push:g}"] = [bool(o.success) for o in outcomes]
            found["steps"][f"{length}/{push:g}"] = sum(o.steps for o in outcomes) / len(outcomes)
    write_json(path, found)
    return found


def gain(one: Sequence[bool], other: Sequence[bool]) -> Gain:
    """(difference of the success rates, lower, upper), paired."""
    pairs = list(zip(one, other, strict=True))
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return paired_newcombe(*(pairs.count(kind) for kind in kinds))


def p_value(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Exact, that both succeed equally often."""
    pairs = list(zip(one, other, strict=True))
    return mcnemar_exact(pairs.count((True, False)), pairs.count((False, True)))


def gone(difference: Gain) -> bool:
    """Whether there is nothing to speak of."""
    return abs(difference[0]) <= GONE or difference[1] <= 0 <= difference[2]


def rates(found: dict[str, Any], push: float) -> dict[str, float]:
    """Success rate and mean length of the episodes of each Ta."""
    shown = {}
    for length in LENGTHS:
        won = found[f"{length}/{push:g}"]
        shown[f"Ta={length}"] = round(sum(won) / len(won), 4)
        shown[f"Ta={length}_steps"] = round(found["steps"][f"{length}/{push:g}"], 1)
    return shown


def past_pauses(found: dict[str, dict[str, Any]], shared: dict[str, Any]) -> ClaimResult:
    """Ta = 8 against Ta = 1, nobody pushes."""
    with_, without = (gain(found[kind]["8/0"], found[kind]["1/0"]) for kind in STORES)
    nothing, shown = gone(without), rates(found["pauses"], 0.0)
    return ClaimResult(
        claim="With idle pauses in the demonstrations, executing 8 steps of a chunk is at least as good as executing 1",
        source="Chi et al. 2023, arXiv 2303.04137, section 4.3 (idle actions) and figure 6 (action horizon)",
        target=f"lower end of the gain >= {WORST}, success of Ta = 8 >= {AT_ALL}",
        value={"gain": with_[0], "pauses": shown, "none": rates(found["none"], 0.0)},
        interval=with_[1:],
        n=len(found["pauses"]["8/0"]),
        control={
            "what": "gain on the same demonstrations without pauses, with its interval",
            "value": [round(v, 4) for v in without],
            "failed": nothing,
        },
        passed=bool(nothing and with_[1] >= WORST and shown["Ta=8"] >= AT_ALL),
        **shared,
    )


def under_push(found: dict[str, dict[str, Any]], shared: dict[str, Any]) -> ClaimResult:
    """Ta = 8 against all of a chunk, pushed."""
    own, last = found["none"], LENGTHS[-1]
    pushed = gain(own[f"8/{PUSH_M:g}"], own[f"{last}/{PUSH_M:g}"])
    p = p_value(own[f"8/{PUSH_M:g}"], own[f"{last}/{PUSH_M:g}"])
    calm = gain(own["8/0"], own[f"{last}/0"])
    nothing = gone(calm)
    return ClaimResult(
        claim="Under a push, executing all of a chunk is worse than executing 8 of its steps",
        source="Chi et al. 2023, arXiv 2303.04137, figure 6 (action horizon)",
        target="lower end of the gain > 0",
        value={
            "gain": pushed[0],
            "p_mcnemar": p,
            "none": rates(own, PUSH_M),
            "pauses": rates(found["pauses"], PUSH_M),
            "push_m": PUSH_M,
        },
        interval=pushed[1:],
        n=len(own["8/0"]),
        control={
            "what": "the same gain without a push, with its interval",
            "value": [round(v, 4) for v in calm],
            "failed": nothing,
        },
        passed=bool(nothing and pushed[1] > 0),
        **shared,
    )


def main() -> None:
    """Run what is missing, then write the entries."""
    extra = {"policy": "diffusion", "steps": 3000, "demonstrations": 400, "episodes": 400, "seed": 0}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    sizes = (options.steps, options.demonstrations, options.episodes, options.seed)
    found = {kind: wins(work, options.policy, kind, *sizes) for kind in STORES}
    shared = {
        "command": COMMAND,
        "commit": claim_run.commit(),
        "seeds": (options.seed,),
        "cpu_s": max(claim_run.cpu_s(), claim_run.recorded_cpu_s(work)),
    }
    claim_run.write(past_pauses(found, shared), options.out, "policies", "chunk_length_pauses")
    claim_run.write(under_push(found, shared), options.out, "policies", "chunk_length_push")


if __name__ == "__main__":
    main()
