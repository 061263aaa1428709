"""kill -9 at random moments of writing, merging and converting: no half episode, nothing lost, the same store after.

    python tests/claims/data/store_kill.py --work runs/kill_data --out docs/results --kills 200

Budget: full, about 10 minutes. A third of the kills for each command. The whole process group dies after a random part
of the time that an undisturbed run takes. After each kill the store is opened and read back completely: every episode
has to be the one that the undisturbed run has in its place, none that was there before may be missing. Then the same
command goes on; whenever it comes to its end, the store must be the undisturbed one's equal, and another is begun. The
control kills in the same way a writer that puts the commit record before the data; that has to be noticed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "data"))
import claim_run
import data_toy

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import RobopolicyError, StoreNotFoundError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.seeding import generator

__all__ = ["Campaign", "campaign"]

HERE = Path(__file__).resolve()
Command = Callable[[Path], list[str]]
"""Path of the store -> command line that makes it, or goes on making it."""


@dataclass
class Campaign:
    """How one command bore being killed.

    Attributes:
        kills: SIGKILLs while it ran.
        ended: Runs that came to their end.
        found: Episodes there at each kill, as a share of all; shows where the kills fell.
        problems: What was wrong with a store after a kill.
    """

    kills: int = 0
    ended: int = 0
    found: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run(command: list[str], log: Path, after_s: float | None = None) -> bool:
    """Run a command in a process group of its own. -> whether it had to be killed after ``after_s``.

    Raises:
        SystemExit: it failed by itself.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    with log.open("ab") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
        try:
            child.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return True
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed by itself; log: {log}")
    return False


def digests(store: EpisodeStore) -> list[str]:
    """SHA-256 of every episode as recorded."""
    return [str(store.info(i)["sha256"]) for i in range(store.num_episodes)]


def check(path: Path, wanted: list[str], before: int) -> tuple[int, str | None]:
    """-> episodes that are there, and what is wrong with the store if anything."""
    try:
        with EpisodeStore.open(path) as store:
            got = digests(store)
            damage = [finding.message for finding in store.verify()]
    except StoreNotFoundError:
        return 0, f"{before} episodes were there, now there is no store" if before else None
    except RobopolicyError as error:
        return 0, f"{type(error).__name__}: {error}"
    if damage:
        return len(got), damage[0]
    if len(got) < before:
        return len(got), f"{before} episodes were there, now {len(got)}"
    if got != wanted[: len(got)]:
        return len(got), "other episodes than those of the undisturbed run"
    return len(got), None


def campaign(name: str, command: Command, work: Path, kills: int) -> Campaign:
    """Kill a command ``kills`` times; see the head of this file.

    Args:
        name: Seeds the moments.
        command: Must make an equal store each time, and go on with a store that is there.
        work: Folder for the stores and the log.
        kills: How often.
    """
    work.mkdir(parents=True, exist_ok=True)
    log, whole, path = work / "log.txt", work / "whole.zarr", work / "killed.zarr"
    started = time.perf_counter()
    run(command(whole), log)
    takes_s = time.perf_counter() - started
    with EpisodeStore.open(whole) as store:
        wanted, final = digests(store), store.content_hash
    rng, result, before = generator("store_kill", name), Campaign(), 0
    while result.kills < kills:
        started = time.perf_counter()
        killed = run(command(path), log, float(rng.uniform(0, 1.05 * takes_s)))
        there, problem = check(path, wanted, before)
        if killed:
            before = there
            result.kills += 1
            print(f"{name}: kill {result.kills} of {kills}, {before} episodes", flush=True)
            result.found.append(before / len(wanted))
        else:
            result.ended += 1
            if not before:  # a whole run; the first one may have met a busy machine
                takes_s = min(takes_s, time.perf_counter() - started)
            with EpisodeStore.open(path) as store:
                problem = problem or (None if store.content_hash == final else "the finished store is another")
        if problem:
            result.problems.append(f"{name}, kill {result.kills}: {problem}")
        if problem or not killed:
            shutil.rmtree(path, ignore_errors=True)
            before = 0
    run(command(path), log)
    with EpisodeStore.open(path) as store:
        if store.content_hash != final:
            result.problems.append(f"{name}: the store finished after the last kill is another")
    return result


def writing(order: str) -> Command:
    """The toy writer, which appends one by one and in batches."""
    return lambda out: [sys.executable, str(HERE.parents[2] / "data" / "data_kill_ordered.py"), str(out), order]


def verb(*words: object) -> list[str]:
    """A command line of the project."""
    return [sys.executable, "-m", "robopolicy", *map(str, words)]


def sources(work: Path) -> tuple[Path, Path, Path]:
    """Two stores to be merged, and a data set of another format to be converted."""
    log = work / "log.txt"
    for name, first in (("a", 0), ("b", 100)):
        with data_toy.create(work / f"{name}.zarr", codec="jpeg", environment_state=()) as store:
            store.append_many([data_toy.episode(store, i) for i in range(first, first + 100)])
    foreign = work / "foreign.zarr"
    run(verb("data", "export", work / "a.zarr", foreign, "format=diffusion_policy"), log)
    return work / "a.zarr", work / "b.zarr", foreign


def main() -> None:
    """Run all campaigns and the control, write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], kills=200)
    work = options.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    a, b, foreign = sources(work)
    commands: dict[str, Command] = {
        "write": writing("data first"),
        "merge": lambda out: verb("data", "merge", a, b, f"out={out}", "progress=false"),
        "convert": lambda out: verb("data", "convert", foreign, out, "format=diffusion_policy", "progress=false"),
    }
    each = -(-options.kills // len(commands))
    results = {name: campaign(name, command, work / name, each) for name, command in commands.items()}
    control = campaign("control", writing("record first"), work / "control", max(10, each // 3))
    problems = [p for result in results.values() for p in result.problems]
    print(*problems, sep="\n")
    kills = sum(result.kills for result in results.values())
    inside = {name: sum(0 < share < 1 for share in result.found) for name, result in results.items()}
    result = ClaimResult(
        claim="kill -9 at random moments of writing, merging and converting leaves whole episodes only and loses none",
        source="own",
        command="python tests/claims/data/store_kill.py --work runs/kill_data --out docs/results --kills 200",
        commit=claim_run.commit(),
        target=f"{kills} kills without a problem; finished stores equal those of undisturbed runs",
        value={
            "kills": {name: result.kills for name, result in results.items()},
            "kills between first and last commit": inside,
            "runs that ended": {name: result.ended for name, result in results.items()},
            "problems": len(problems),
        },
        interval=None,
        n=kills,
        seeds=[0],
        control={
            "what": "a writer that commits before the data are written",
            "value": f"{len(control.problems)} problems in {control.kills} kills",
            "failed": bool(control.problems),
        },
        passed=not problems and bool(control.problems) and all(inside.values()),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "data", "store_kill")


if __name__ == "__main__":
    main()
