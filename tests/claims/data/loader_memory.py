"""Resident memory while streaming a store five times larger than the byte budget: flat over two epochs.

    python tests/claims/data/loader_memory.py --work runs/loader_memory --out docs/results

Budget: quick, about a minute. A store with two raw 96x96 cameras, of five times the budget, is read twice over in the
order of training; the resident memory of the loading process and of its workers (anonymous, mapped files and shared
memory alike) is taken after every batch; a page that several have mapped counts once. The control is the same reading
without a budget, which keeps the frames.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.data import Loader, WindowDataset
from robopolicy.data.bench.reading import spec_of
from robopolicy.data.bench.synthetic import synthetic_store
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.training.order import BlockedOrder

BUDGET, FACTOR, BATCH = 48 << 20, 5, 64
FRAME_PAIR = 2 * 96 * 96 * 3
STEPS_PER_EPISODE = 200
ALLOWED_MB = 16.0
"""Growth from the first hundredth of the reading on; the budget is 50 MB, the store 250 MB."""


def resident_mb(pids: list[int]) -> float:
    """Of some processes together, MB; a page that several have mapped counts once (Pss)."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        fields = dict(line.split(":", 1) for line in lines)
        total += int(fields["Pss"].split()[0])
    return total / 1e3


def measure(path: Path, budget: int, workers: int) -> dict[str, float]:
    """Read two epochs; resident memory early on and at its highest afterwards."""
    store = EpisodeStore.open(path)
    windows = WindowDataset(store, spec_of(store), cache_bytes=budget)
    steps = 2 * len(windows) // BATCH
    order = BlockedOrder(len(windows), windows.blocks)(0, 0, steps, BATCH)
    seen = []
    with Loader(windows, BATCH, workers) as loader:
        for batch in loader.batches(order.reshape(-1)):
            assert batch.image["one"].numpy()[:, :, ::8, ::8].any()  # the frames are really touched
            workers_of_ring = [] if loader._ring is None else loader._ring.process_ids
            seen.append(resident_mb([*workers_of_ring, os.getpid()]))
    early = max(seen[: max(10, len(seen) // 100)])
    return {"early MB": early, "highest MB": max(seen), "grown MB": max(seen) - early}


def in_a_process(path: Path, budget: int, workers: int) -> dict[str, float]:
    """:func:`measure` in a fresh process."""
    words = [sys.executable, __file__, "--measure", str(path), str(budget), str(workers)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Make the store, measure with and without the budget."""
    arguments = claim_run.arguments(__doc__ or "")
    path = arguments.work / "large.zarr"
    episodes = -(-FACTOR * BUDGET // (FRAME_PAIR * STEPS_PER_EPISODE))
    if not path.exists():
        arguments.work.mkdir(parents=True, exist_ok=True)
        synthetic_store(path, "raw", episodes, STEPS_PER_EPISODE, 96, 96)
    size_mb = EpisodeStore.open(path).num_steps * FRAME_PAIR / 1e6
    with_budget = {workers: in_a_process(path, BUDGET, workers) for workers in (0, 2)}
    without = in_a_process(path, 1 << 40, 0)
    grown = {workers: found["grown MB"] for workers, found in with_budget.items()}
    value = {
        "grown MB, in process": round(grown[0], 1),
        "grown MB, two workers": round(grown[2], 1),
        "highest MB, in process": round(with_budget[0]["highest MB"], 1),
        "store MB": round(size_mb, 1),
        "budget MB": round(BUDGET / 1e6, 1),
    }
    failed = bool(without["grown MB"] > ALLOWED_MB)
    result = ClaimResult(
        claim="Resident memory stays flat while a store five times larger than the byte budget is read twice",
        source="measured here; Pss of the process and its workers after every batch of 64 windows, local order",
        command=f"python tests/claims/data/{Path(__file__).name} --work runs/loader_memory --out docs/results",
        commit=claim_run.commit(),
        target=f"grows by <= {ALLOWED_MB:g} MB",
        value=value,
        interval=None,
        n=2 * EpisodeStore.open(path).num_steps // BATCH,
        seeds=[0],
        control={"what": "no budget, frames are kept; MB grown", "value": round(without["grown MB"]), "failed": failed},
        passed=bool(max(grown.values()) <= ALLOWED_MB and failed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, arguments.out, "data", Path(__file__).stem)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
