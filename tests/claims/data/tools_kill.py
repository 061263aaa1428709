"""kill -9 at random moments of filter, compact, repair and delete: whole episodes only, and the same result after.

    python tests/claims/data/tools_kill.py --work runs/kill_tools --out docs/results --kills 120

Budget: full, about 10 minutes. Merging and converting are killed by store_kill.py; the tools that copy are killed in
the same way here. Deleting and undeleting replace nothing but the commit record: after each kill the store has to be
exactly the one before or the one after, readable in every byte. The control is a copy of the folder, file by file and
the commit record first, as a file manager might do it; that it is half has to be noticed.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import claim_run
import data_toy
from store_kill import Campaign, Command, campaign, run, verb

from robopolicy.data.store import EpisodeStore
from robopolicy.data.tools.deletion import delete, undelete
from robopolicy.errors import RobopolicyError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator

EPISODES = 300
DELETED = "[3,50,51,299]"
COPY = (
    "import shutil, sys, time; from pathlib import Path\n"
    "a, b = map(Path, sys.argv[1:])\n"
    "for f in sorted((p for p in a.rglob('*') if p.is_file()), key=lambda p: len(p.parts)):\n"
    "    t = b / f.relative_to(a); t.parent.mkdir(parents=True, exist_ok=True); shutil.copy(f, t); time.sleep(0.03)\n"
)


def delete_campaign(source: Path, work: Path, kills: int) -> Campaign:
    """Kill ``delete`` and ``undelete`` in turn; the store must always be the one before or the one after."""
    work.mkdir(parents=True, exist_ok=True)
    path, log, result = work / "s.zarr", work / "log.txt", Campaign()
    shutil.copytree(source, path)
    whole = EpisodeStore.open(path).content_hash
    delete(path, [3, 50, 51, 299])
    less = EpisodeStore.open(path).content_hash
    undelete(path)
    words = {
        whole: verb("data", "delete", path, f"episodes={DELETED}", "--yes"),
        less: verb("data", "undelete", path),
    }
    started = time.perf_counter()
    run(words[whole], log)
    takes_s, now = time.perf_counter() - started, less
    rng = generator("tools_kill", "delete")
    while result.kills < kills:
        before = now
        killed = run(words[before], log, float(rng.uniform(0.3, 1.05)) * takes_s)
        try:
            with EpisodeStore.open(path) as store:
                now = store.content_hash
                damage = [f.message for f in store.verify()]
        except RobopolicyError as error:
            result.problems.append(f"delete, kill {result.kills}: {error}")
            return result
        done = now != before
        if now not in words or damage or (not killed and not done):
            result.problems.append(f"delete, kill {result.kills}: {damage[:1] or 'another store'}")
        result.kills += killed
        result.ended += not killed
        result.found.append(float(done) if killed else 1.0)
    return result


def main() -> None:
    """Run all campaigns and the control, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], kills=120)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    source, holed = work / "a.zarr", work / "holed.zarr"
    with data_toy.create(source, codec="jpeg") as store:
        store.append_many([data_toy.episode(store, i) for i in range(EPISODES)])
    shutil.copytree(source, holed)
    delete(holed, list(range(0, EPISODES, 7)))
    quiet = "progress=false"
    commands: dict[str, Command] = {
        "filter": lambda out: verb("data", "filter", source, out, "keep=length > 25", quiet),
        "compact": lambda out: verb("data", "compact", holed, out, quiet),
        "repair": lambda out: verb("data", "repair", source, out, "repairs=[statistics]", "frames=none", quiet),
    }
    each = -(-options.kills // (len(commands) + 1))
    results = {name: campaign(name, command, work / name, each) for name, command in commands.items()}
    inside = {name: sum(0 < share < 1 for share in result.found) for name, result in results.items()}
    results["delete"] = delete_campaign(source, work / "delete", each)
    changed = int(sum(results["delete"].found))
    control = campaign("copy", lambda out: [sys.executable, "-c", COPY, str(source), str(out)], work / "control", 10)
    problems = [p for result in results.values() for p in result.problems]
    print(*problems, sep="\n")
    kills = sum(result.kills for result in results.values())
    result = ClaimResult(
        claim="kill -9 of data filter, compact, repair and delete leaves whole episodes; repeating completes them",
        source="own",
        command="python tests/claims/data/tools_kill.py --work runs/kill_tools --out docs/results --kills 120",
        commit=claim_run.commit(),
        target=f"{kills} kills without a problem; finished stores equal those of undisturbed runs",
        value={
            "kills": {name: result.kills for name, result in results.items()},
            "kills between first and last commit": inside,
            "deletions and undeletions that took effect": changed,
            "problems": len(problems),
        },
        interval=None,
        n=kills,
        seeds=[0],
        control={
            "what": "a copy of the folder, commit record first",
            "value": f"{len(control.problems)} problems in {control.kills} kills",
            "failed": bool(control.problems),
        },
        passed=not problems and bool(control.problems) and all(inside.values()) and changed > 0,
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "tools_kill")


if __name__ == "__main__":
    main()
