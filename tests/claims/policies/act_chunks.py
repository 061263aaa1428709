"""ACT predicts chunks because single steps of a deterministic policy do not get past a pause; and what its CVAE does.

    python tests/claims/policies/act_chunks.py --work runs/claims/act_chunks --out docs/results

Budget: full; eight short training runs on one core, then episodes of the toy world of point_world.py. All policies have
the same network, rate and number of steps; what is finished in --work is not done again.

- one style (all demonstrations pass the disc on the right, the left ones mirrored), idle for eight steps before the
  start and after the disc: chunks of 20 against chunks of 1. Where most demonstrations of a place are idle, the least
  absolute error of the next step is to stay, for ever. Control: without pauses nothing is left of the gain.
- two styles (both sides of the disc) and noise on the commands: with and without the CVAE, the noise's control being
  one style without noise. The entry reports; what the latent is for is to take the style out of the regression, and
  the verdict is only that chunks with it are no worse, and succeed at all: z = 0 may lie between the styles.
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
import numpy as np
import point_world
from chunk_length import gain, gone, p_value

from robopolicy.data.store import Episode, EpisodeStore
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.files import read_json, write_json
from robopolicy.seeding import generator

PAUSE, NOISE_M = 8, 0.03
"""Steps of idling, twice in each demonstration; standard deviation of the noise on demonstrated commands."""
CHUNK, EXECUTED = 20, 10
LEAST_GAIN = 0.2
NO_WORSE, AT_ALL = -0.05, 0.2
"""Of the CVAE: lower end of its gain, and success with it, below which "no worse" would say nothing."""
NETWORK = {"width": 64, "heads": 4, "feedforward": 128, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
STORES = {
    "one_style_pauses": {"pause": PAUSE, "styles": 1, "noise_m": 0.0},
    "one_style": {"pause": 0, "styles": 1, "noise_m": 0.0},
    "two_styles_noise": {"pause": 0, "styles": 2, "noise_m": NOISE_M},
}
POLICIES = {
    "chunk_20": {"prediction_horizon": CHUNK, "action_horizon": EXECUTED, "latent": 8},
    "chunk_1": {"prediction_horizon": 1, "action_horizon": 1, "latent": 8},
    "no_cvae": {"prediction_horizon": CHUNK, "action_horizon": EXECUTED, "latent": 0},
}
RUNS = (
    ("one_style_pauses", "chunk_20"),
    ("one_style_pauses", "chunk_1"),
    ("one_style", "chunk_20"),
    ("one_style", "chunk_1"),
    ("one_style", "no_cvae"),
    ("two_styles_noise", "chunk_20"),
    ("two_styles_noise", "chunk_1"),
    ("two_styles_noise", "no_cvae"),
)
COMMAND = "python tests/claims/policies/act_chunks.py --work runs/claims/act_chunks --out docs/results"


def demonstration(seed: int, index: int, pause: int, styles: int, noise_m: float) -> Episode:
    """One demonstration; of one style those on the left are mirrored."""
    rng = generator("act_chunks", seed, index)
    states, commands = point_world.demonstrate(rng, (pause, pause))
    if styles == 1 and states[:, 0].mean() < 0:
        states, commands = states * (-1.0, 1.0), commands * (-1.0, 1.0)
    commands = commands + rng.normal(0, noise_m, commands.shape) if noise_m else commands
    time_ns = np.arange(1, len(states) + 1, dtype=np.int64) * 100_000_000
    return Episode({"state": states, "action": commands, "time_ns": time_ns}, success=True)


def make_store(path: Path, demonstrations: int, seed: int, **kind: Any) -> Path:
    """A store of demonstrations; renamed into place, so that one that was cut is not taken for a whole one."""
    if not path.exists():
        half = path.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        with EpisodeStore.create(half, point_world.card(), task="point_world", joints=False) as store:
            store.append_many([demonstration(seed, index, **kind) for index in range(demonstrations)])
        half.rename(path)
    return path


def recipe(policy: str, steps: int, seed: int) -> dict[str, Any]:
    """As the toy world's own, with ACT's network, horizons and optimiser."""
    chosen = POLICIES[policy]
    network = {**NETWORK, "latent": chosen["latent"]}
    horizons = {name: chosen[name] for name in ("prediction_horizon", "action_horizon")}
    made = point_world.recipe(
        "act", {**horizons, "observation_horizon": 1, "kl_weight": 1.0, "act": network}, steps, seed
    )
    stage = made["stages"]["policy"]
    del stage["parameters"]["unet"]
    stage["optimizer"] = {"lr": 1.0e-3, "betas": [0.9, 0.999], "warmup_steps": min(100, steps), "clip_norm": 1.0}
    return made


def outcomes(work: Path, kind: str, policy: str, options: Any) -> dict[str, Any]:
    """Success and side of every episode; made once."""
    name = f"{kind}_{options.demonstrations}_seed{options.seed}"
    path = work / f"{name}_{policy}_{options.steps}_{options.episodes}.json"
    if path.is_file():
        return read_json(path, "success of episodes")
    store = make_store(work / f"{name}.zarr", options.demonstrations, options.seed, **STORES[kind])
    run = work / f"{name}_{policy}_{options.steps}"
    trained = point_world.train(recipe(policy, options.steps, options.seed), store, run)
    found = point_world.run(trained, options.episodes, options.seed)
    sides = [o.side for o in found]
    return write_json(
        path,
        {
            "success": [bool(o.success) for o in found],
            "collided": sum(o.collided for o in found),
            "sides": {side: sides.count(side) for side in ("left", "right", "none")},
        },
    )


def rate(won: Sequence[bool]) -> float:
    """Share of successes."""
    return round(sum(won) / len(won), 4)


def summary(found: dict[tuple[str, str], dict[str, Any]], kind: str) -> dict[str, Any]:
    """What each policy did on one kind of demonstrations."""
    return {
        policy: {"success": rate(one["success"]), "collided": one["collided"], "sides": one["sides"]}
        for (own, policy), one in found.items()
        if own == kind
    }


def chunks(found: dict[tuple[str, str], dict[str, Any]], shared: dict[str, Any]) -> ClaimResult:
    """Chunks of 20 against chunks of 1."""

    def both(kind: str) -> tuple[list[bool], list[bool]]:
        return found[kind, "chunk_20"]["success"], found[kind, "chunk_1"]["success"]

    with_, without = gain(*both("one_style_pauses")), gain(*both("one_style"))
    nothing = gone(without)
    return ClaimResult(
        claim="ACT with chunks of 20 gets past idle pauses of demonstrations, the same network with 1 does not",
        source="Zhao et al. 2023, arXiv 2304.13705, sections IV.A and VI.A (k = 1 against k = 100)",
        target=f"gain >= {LEAST_GAIN}, lower end > 0",
        value={
            "gain": with_[0],
            "p_mcnemar": p_value(*both("one_style_pauses")),
            "pauses": summary(found, "one_style_pauses"),
        },
        interval=with_[1:],
        n=len(found["one_style", "chunk_1"]["success"]),
        control={
            "what": "the same gain on demonstrations without pauses, with its interval",
            "value": [round(v, 4) for v in without],
            "failed": nothing,
        },
        passed=bool(nothing and with_[0] >= LEAST_GAIN and with_[1] > 0),
        **shared,
    )


def latent(found: dict[tuple[str, str], dict[str, Any]], shared: dict[str, Any]) -> ClaimResult:
    """With and without the CVAE; reported."""

    def both(kind: str) -> tuple[list[bool], list[bool]]:
        return found[kind, "chunk_20"]["success"], found[kind, "no_cvae"]["success"]

    noisy, clean = gain(*both("two_styles_noise")), gain(*both("one_style"))
    nothing = gone(clean)
    return ClaimResult(
        claim="On noisy demonstrations of two styles, ACT with its CVAE is no worse than without",
        source="Zhao et al. 2023, arXiv 2304.13705, section VI.B (training with and without the CVAE objective)",
        target=f"lower end of the gain >= {NO_WORSE}, success with it >= {AT_ALL}",
        value={
            "gain": noisy[0],
            "p_mcnemar": p_value(*both("two_styles_noise")),
            "two_styles_noise": summary(found, "two_styles_noise"),
            "one_style": summary(found, "one_style"),
        },
        interval=noisy[1:],
        n=len(found["one_style", "chunk_1"]["success"]),
        control={
            "what": "a gain on one style without noise, where there is nothing for a latent to tell",
            "value": [round(v, 4) for v in clean],
            "failed": nothing,
        },
        passed=bool(nothing and noisy[1] >= NO_WORSE and rate(both("two_styles_noise")[0]) >= AT_ALL),
        **shared,
    )


def main() -> None:
    """Run what is missing, then write the entries."""
    extra = {"steps": 3000, "demonstrations": 400, "episodes": 400, "seed": 0}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    options.work.mkdir(parents=True, exist_ok=True)
    found = {(kind, policy): outcomes(options.work, kind, policy, options) for kind, policy in RUNS}
    shared = {
        "command": COMMAND,
        "commit": claim_run.commit(),
        "seeds": (options.seed,),
        "cpu_s": max(claim_run.cpu_s(), claim_run.recorded_cpu_s(options.work)),
    }
    claim_run.write(chunks(found, shared), options.out, "policies", "act_chunks")
    claim_run.write(latent(found, shared), options.out, "policies", "act_cvae")


if __name__ == "__main__":
    main()
