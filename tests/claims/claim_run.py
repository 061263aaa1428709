"""What the claims of this folder share: one command line, commands run as a user runs them, the ledger entry."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from robopolicy.evaluation.claims import ClaimResult, write_claim

__all__ = ["arguments", "commit", "cpu_s", "recorded_cpu_s", "robopolicy", "run_all", "write"]

ROOT = Path(__file__).resolve().parents[2]


def arguments(summary: str, **extra: object) -> argparse.Namespace:
    """``--work DIR`` (kept: a claim that was cut goes on there) and ``--out DIR`` (the ledger), and ``--<extra>``."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; give it again to go on")
    parser.add_argument("--out", type=Path, help="root of the results ledger; without it nothing is written")
    for name, default in extra.items():
        parser.add_argument(f"--{name}", default=default, type=type(default))
    return parser.parse_args()


def robopolicy(*words: object, log: Path) -> None:
    """One command line of the project, as a process of its own with one thread; its output goes to ``log``.

    Raises:
        SystemExit: it failed; the end of its log is shown.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "robopolicy", *map(str, words)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream, env=environment, check=False).returncode
    if code:
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
        raise SystemExit(f"{' '.join(map(str, words))} ended with {code}; log: {log}")


def run_all(jobs: list, parallel: int) -> list:
    """Call every job, ``parallel`` at a time, and return their results in order."""
    with ThreadPoolExecutor(parallel) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def commit() -> str:
    """Short hash of the code that ran, marked when files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout

    changed = bool(git("status", "--porcelain", "--", "robopolicy", "data", "sim", "deploy", "configs").strip())
    return (git("rev-parse", "--short", "HEAD").strip() or "unknown") + ("-changed" if changed else "")


def cpu_s() -> float:
    """CPU seconds of this process and of every child that has ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(u.ru_utime + u.ru_stime for u in used), 1)


def recorded_cpu_s(*folders: Path) -> float:
    """CPU seconds of training and evaluation that the runs below ``folders`` recorded, cut or not."""
    found = [path for folder in folders for name in ("train.json", "report.json") for path in folder.rglob(name)]
    return round(sum(json.loads(path.read_text()).get("cpu_s", 0.0) for path in found), 1)


def write(result: ClaimResult, out: Path | None, family: str, name: str) -> None:
    """Say how it went, and enter it in the ledger if there is one."""
    print(f"{'reached' if result.passed else 'MISSED'}: {result.claim}: {result.value} (target {result.target})")
    if out is not None:
        print(write_claim(result, out, family, name))
