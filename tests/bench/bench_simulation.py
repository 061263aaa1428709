"""How fast simulation runs: environment against a bare loop of mj_step, pictures, workers.

    python tests/bench/bench_simulation.py --out docs/results [--only state,frames,workers]

Wants a quiet machine, about three minutes. Rates are per second of CPU, interleaved in one run; those of workers per
second of the clock, because that is what a second process is for.

``state``: a control step of ``Env.step`` with recorded expert actions against the same physics steps with the same
controls, set before each, and nothing else. The control is the environment with its control tick in Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
os.environ.setdefault("LP_NUM_THREADS", "1")
import claim_run
import numpy as np

from robopolicy.control.native import CONTROL_CORE
from robopolicy.evaluation.claims import ClaimResult

PAIRS = "pick_place:panda,pick_place:ur5e_2f85,stack:panda,open_drawer:panda,play:ur5e_2f85"
EPISODES = 4
FRAMES_TARGET, STATE_TARGET, WORKERS_TARGET = 200.0, 0.8, 1.7


def recorded(task: str, embodiment: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Expert actions of a few episodes, and the controls that they became, one per physics step."""
    import mujoco

    from robopolicy.sim.env import Env

    actions: list[list[Any]] = []
    controls: list[list[Any]] = []
    step = mujoco.mj_step

    def spy(model: Any, data: Any) -> None:
        controls[-1].append(data.ctrl.copy())
        step(model, data)

    mujoco.mj_step = spy  # an environment takes the function when it is made
    try:
        env = Env(task, embodiment)
        expert = env.task.expert(env)
        for index in range(EPISODES):
            env.reset(options={"split": "val", "index": index})
            actions.append([])
            controls.append([])
            done = False
            while not done:
                names = expert.spec.sensors
                frame = env.frame() if not names else None
                if frame is None:
                    raise SystemExit("a task whose expert needs sensors is not measured here")
                action = expert.act(env.observe([frame]), rng=0).values[0]
                actions[-1].append(action)
                _, _, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
    finally:
        mujoco.mj_step = step
    return actions, controls


def state_rates(pair: str, rounds: int) -> dict[str, list[float]]:
    """Control steps per CPU-second of the environment and of the bare loop."""
    import mujoco

    from robopolicy.data.bench.comparison import interleaved
    from robopolicy.sim.env import Env

    task, _, embodiment = pair.partition(":")
    env = Env(task, embodiment)
    actions, controls = recorded(task, embodiment)
    steps = sum(map(len, actions))

    def stepped(_: int) -> float:
        spent = 0.0
        for index, episode in enumerate(actions):
            env.reset(options={"split": "val", "index": index})
            start = time.process_time()
            for action in episode:
                env.step(action)
            spent += time.process_time() - start
        return steps / spent

    def bare(_: int) -> float:
        model, data, step, spent = env.model, env.data, mujoco.mj_step, 0.0
        for index, episode in enumerate(controls):
            env.reset(options={"split": "val", "index": index})
            start = time.process_time()
            for control in episode:
                data.ctrl[:] = control
                step(model, data)
            spent += time.process_time() - start
        return steps / spent

    return interleaved({"environment": stepped, "bare": bare}, rounds)


def in_python(pair: str) -> float:
    """Ratio of the environment whose control tick is not compiled, measured in a process of its own."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import bench_simulation as b; "
        f"r = b.state_rates({pair!r}, 2); print(sum(r['environment']) / sum(r['bare']))"
    )
    environment = {**os.environ, "ROBOPOLICY_CONTROL": "python"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def state(pairs: list[str], rounds: int, command: str) -> ClaimResult:
    start = time.process_time()
    value: dict[str, Any] = {"control tick": CONTROL_CORE}
    ratios = []
    for pair in pairs:
        rates = state_rates(pair, rounds)
        each = np.array(rates["environment"]) / np.array(rates["bare"])
        ratios.append(each)
        value[pair] = {
            "environment, control steps per CPU-s": round(float(np.median(rates["environment"])), 1),
            "bare mj_step": round(float(np.median(rates["bare"])), 1),
            "ratio": round(float(np.median(each)), 3),
        }
    lowest = min(ratios, key=lambda each: float(np.median(each)))
    control = in_python(pairs[0])
    return ClaimResult(
        claim="The state environment steps at 0.8 times the speed of a bare loop of mj_step or faster",
        source="reference figures of the simulation suite",
        command=command,
        commit=claim_run.commit(),
        target=f">= {STATE_TARGET}, every pair",
        value={"lowest ratio": round(float(np.median(lowest)), 3), **value},
        interval=[float(x) for x in np.percentile(lowest, [2.5, 97.5])],
        n=rounds,
        seeds=[],
        control={"what": f"control tick in Python, {pairs[0]}", "value": control, "failed": control < STATE_TARGET},
        passed=bool(np.median(lowest) >= STATE_TARGET > control),
        cpu_s=time.process_time() - start,
    )


def frames(rounds: int, command: str) -> ClaimResult:
    """Pictures of the panda scene per CPU-second, with the settings of the ``fast`` profile and without."""
    from robopolicy.data.bench.comparison import interleaved
    from robopolicy.sim.env import Env

    begin = time.process_time()
    envs = {profile: Env("pick_place", "panda", render_profile=profile) for profile in ("fast", "stock")}

    def drawing(profile: str, count: int) -> Callable[[int], float]:
        env = envs[profile]
        env.reset(options={"index": 0})

        def rate(_: int) -> float:
            start = time.process_time()
            for k in range(count):
                env.servo(env.start_position)
                before = time.process_time()
                env.picture("front" if k % 2 else "wrist")
                drawn[0] += time.process_time() - before
            del start
            spent, drawn[0] = drawn[0], 0.0
            return count / spent

        return rate

    drawn = [0.0]
    rates = interleaved({"fast": drawing("fast", 100), "stock": drawing("stock", 4)}, rounds)
    fast, stock = (np.array(rates[p]) for p in ("fast", "stock"))
    return ClaimResult(
        claim="The panda scene is drawn at 96x96 two hundred times per second and core or more",
        source="reference figures of the simulation suite",
        command=command,
        commit=claim_run.commit(),
        target=f">= {FRAMES_TARGET:.0f} frames per CPU-s",
        value={"fast profile": round(float(np.median(fast)), 1), "stock profile": round(float(np.median(stock)), 1)},
        interval=[float(x) for x in np.percentile(fast, [2.5, 97.5])],
        n=rounds,
        seeds=[],
        control={
            "what": "MuJoCo's stock settings",
            "value": float(np.median(stock)),
            "failed": bool(np.median(stock) < FRAMES_TARGET),
        },
        passed=bool(np.median(fast) >= FRAMES_TARGET > np.median(stock)),
        cpu_s=time.process_time() - begin,
    )


def workers(rounds: int, command: str) -> ClaimResult:
    """Episodes per second of the clock with one and with two worker processes, start-up left out."""
    from robopolicy.sim.rollout import expert_policy, rollout

    begin = time.process_time()

    def rate(count: int) -> float:
        arrivals: list[float] = []
        episodes = range(60)
        rollout(
            expert_policy,
            task="pick_place",
            embodiment="panda",
            split="val",
            episodes=episodes,
            workers=count,
            progress=lambda _: arrivals.append(time.perf_counter()),
        )
        return (len(arrivals) - 2 * count) / (arrivals[-1] - arrivals[2 * count - 1])

    one, two, again = [], [], []
    for _ in range(rounds):
        one.append(rate(1))
        two.append(rate(2))
        again.append(rate(1))
    ratio, same = np.array(two) / np.array(one), np.array(again) / np.array(one)
    return ClaimResult(
        claim="Two worker processes run episodes 1.7 times as fast as one",
        source="reference figures of the simulation suite",
        command=command,
        commit=claim_run.commit(),
        target=f">= {WORKERS_TARGET}",
        value={
            "ratio": round(float(np.median(ratio)), 3),
            "one, episodes per second": round(float(np.median(one)), 2),
            "two, episodes per second": round(float(np.median(two)), 2),
        },
        interval=[float(x) for x in np.percentile(ratio, [2.5, 97.5])],
        n=rounds,
        seeds=[],
        control={
            "what": "one worker against one worker",
            "value": float(np.median(same)),
            "failed": bool(np.median(same) < WORKERS_TARGET),
        },
        passed=bool(np.median(ratio) >= WORKERS_TARGET > np.median(same)),
        cpu_s=time.process_time() - begin,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--only", default="state,frames,workers")
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    command = "python tests/bench/bench_simulation.py --out docs/results"
    results = []
    for name in options.only.split(","):
        if name == "state":
            result = state(options.pairs.split(","), options.rounds, command)
        else:
            result = {"frames": frames, "workers": workers}[name](min(options.rounds, 5), command)
        results.append(result)
        claim_run.write(result, options.out, "simulation", f"throughput_{name}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
