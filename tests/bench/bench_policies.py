"""How fast policies train and answer: ours against LeRobot's diffusion policy with the same network, on a CPU.

    python tests/bench/bench_policies.py --peer PYTHON_WITH_LEROBOT --out docs/results [--only training,chunk]

Wants a quiet machine. Interleaved in one run, each contender a process of its own with the same number of threads;
ratios are of the time of the clock, those of CPU seconds stand beside. Ours trains with a moving average; the peer as
it comes has none. The control is our own network taken layer by layer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "claims"))
import claim_run
import numpy as np

from robopolicy.evaluation.claims import ClaimResult

HERE = Path(__file__).resolve().parent
TARGETS = {"training": 0.7, "chunk": 0.5}
WORK = {"training": ("train 64 4", "train 256 2"), "chunk": ("chunk 5",)}
OTHERS = ("beso:unet", "diffusion:dit")


class Contender:
    """A process that answers speed requests."""

    def __init__(self, command: list[str], threads: int):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.parameters = int(self._line("READY")[0])

    def __call__(self, request: str) -> tuple[float, float]:
        """Seconds of the clock and of CPU per step or chunk."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        wall, cpu = self._line("SPEED")
        count = int(request.split()[-1])
        return float(wall) / count, float(cpu) / count

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _line(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise SystemExit(f"a contender ended without an answer: {self.process.args}")


def measured(contenders: Mapping[str, Contender], request: str, rounds: int) -> dict[str, np.ndarray]:
    """Contender -> [rounds, 2] seconds; the first round warms up and is dropped, every other goes backwards."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        names = list(contenders)
        for name in names if number % 2 else reversed(names):
            answer = contenders[name](request)
            if number:
                found[name].append(answer)
    return {name: np.array(rows) for name, rows in found.items()}


def compare(which: str, peer: str, threads: list[int], rounds: int, command: str) -> ClaimResult:
    begin = time.process_time()
    value: dict[str, Any] = {}
    worst: np.ndarray = np.zeros(1)
    controls = []
    ours_file, peer_file = str(HERE / "policy_speed_ours.py"), str(HERE / "policy_speed_peer.py")
    for count in threads:
        commands = {
            "ours": [sys.executable, ours_file, str(count)],
            "peer": [peer, peer_file, str(count)],
            "plain": [sys.executable, ours_file, str(count), "plain"],
        }
        contenders = {name: Contender(line, count) for name, line in commands.items()}
        if contenders["ours"].parameters != contenders["peer"].parameters:
            raise SystemExit("the networks differ in size")
        for request in WORK[which]:
            times = measured(contenders, request, rounds)
            ratios = times["ours"] / times["peer"]
            plain = float(np.median(times["plain"][:, 0] / times["peer"][:, 0]))
            controls.append(plain)
            label = f"{' '.join(request.split()[:-1])}, {count} threads"
            value[label] = {
                **{f"{name}, ms": round(float(np.median(t[:, 0])) * 1e3, 2) for name, t in times.items()},
                "ratio": round(float(np.median(ratios[:, 0])), 3),
                "ratio of CPU seconds": round(float(np.median(ratios[:, 1])), 3),
                "plain to peer": round(plain, 3),
            }
            if np.median(ratios[:, 0]) > np.median(worst):
                worst = ratios[:, 0]
        for contender in contenders.values():
            contender.close()
    value["without peer, ms"] = {name: alone([ours_file, "1", name], WORK[which][0]) for name in OTHERS}
    target = TARGETS[which]
    what = "A training step" if which == "training" else "A chunk of ten DDIM steps for one robot"
    return ClaimResult(
        claim=f"{what} takes at most {target} times as long as LeRobot 0.4.4's with the same network",
        source="reference figures of the policy suite",
        command=command,
        commit=claim_run.commit(),
        target=f"<= {target}, every case",
        value=value,
        interval=[float(x) for x in np.percentile(worst, [2.5, 97.5])],
        n=rounds,
        seeds=[],
        control={"what": "our network layer by layer", "value": max(controls), "failed": max(controls) > target},
        passed=bool(np.median(worst) <= target < max(controls)),
        cpu_s=time.process_time() - begin,
    )


def alone(arguments: list[str], request: str) -> float:
    """Milliseconds of a policy that has no peer, the least of three."""
    contender = Contender([sys.executable, *arguments], 1)
    times = [contender(request)[0] for _ in range(4)][1:]
    contender.close()
    return round(min(times) * 1e3, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="Python with LeRobot 0.4.4")
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--only", default="training,chunk")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    command = "python tests/bench/bench_policies.py --peer PYTHON_WITH_LEROBOT --out docs/results"
    results = []
    for which in options.only.split(","):
        threads = [int(count) for count in options.threads.split(",")]
        results.append(compare(which, options.peer, threads, options.rounds, command))
        claim_run.write(results[-1], options.out, "policies", f"speed_{which}")
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
