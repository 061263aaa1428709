"""One job of a sweep, in processes of its own: train or resume, then evaluate. Nothing that is finished is done again.

A job's folder is a run folder with ``job.json`` (what was asked for), ``job.log`` and ``eval/``. While a process works
on it, ``.lock`` is held by that process itself, so a sweep that was killed and is started again waits for what its
children are still doing instead of doing it twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.errors import DataError
from robopolicy.evaluation.files import read_json, write_json
from robopolicy.evaluation.report import ReportNotFoundError, read_report

__all__ = ["INTERRUPTED", "JOB", "Children", "JobSpec", "last_line", "read_outcome", "run_job"]

JOB, LOG, LOCK, TRAINED = "job.json", "job.log", ".lock", "train.json"
EVAL, REQUEST = "eval", "request.json"
INTERRUPTED = 130
POLL_S = 0.2


@dataclass(frozen=True)
class JobSpec:
    """Everything that a job needs, plain, so that it can be sent to another machine.

    Attributes:
        folder: Absolute.
        train: Words of ``robopolicy train``.
        evaluate: Words of ``robopolicy eval`` after the run; empty for no evaluation.
        threads: CPU threads, 0 leaves the environment alone.
        job: Content of ``job.json``.
    """

    folder: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    threads: int
    job: Mapping[str, Any] = field(default_factory=dict)


class Children:
    """The processes that this process has started, so that they can be asked to stop."""

    def __init__(self) -> None:
        self.stopping = False
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[bytes]] = set()

    def run(self, command: list[str], **settings: Any) -> int:
        """Run to the end; :data:`INTERRUPTED` without starting it once :meth:`stop` was called."""
        with self._lock:
            if self.stopping:
                return INTERRUPTED
            # a session of its own: Ctrl-C reaches it once, through stop(), and it writes a checkpoint
            process = subprocess.Popen(command, start_new_session=True, **settings)
            self._live.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._live.discard(process)

    def stop(self) -> None:
        """Ask all to stop; start no more."""
        with self._lock:
            self.stopping = True
            for process in self._live:
                process.terminate()


def run_job(spec: JobSpec, children: Children | None = None) -> int:
    """Carry out what is missing of a job. Returns 0, or the exit code of what failed; output goes to ``job.log``."""
    children, folder = children or Children(), Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, children) as lock:
        if lock is None:
            return INTERRUPTED
        if not (folder / JOB).is_file():
            write_json(folder / JOB, dict(spec.job))
        code = 0
        if not (folder / TRAINED).is_file():
            begun = (folder / "config.yaml").is_file()
            words = ("--resume", spec.folder) if begun else (*spec.train, f"out={_quoted(spec.folder)}")
            code = _command(spec, ("train", *words), lock, children)
        if not code and spec.evaluate and not _evaluated(folder, spec):
            (folder / EVAL / REQUEST).unlink(missing_ok=True)
            out = f"out={_quoted(folder / EVAL)}"
            code = _command(spec, ("eval", spec.folder, *spec.evaluate, out, "overwrite=true"), lock, children)
            if not code:
                write_json(folder / EVAL / REQUEST, {"words": list(spec.evaluate)})
        return code


def read_outcome(spec: JobSpec) -> dict[str, Any]:
    """What is on the disk of a job: ``status`` (finished, started, waiting), figures, and the end of its log."""
    folder = Path(spec.folder)
    found: dict[str, Any] = {"status": "started" if (folder / "config.yaml").is_file() else "waiting"}
    found |= {"validation_loss": None, "steps": None, "cpu_s": None, "successes": None, "n": None, "wilson_95": None}
    if (folder / TRAINED).is_file():
        trained = read_json(folder / TRAINED, "train")
        last = list(trained["stages"].values())[-1] if trained["stages"] else {}
        found |= {"validation_loss": last.get("validation_loss"), "steps": trained["steps"], "cpu_s": trained["cpu_s"]}
        found["status"] = "finished"
        if spec.evaluate:
            if _evaluated(folder, spec):
                report = read_report(folder / EVAL)
                found |= {key: report[key] for key in ("successes", "n", "wilson_95")}
                found["cpu_s"] += report["cpu_s"]
            else:
                found["status"] = "started"
    return found


def last_line(spec: JobSpec) -> str:
    """What a job that failed said last."""
    log = Path(spec.folder) / LOG
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line.strip()] or ["said nothing"])[-1]


def _evaluated(folder: Path, spec: JobSpec) -> bool:
    try:
        asked = read_json(folder / EVAL / REQUEST, "request")
        read_report(folder / EVAL)
    except (FileNotFoundError, ReportNotFoundError, DataError):
        return False
    return bool(asked == {"words": list(spec.evaluate)})


def _command(spec: JobSpec, words: tuple[str, ...], lock: int, children: Children) -> int:
    environment = dict(os.environ)
    if spec.threads:
        environment |= {name: str(spec.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")}
    with open(Path(spec.folder) / LOG, "ab") as log:
        log.write(f"$ robopolicy {' '.join(words)}\n".encode())
        log.flush()
        command = [sys.executable, "-m", "robopolicy", *words]
        settings = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": environment}
        return children.run(command, pass_fds=(lock,), **settings)


@contextlib.contextmanager
def _locked(folder: Path, children: Children) -> Iterator[int | None]:
    """The lock of a job's folder, handed on to the processes that work on it; None if the sweep is stopped first."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if children.stopping:
                    yield None
                    return
                time.sleep(POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)  # not unlocked: children that outlive this process keep it


def _quoted(path: str | Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"
