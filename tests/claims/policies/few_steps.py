"""How few network evaluations a chunk needs: samplers of one diffusion policy, flow, and a consistency policy.

    python tests/claims/policies/few_steps.py --work runs/claims/few_steps --out docs/results

Budget: full; three training runs (recipes pick_place/diffusion, pick_place/flow, pick_place/consistency) and eight
evaluations of 200 unseen episodes of pick_place from state, the same for all. What is finished in --work is not done
again, and a training run that was cut is resumed. The same trained diffusion policy is sampled with DDPM in 100 steps
and with DDIM and DPM-Solver++(2M) in fewer; nothing is trained in between. Two entries: DDIM-10 against DDPM-100, and
flow with 3 steps and consistency with 1 and 3 against DDIM-10, each with its latency ratio beside it: medians over
chunks asked in turn in one process, one thread. Control of both: DDIM with a single step, which must fail.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import paired_newcombe, wilson
from robopolicy.policies import load_policy
from robopolicy.sim.env import Env

TASK, ROBOT = "pick_place", "panda"
VARIANTS = {
    "ddpm_100": ("diffusion", {"kind": "ddpm", "steps": 100}),
    "ddim_10": ("diffusion", {"kind": "ddim", "steps": 10}),
    "ddim_1": ("diffusion", {"kind": "ddim", "steps": 1}),
    "dpmpp_2m_5": ("diffusion", {"kind": "dpmpp_2m", "steps": 5}),
    "flow_3": ("flow", {"kind": "euler", "steps": 3}),
    "flow_1": ("flow", {"kind": "euler", "steps": 1}),
    "consistency_1": ("consistency", {"kind": "multistep_consistency", "steps": 1}),
    "consistency_3": ("consistency", {"kind": "multistep_consistency", "steps": 3}),
}
"""Name -> recipe, and how its policy is sampled."""
CLAIMED = ("flow_3", "consistency_1", "consistency_3")
MOST_LOST_OF_DDPM, MOST_LOST, LEAST_LOST_OF_CONTROL = 0.03, 0.05, 0.3
ROUNDS = 40
COMMAND = "python tests/claims/policies/few_steps.py --work runs/claims/few_steps --out docs/results"


def collect(work: Path, demonstrations: int) -> Path:
    """Demonstrations; continued if cut."""
    store = work / "pick.zarr"
    words = (f"task={TASK}", f"embodiment={ROBOT}", f"episodes={demonstrations}", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def train(work: Path, recipe: str, store: Path, steps: int, seed: int) -> Path:
    """Folder of the run; resumed if cut. ``steps`` 0 leaves the recipe's own."""
    run = work / f"{recipe}_{steps or 'own'}_seed{seed}"
    log = Path(f"{run}.log")
    if (run / "train.json").is_file():
        return run
    if (run / "config.yaml").is_file():
        claim_run.robopolicy("train", "--resume", run, log=log)
        return run
    stages = ("teacher", "policy") if recipe == "consistency" else ("policy",)
    budget = [f"recipe.stages.{stage}.steps={steps}" for stage in stages] if steps else []
    words = (f"recipe=pick_place/{recipe}", f"recipe.seed={seed}", "recipe.threads=1", "progress=false")
    claim_run.robopolicy("train", *words, *budget, f"data={store}", f"out={run}", log=log)
    return run


def evaluate(run: Path, name: str, sampler: dict[str, Any], episodes: int) -> dict:
    """Report on the unseen episodes."""
    out = run / f"{name}_{episodes}"
    if not (out / "report.html").is_file():
        changed = [f"policy.sampler.{key}={value}" for key, value in sampler.items()]
        words = (f"task={TASK}", f"episodes={episodes}", "split=test", "workers=1", *changed, f"out={out}")
        claim_run.robopolicy("eval", run, *words, log=Path(f"{run}.log"))
    return read_report(out)


def latencies_ms(runs: dict[str, Path]) -> dict[str, float]:
    """Median time of a chunk of every variant; asked in turn, so that all see the same machine."""
    import torch

    torch.set_num_threads(1)
    policies = {}
    for name, (recipe, sampler) in VARIANTS.items():
        policies[name] = load_policy(runs[recipe], device="cpu")
        policies[name].change({"sampler": sampler})
    env = Env(TASK, ROBOT)
    env.reset(options={"split": "test", "index": 0})
    frame = env.frame()
    seen = env.observe([frame] * next(iter(policies.values())).spec.observation_horizon)
    step_ns = round(env.embodiment.control_dt_s * 1e9)
    seen.time_ns[:] = frame.time_ns - step_ns * np.arange(len(seen.time_ns))[::-1]
    spent: dict[str, list[float]] = {name: [] for name in policies}
    for number in range(ROUNDS + 2):
        for name, policy in policies.items():
            begin = time.perf_counter()
            policy.act(seen, rng=number)
            if number >= 2:
                spent[name].append(1e3 * (time.perf_counter() - begin))
    return {name: float(np.median(rows)) for name, rows in spent.items()}


def compared(won: dict[str, dict[int, bool]], one: str, other: str) -> dict[str, float]:
    """Success of ``one`` less that of ``other`` on the same episodes, with its interval."""
    pairs = [(won[one][i], won[other][i]) for i in sorted(won[one])]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    gain, lower, upper = paired_newcombe(*(pairs.count(kind) for kind in kinds))
    return {"difference": round(gain, 4), "lower": round(lower, 4), "upper": round(upper, 4)}


def main() -> None:
    """Train, evaluate and time what is missing, then write the entries."""
    extra = {"steps": 0, "episodes": 200, "seed": 0, "demonstrations": 200, "parallel": 1}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work = options.work
    store = collect(work, options.demonstrations)
    recipes = list(dict.fromkeys(recipe for recipe, _ in VARIANTS.values()))
    jobs = [partial(train, work, recipe, store, options.steps, options.seed) for recipe in recipes]
    runs = dict(zip(recipes, claim_run.run_all(jobs, options.parallel), strict=True))
    jobs = [partial(evaluate, runs[r], name, sampler, options.episodes) for name, (r, sampler) in VARIANTS.items()]
    reports = dict(zip(VARIANTS, claim_run.run_all(jobs, options.parallel), strict=True))
    won = {name: {e.index: e.success_at_end for e in episodes_of(report)} for name, report in reports.items()}
    shared = {
        "command": COMMAND,
        "commit": claim_run.commit(),
        "seeds": (options.seed,),
        "cpu_s": claim_run.recorded_cpu_s(*runs.values()),
        "n": options.episodes,
    }
    latency = latencies_ms(runs)
    claim_run.write(of_ddim(won, latency, shared), options.out, "policies", "ddim_10_of_ddpm_100")
    claim_run.write(of_few(won, latency, shared), options.out, "policies", "few_steps")


def _control(won: dict[str, dict[int, bool]]) -> dict[str, Any]:
    lost = -compared(won, "ddim_1", "ddim_10")["difference"]
    rate = float(np.mean(list(won["ddim_1"].values())))
    what = "success of one DDIM step of the same diffusion policy"
    return {"what": what, "value": rate, "failed": lost >= LEAST_LOST_OF_CONTROL}


def of_ddim(won: dict[str, dict[int, bool]], latency: dict[str, float], shared: dict) -> ClaimResult:
    """A tenth of the steps, the same success."""
    found, control = compared(won, "ddim_10", "ddpm_100"), _control(won)
    rates = {name: float(np.mean(list(won[name].values()))) for name in ("ddpm_100", "ddim_10", "dpmpp_2m_5", "ddim_1")}
    return ClaimResult(
        claim="10 steps of DDIM do what 100 of DDPM do, with the same trained network",
        source="Chi et al. 2023, arXiv 2303.04137, section 6.3",
        target=f"success of DDIM-10 at most {MOST_LOST_OF_DDPM} below DDPM-100; DDIM-1 fails",
        value={**rates, **found, "latency_ratio": round(latency["ddim_10"] / latency["ddpm_100"], 4)},
        interval=(found["lower"], found["upper"]),
        control=control,
        passed=bool(found["difference"] >= -MOST_LOST_OF_DDPM and control["failed"]),
        **shared,
    )


def of_few(won: dict[str, dict[int, bool]], latency: dict[str, float], shared: dict) -> ClaimResult:
    """One to three evaluations, hardly less success."""
    control, value = _control(won), {}
    for name in (*CLAIMED, "flow_1", "dpmpp_2m_5", "ddim_10"):
        rate = float(np.mean(list(won[name].values())))
        ratio = round(latency[name] / latency["ddim_10"], 4)
        value[name] = {"success": rate, "latency_ratio": ratio, "latency_ms": round(latency[name], 3)}
        value[name] |= {} if name == "ddim_10" else compared(won, name, "ddim_10")
    worst = min(CLAIMED, key=lambda name: value[name]["difference"])
    kept = sum(won[worst].values())
    return ClaimResult(
        claim="flow in 3 steps and a consistency policy in 1 and 3 do nearly what 10 steps of DDIM do",
        source="Prasad et al. 2024, arXiv 2405.07503; Lipman et al. 2023, arXiv 2210.02747",
        target=f"success at most {MOST_LOST} below DDIM-10 for each of {', '.join(CLAIMED)}; DDIM-1 fails",
        value=value,
        interval=wilson(kept, len(won[worst])),
        control=control,
        passed=bool(value[worst]["difference"] >= -MOST_LOST and control["failed"]),
        **shared,
    )


if __name__ == "__main__":
    main()
