"""Push-T has two modes by construction: regression goes between them and fails, diffusion goes one way.

    python tests/claims/simulation/push_t_modes.py --work runs/claims/push_t_modes --out docs/results

Budget: full; two training runs of at most 30 minutes on one core, then two evaluations. What is finished in --work is
not done again, and a training run that was cut is resumed. Both policies have the same network, demonstrations and
steps (recipes push_t/diffusion and push_t/behaviour_cloning). On task push_t_detour, indices of the split test:

- at the first observation of 50 episodes: where each policy wants the stick to be after the eight steps that are
  carried out, against where the expert takes it when its coin falls left and right. A prediction is *between* when it
  is less far from the middle of the two than a quarter of the distance between them;
- success on 100 episodes of each, compared by the exact McNemar test.

Two entries. In the first behaviour cloning is the control: it must go between. In the second it is the null policy.
``--task push_t`` compares success on starts all over the table, where the two ways are seldom equally long.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe, wilson
from robopolicy.policies import load_policy
from robopolicy.seeding import generator
from robopolicy.sim.env import Env

ROBOT = "panda"
POLICIES = ("diffusion", "behaviour_cloning")
STARTS, AHEAD = 50, 8
MOST_BETWEEN, LEAST_BETWEEN = 0.1, 0.5
"""Share of predictions between the modes: of diffusion at most, of the control at least."""
LEAST_GAIN = 0.2
COMMAND = "python tests/claims/simulation/push_t_modes.py --work runs/claims/push_t_modes --out docs/results"


def collect(work: Path, task: str, demonstrations: int) -> Path:
    """Demonstrations with noise that the stick can bear; continued if cut."""
    store = work / f"{task}.zarr"
    words = (f"task={task}", f"embodiment={ROBOT}", f"episodes={demonstrations}", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def train(work: Path, task: str, policy: str, store: Path, steps: int, seed: int) -> Path:
    """Folder of the run; resumed if cut."""
    run = work / f"{task}_{policy}_{steps}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = (f"recipe=push_t/{policy}", f"recipe.stages.policy.steps={steps}", f"recipe.seed={seed}")
            fixed = ("recipe.threads=1", "progress=false", f"data={store}", f"out={run}")
            claim_run.robopolicy("train", *words, *fixed, log=log)
    return run


def evaluate(run: Path, episodes: int) -> dict:
    """Report on the unseen episodes."""
    out = run / f"eval_{episodes}"
    if not (out / "report.html").is_file():
        words = (f"episodes={episodes}", "split=test", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", run, *words, log=Path(f"{run}.log"))
    return read_report(out)


def expert_way(env: Env, index: int, seed: int) -> np.ndarray:
    """[2] where the expert has taken the TCP after the steps of one chunk; ``seed`` throws its coin."""
    env.reset(options={"split": "test", "index": index})
    expert = env.task.expert(env)
    for step in range(AHEAD):
        chunk = expert.act(env.observe([env.frame()]), rng=generator("coin", seed, step))
        env.step(chunk.values[0])
    return np.asarray(env.frame().state[env.embodiment.state.select("ee_position")][:2], float)


def modes(env: Env, index: int) -> np.ndarray:
    """[2, 2] the two ways of the expert, to the left (larger y) first.

    Raises:
        SystemExit: 16 throws of the coin gave one way only.
    """
    ways = [expert_way(env, index, seed) for seed in range(2)]
    for seed in range(2, 16):
        if abs(max(ways, key=lambda w: w[1])[1] - min(ways, key=lambda w: w[1])[1]) > 0.02:
            break
        ways.append(expert_way(env, index, seed))
    left, right = max(ways, key=lambda w: w[1]), min(ways, key=lambda w: w[1])
    if left[1] - right[1] < 0.02:
        raise SystemExit(f"episode {index} has one way only: {left}, {right}")
    return np.stack([left, right])


def decisions(run: Path, task: str) -> dict:
    """What a policy does at the first observation of each start."""
    env, policy = Env(task, ROBOT), load_policy(run, device="cpu")
    columns = env.embodiment.action.select("ee_position")[:2]
    rows = []
    for index in range(STARTS):
        both = modes(env, index)
        env.reset(options={"split": "test", "index": index})
        frame = env.frame()
        first = env.observe([frame] * policy.spec.observation_horizon)
        # the steps before the first observation are as the rollout fills them in
        step_ns = round(env.embodiment.control_dt_s * 1e9)
        first.time_ns[:] = frame.time_ns - step_ns * np.arange(len(first.time_ns))[::-1]
        way = policy.act(first, rng=generator("decision", index)).values[AHEAD - 1, columns]
        gap_m = float(np.linalg.norm(both[0] - both[1]))
        off = np.linalg.norm(both - way, axis=1)
        centre_m = float(np.linalg.norm(way - both.mean(axis=0)))
        rows.append((float(off.min()), centre_m < gap_m / 4, bool(off[0] < off[1]), gap_m))
    off_m, between, left, gap_m = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "mean_distance_to_nearer_mode_mm": round(1e3 * float(off_m.mean()), 1),
        "distance_of_modes_mm": round(1e3 * float(gap_m.mean()), 1),
        "share_between": float(between.mean()),
        "share_left": float(left.mean()),
    }


def main() -> None:
    """Run what is missing, then write the entries."""
    extra = {"steps": 16000, "seed": 0, "task": "push_t_detour", "demonstrations": 400, "episodes": 100, "parallel": 1}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work, task = options.work, options.task
    detour = task == "push_t_detour"
    store = collect(work, task, options.demonstrations)
    jobs = [partial(train, work, task, p, store, options.steps, options.seed) for p in POLICIES]
    runs = dict(zip(POLICIES, claim_run.run_all(jobs, options.parallel), strict=True))
    jobs = [partial(evaluate, run, options.episodes) for run in runs.values()]
    reports = dict(zip(POLICIES, claim_run.run_all(jobs, options.parallel), strict=True))
    first = {policy: decisions(run, task) if detour else {} for policy, run in runs.items()}
    won = {p: {e.index: e.success_at_end for e in episodes_of(reports[p])} for p in POLICIES}
    pairs = [(won["diffusion"][i], won["behaviour_cloning"][i]) for i in sorted(won["diffusion"])]
    counts = [
        sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))
    ]
    shared = {
        "command": COMMAND + ("" if detour else f" --task {task}"),
        "commit": claim_run.commit(),
        "seeds": (options.seed,),
        "cpu_s": claim_run.recorded_cpu_s(*runs.values()),
    }
    if detour:
        claim_run.write(averages(first, shared), options.out, "simulation", "push_t_modes")
    idle = idle_rate(work, task, options.episodes)
    result = succeeds(task, counts, reports, idle, options.steps, shared)
    claim_run.write(result, options.out, "simulation", f"{task}_success")


def averages(first: dict[str, dict], shared: dict) -> ClaimResult:
    """Where both policies mean to go at once."""
    own, control = first["diffusion"], first["behaviour_cloning"]["share_between"]
    failed = control >= LEAST_BETWEEN
    return ClaimResult(
        claim="push_t_detour: regression averages the two ways around the T, diffusion takes one of them",
        source="Chi et al. 2023, arXiv 2303.04137, section 4",
        target=f"share between <= {MOST_BETWEEN}, share left in 0.2..0.8",
        value=first,
        interval=wilson(round(own["share_between"] * STARTS), STARTS),
        n=STARTS,
        control={
            "what": "share of first waypoints of behaviour cloning between the modes",
            "value": control,
            "failed": failed,
        },
        passed=bool(failed and own["share_between"] <= MOST_BETWEEN and 0.2 <= own["share_left"] <= 0.8),
        **shared,
    )


def idle_rate(work: Path, task: str, episodes: int) -> float:
    """Success of doing nothing."""
    out = work / f"{task}_null"
    if not (out / "report.html").is_file():
        words = ("policy=null", f"task={task}", f"embodiment={ROBOT}", f"episodes={episodes}", "workers=1")
        claim_run.robopolicy("eval", *words, f"out={out}", log=work / "null.log")
    return read_report(out)["success_rate"]


def succeeds(
    task: str, counts: list[int], reports: dict[str, dict], idle: float, steps: int, shared: dict
) -> ClaimResult:
    """Success of both on the same episodes."""
    gain, lower, upper = paired_newcombe(*counts)
    p_value = mcnemar_exact(counts[1], counts[2])
    return ClaimResult(
        claim=f"{task}: diffusion solves more of the same episodes than regression on the same network",
        source="Chi et al. 2023, arXiv 2303.04137, section 6.1",
        target=f"gain >= {LEAST_GAIN}, p < 0.05",
        value={**{p: reports[p]["success_rate"] for p in POLICIES}, "gain": gain, "p_mcnemar": p_value, "steps": steps},
        interval=(lower, upper),
        n=sum(counts),
        control={"what": "success of the null policy", "value": idle, "failed": idle <= 0.05},
        passed=bool(gain >= LEAST_GAIN and p_value < 0.05 and idle <= 0.05),
        **shared,
    )


if __name__ == "__main__":
    main()
