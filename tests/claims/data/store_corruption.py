"""2,000 damaged stores: each read gives an error that says so or exactly the right data, and never a crash.

    python tests/claims/data/store_corruption.py --work runs/damage --out docs/results

Budget: full, about 3 minutes. Damage: bits flipped, files cut, deleted, lengthened, overwritten with zeros or by
another file of the store, and the commit record edited. Everything is read in a process of its own with limited
memory: JPEG, depth and low-dimensional streams, labels, statistics, ends of episodes. Of a whole file in another's
place, sound in itself, ``EpisodeStore.verify`` has to tell. The control reads the same damage in raw stores without
checksums.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import test_data_store_corruption as damaged_stores

from robopolicy.evaluation.claims import ClaimResult

HERE = Path(__file__).resolve()
PART = 250
"""Cases per process; one that hangs or crashes costs the rest of its part."""


def campaign(path: Path, work: Path, cases: int, *options: str) -> tuple[Counter[str], list[str]]:
    """-> how the cases ended, and what the bad ones were."""
    script = HERE.parents[2] / "data" / "data_store_damage.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    verdicts: Counter[str] = Counter()
    bad = []
    for first in range(0, cases, PART):
        count = min(PART, cases - first)
        command = [sys.executable, str(script), str(path), str(work / "case"), str(first), str(count), *options]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
            output, code = run.stdout, run.returncode
        except subprocess.TimeoutExpired as error:
            output, code = bytes(error.stdout or b"").decode(), "time-out"
        lines = [json.loads(line) for line in output.splitlines()]
        verdicts.update(line["verdict"] for line in lines)
        bad += [f"{line['seed']}: {line['what']}" for line in lines if line["verdict"] in ("wrong", "escaped")]
        if len(lines) < count:
            verdicts["crashed"] += 1
            verdicts["not run"] += count - len(lines) - 1
            bad.append(f"process of cases {first} .. {first + count} ended with {code} at case {first + len(lines)}")
    return verdicts, bad


def main() -> None:
    """Run the campaign and its control, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], cases=2000)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    for name in ("with", "without"):
        (work / name).mkdir(parents=True)
    sound = damaged_stores.template(work / "with", checksums=True)
    verdicts, bad = campaign(sound, work, options.cases)
    plain = damaged_stores.template(work / "without", checksums=False, codec="raw")
    control, _ = campaign(plain, work, options.cases, "--no-checksums")
    print(dict(verdicts), "control:", dict(control), *bad[:20], sep="\n")
    harmless = verdicts["right"] + verdicts["refused"] + verdicts["found"]
    passed = harmless == options.cases and not bad and control["wrong"] > 0
    shutil.rmtree(work)
    claim_run.write(
        ClaimResult(
            claim="A damaged store gives a clear error or exactly the right data, never a crash or silently wrong data",
            source="own",
            command="python tests/claims/data/store_corruption.py --work runs/damage --out docs/results",
            commit=claim_run.commit(),
            target=f"{options.cases} of {options.cases} damaged stores",
            value={**dict(verdicts), "harmless": harmless},
            interval=None,
            n=options.cases,
            seeds=[5],
            control={"what": "no checksums, raw frames", "value": dict(control), "failed": bool(control["wrong"])},
            passed=passed,
            cpu_s=claim_run.cpu_s(),
        ),
        options.out,
        "data",
        "store_corruption",
    )


if __name__ == "__main__":
    main()
