"""kill -9 during collect and during train at random moments: nothing that was committed is lost, nothing differs after.

    python tests/claims/foundation/kill_nine.py --work runs/kill --out docs/results --kills 20

Budget: full, about 10 minutes. After each kill the store must open with at least the episodes that it had before, all
of them whole, and the run must resume. In the end store and weights must equal, bit for bit, those of a run that nobody
touched. The control is a run from another seed, which must not be equal.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy import checkpoint
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import StoreNotFoundError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator

EPISODES = 150
SMALL = (
    *("recipe=pick_place/diffusion", "recipe.threads=1", "progress=false", "recipe.stages.policy.steps=3000"),
    *("recipe.stages.policy.checkpoint_every=20", "recipe.stages.policy.batch_size=32"),
    *("recipe.stages.policy.validation.every=200", "recipe.stages.policy.parameters.unet.down=[16,32,64]"),
)


def killed(words: list[str], after_s: float, log: Path) -> bool:
    """Run a command and SIGKILL its whole process group after a while. -> whether it was still running then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "robopolicy", *words],
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,
        )
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} failed by itself; log: {log}")
    return False


def campaign(
    command: Callable[[], list[str]], check: Callable[[], None], kills: int, log: Path, name: str, longest_s: float
) -> int:
    """Kill it after random times until that has been done often enough, then let it end. -> how often."""
    rng, done = generator("kill_nine", name), 0
    while done < kills and killed(command(), float(rng.uniform(0.5, longest_s)), log):
        done += 1
        time.sleep(0.3)
        check()
    claim_run.robopolicy(*command(), log=log)
    check()
    return done


def collect_campaign(work: Path, kills: int, log: Path) -> tuple[int, bool]:
    """-> kills, and whether the store equals the untouched one."""
    path, seen = work / "killed.zarr", [0]

    def words(out: Path) -> list[str]:
        return ["collect", "task=pick_place", "embodiment=panda", f"episodes={EPISODES}", f"out={out}"]

    def check() -> None:
        try:
            with EpisodeStore.open(path) as store:
                count = store.num_episodes
                assert count >= seen[0], f"{seen[0]} episodes were committed, {count} are left"
                assert len(store.read("action")) == store.num_steps == (store.episode_ends[-1] if count else 0)
                assert np.isfinite(store.read("action")).all()
                seen[0] = count
        except StoreNotFoundError:
            assert seen[0] == 0, "the store is gone"

    done = campaign(lambda: words(path), check, kills, log, "collect", 6.0)
    claim_run.robopolicy(*words(work / "whole.zarr"), log=log)
    hashes = []
    for name in ("killed", "whole"):
        with EpisodeStore.open(work / f"{name}.zarr") as store:
            hashes.append(store.content_hash)
    return done, hashes[0] == hashes[1]


def train_campaign(work: Path, kills: int, log: Path) -> tuple[int, bool, bool]:
    """-> kills, whether the weights equal the untouched ones, whether those of another seed do."""
    data, run, seen = f"data={work / 'whole.zarr'}", work / "killed", [0]

    def words() -> list[str]:
        begun = (run / "config.yaml").is_file()
        return ["train", "--resume", str(run)] if begun else ["train", *SMALL, data, f"out={run}"]

    def check() -> None:
        if any((run / "checkpoints").glob("*/step_*/manifest.json")):
            step = int(checkpoint.load(checkpoint.latest(run)).document("trainer")["step"])
            assert step >= seen[0], f"step {seen[0]} was written, the newest is now {step}"
            seen[0] = step

    done = campaign(words, check, kills, log, "train", 10.0)
    for name, seed in (("whole", 0), ("other", 1)):
        claim_run.robopolicy("train", *SMALL, f"recipe.seed={seed}", data, f"out={work / name}", log=log)
    weights = {n: checkpoint.load(checkpoint.latest(work / n)).tensors("ema") for n in ("killed", "whole", "other")}

    def equal(a: str, b: str) -> bool:
        return all(bool((weights[a][k] == weights[b][k]).all()) for k in weights[a])

    return done, equal("killed", "whole"), equal("other", "whole")


def main() -> None:
    """Run both campaigns and write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], kills=20)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / "log.txt"
    collect_kills, same_store = collect_campaign(work, options.kills, log)
    train_kills, same_weights, other_weights = train_campaign(work, options.kills, log)
    reached = min(collect_kills, train_kills) >= options.kills and same_store and same_weights
    result = ClaimResult(
        claim="kill -9 at random moments of collect and of train loses nothing that was committed and changes no bit",
        source="own",
        command="python tests/claims/foundation/kill_nine.py --work runs/kill --out docs/results --kills 20",
        commit=claim_run.commit(),
        target=f"{options.kills} kills each; store and weights equal those of untouched runs",
        value={
            "collect kills": collect_kills,
            "train kills": train_kills,
            "store equal": same_store,
            "weights equal": same_weights,
        },
        interval=None,
        n=collect_kills + train_kills,
        seeds=[0],
        control={"what": "weights of another seed", "value": other_weights, "failed": not other_weights},
        passed=bool(reached and not other_weights),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "foundation", "kill_nine")


if __name__ == "__main__":
    main()
