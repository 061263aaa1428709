"""A trained pick_place policy through the daemon and the vendor's own client, beside its evaluation in simulation.

    python tests/claims/deploy/wire_success.py --work runs/claims/wire --out docs/results

Budget: full (about twenty minutes a robot; the deployed episodes are in real time). Per robot: 200 demonstrations on
its card, recipe pick_place/diffusion with seed 0, the last checkpoint; ``robopolicy eval`` on the first unseen
episodes, then the same episodes through ``robopolicy deploy deploy=rtc``: policy worker, real-time loop, driver on
the vendor's library (``ur-rtde`` at 500 Hz, the Feetech SDK), and the vendor's controller played on its own wire with
the MuJoCo scene behind it. What is finished in --work is not done again.

Target: success through the wire at most 5 points below ``eval`` (paired), no setpoint out of the envelope at the wire.
Control: the null policy through the same wire.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import paired_newcombe, wilson

ROBOTS = {"ur5e_2f85": "virtual_ur5e", "so101": "virtual_so101"}
DEMONSTRATIONS, WITHIN = 200, 0.05
COMMAND = "python tests/claims/deploy/wire_success.py --work runs/claims/wire --out docs/results"


def train(work: Path, card: str, steps: int) -> Path:
    """Run folder of the policy; resumed if cut."""
    store, run = work / f"{card}.zarr", work / card
    words: tuple[object, ...] = ("task=pick_place", f"embodiment={card}", f"episodes={DEMONSTRATIONS}", "workers=1")
    claim_run.robopolicy("collect", *words, f"out={store}", log=work / f"{card}_collect.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=work / f"{card}.log")
        else:
            words = ("recipe=pick_place/diffusion", "recipe.seed=0", "recipe.threads=1", "progress=false")
            limit = (f"recipe.stages.policy.steps={steps}",) if steps else ()
            claim_run.robopolicy("train", *words, *limit, f"data={store}", f"out={run}", log=work / f"{card}.log")
    return run


def evaluated(run: Path, episodes: int) -> dict[int, bool]:
    """Success by episode in simulation."""
    out = run / f"eval_{episodes}"
    if not (out / "report.html").is_file():
        words = (f"policy={run}", f"episodes={episodes}", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", *words, log=Path(f"{out}.log"))
    return {e.index: bool(e.success_once) for e in episodes_of(read_report(out))}


def deployed(policy: object, robot: str, out: Path, episodes: int) -> dict[str, Any]:
    """The block of ``robopolicy deploy``."""
    if not (out / "episodes.json").is_file():
        # the null policy cannot continue a chunk
        between = "deploy=default" if policy == "null" else "deploy=rtc"
        words = (policy, f"robot={robot}", between, f"episodes={episodes}", f"out={out}")
        claim_run.robopolicy("deploy", *words, log=Path(f"{out}.log"))
    block: dict[str, Any] = json.loads((out / "episodes.json").read_text())
    return block


def main() -> None:
    """Both robots, an entry each."""
    options = claim_run.arguments(__doc__.splitlines()[0], episodes=100, steps=0, robots=",".join(ROBOTS), only_train=0)
    work = options.work
    chosen = options.robots.split(",")
    runs = dict(
        zip(chosen, claim_run.run_all([partial(train, work, c, options.steps) for c in chosen], 1), strict=True)
    )
    sims = {card: evaluated(run, options.episodes) for card, run in runs.items()}
    print({card: sum(won.values()) for card, won in sims.items()}, flush=True)
    if options.only_train:
        return
    for card, run in runs.items():
        robot, sim = ROBOTS[card], sims[card]
        block = deployed(run, robot, work / f"{card}_wire", options.episodes)
        still = deployed("null", robot, work / f"{card}_null", max(options.episodes // 10, 3))
        real = {e["index"]: bool(e["success_once"]) for e in block["episodes"]}
        counts = [sum((real[i], sim[i]) == kind for i in sim) for kind in ((1, 1), (1, 0), (0, 1), (0, 0))]
        difference, low, high = paired_newcombe(*counts)
        violations = sum(block["violations"].values())
        result = ClaimResult(
            claim=f"pick_place on {card} through the vendor's client and wire: success as in simulation",
            source="own; ur-rtde 1.6.5, feetech-servo-sdk 1.0.0",
            command=COMMAND,
            commit=claim_run.commit(),
            target=f"difference to eval >= -{WITHIN}, 0 violations at the wire",
            value={
                "deploy": block["success_rate"],
                "eval": sum(sim.values()) / len(sim),
                "deploy wilson_95": block["wilson_95"],
                "difference": difference,
                "difference_95": [round(low, 4), round(high, 4)],
                "setpoint_hz": round(block["setpoint_hz"], 1),
                "missing setpoints": block["missing_setpoints"],
                "running ticks": block["running_ticks"],
                "violations at the wire": block["violations"],
                "worst share of the limits": {k: round(v, 3) for k, v in block["worst"].items()},
                "lateness_ms": block["lateness_ms"],
                "inference_ms": block["inference_ms"],
                "interruptions": block["interruptions"],
            },
            interval=wilson(block["successes"], block["n"]),
            n=block["n"],
            seeds=(0,),
            control={
                "what": f"null policy, {still['n']} episodes",
                "value": still["success_rate"],
                "failed": still["success_rate"] <= 0.05,
            },
            passed=bool(difference >= -WITHIN - 1e-9 and not violations and still["success_rate"] <= 0.05),
            cpu_s=claim_run.cpu_s(),
        )
        claim_run.write(result, options.out, "deploy", f"wire_success_{card}")


if __name__ == "__main__":
    main()
