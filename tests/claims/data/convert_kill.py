"""kill -9 during conversions at random moments: never half an episode, nothing committed lost, the same store after.

    python tests/claims/data/convert_kill.py --work runs/convert_kill --out docs/results --kills 70

Budget: full, about 4 minutes. Conversions of a made-up source of 300 episodes, with one and with two processes in turn,
are killed (the whole process group) at random moments and started again, until the wanted number of kills has been
reached; a finished store is set aside and the next one begun. After every kill the store must open, hold the first
episodes of the source in its order, and at least as many as before. Every finished store, and its audit, must equal
those of a conversion that nobody touched. The control is a conversion with another option.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import convert_toy_format as toy
import numpy as np

from robopolicy.data.audit import JOURNAL_FILE, read_audit
from robopolicy.data.convert.engine import convert
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import StoreNotFoundError
from robopolicy.evaluation.claims import ClaimResult

EPISODES = 300
LONGEST_S = 2.5


def source_ids(path: Path) -> list[str]:
    """Of the committed episodes, after reading every row of them."""
    try:
        store = EpisodeStore.open(path)
    except StoreNotFoundError:
        return []
    frames = store.read("image/front")
    assert len(frames) == len(store.read("action")) == store.num_steps
    return [store.info(i)["metadata"]["source"]["id"] for i in range(store.num_episodes)]


def killed(words: list[str], after_s: float, log: Path) -> bool:
    """Run a command and SIGKILL its process group after a while. -> whether it was still running then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "robopolicy", *words]
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} failed by itself; log: {log}")
    return False


def campaign(source: Path, work: Path, kills: int, log: Path) -> tuple[int, list[Path]]:
    """-> (kills, finished stores)."""
    rng, done, finished, runs = np.random.default_rng(0), 0, [], 0
    path, seen = work / "killed_0.zarr", 0
    while done < kills or not finished or seen:
        runs += 1
        words = ["data", "convert", str(source), str(path), "format=toy", f"workers={1 + runs % 2}", "progress=false"]
        after_s = float(rng.uniform(0.3, LONGEST_S)) if done < kills else 600.0
        hit = killed(words, after_s, log)
        found = source_ids(path)
        assert found == [f"ep{i}" for i in range(len(found))], "not the first episodes of the source"
        assert len(found) >= seen, f"{seen} episodes were committed, {len(found)} are left"
        seen = len(found)
        done += hit
        if not hit:
            finished.append(path)
            path, seen = work / f"killed_{len(finished)}.zarr", 0
        time.sleep(0.05)
    return done, finished


def same(a: Path, b: Path) -> bool:
    """Whether content and audit are equal."""
    first, second = read_audit(a), read_audit(b)
    audits = all(first[key] == second[key] for key in ("episodes", "findings", "streams", "counts"))
    return EpisodeStore.open(a).content_hash == EpisodeStore.open(b).content_hash and audits


def main() -> None:
    """Run the campaign and enter the result."""
    options = claim_run.arguments(__doc__.splitlines()[0], kills=70)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    source = toy.write_source(work / "source", EPISODES, sleep_s=0.004, expected=EPISODES + 1)
    os.environ["ROBOPOLICY_CONFIG_PATH"] = str(toy.register(work))
    log = work / "log.txt"
    convert(source, work / "whole.zarr", format="toy")
    convert(source, work / "other.zarr", format="toy", options={"scale": 1.001})
    done, finished = campaign(source, work, options.kills, log)
    equal = [same(path, work / "whole.zarr") for path in finished]
    left = [p.name for p in work.glob(".*")] + [p.name for path in finished for p in path.glob(JOURNAL_FILE)]
    other = same(work / "other.zarr", work / "whole.zarr")
    result = ClaimResult(
        claim="kill -9 at random moments of a conversion never shows half an episode and changes nothing in the end",
        source="own",
        command="python tests/claims/data/convert_kill.py --work runs/convert_kill --out docs/results --kills 70",
        commit=claim_run.commit(),
        target=f"{options.kills} kills; every finished store and audit equal to an untouched one; nothing left over",
        value={"kills": done, "stores": len(finished), "equal": sum(equal), "left over": len(left)},
        interval=None,
        n=done,
        seeds=[0],
        control={"what": "a conversion with another option is equal", "value": other, "failed": not other},
        passed=bool(done >= options.kills and all(equal) and not left and not other),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "convert_kill")


if __name__ == "__main__":
    main()
