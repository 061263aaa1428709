"""The environments of benchmarks: made from pins, marked when whole, found again by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robopolicy.errors import MissingDependencyError, StorageError, explain
from robopolicy.sim.bench.benchmark import Benchmark

__all__ = ["bench_home", "create_environment", "environment_path", "environment_python", "remove_environment", "state"]

MARKER = "robopolicy_bench.json"
"""Written last into an environment; one without it is unfinished."""


def bench_home() -> Path:
    """Folder of all environments: ``ROBOPOLICY_BENCH_HOME``, else ``~/.cache/robopolicy/bench``."""
    own = os.environ.get("ROBOPOLICY_BENCH_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(own).expanduser() if own else cache / "robopolicy" / "bench"


def environment_path(benchmark: Benchmark) -> Path:
    """Where the environment of a benchmark is, or would be."""
    return bench_home() / benchmark.name


def state(benchmark: Benchmark) -> str:
    """``ready``, ``missing``, ``unfinished``, ``outdated`` (made from other pins), or ``built in`` (needs none)."""
    if not benchmark.requirements:
        return "built in"
    path = environment_path(benchmark)
    if not path.exists():
        return "missing"
    marker = _marker(path)
    if marker is None or not _python_of(path).exists():
        return "unfinished"
    return "ready" if marker.get("pins") == benchmark.pins else "outdated"


def environment_python(benchmark: Benchmark) -> Path:
    """The interpreter that runs a benchmark; this one for a benchmark without requirements.

    Raises:
        MissingDependencyError: its environment is missing, unfinished or made from other pins.
    """
    found = state(benchmark)
    if found == "built in":
        return Path(sys.executable)
    if found != "ready":
        raise MissingDependencyError(
            explain(
                f"the environment of benchmark '{benchmark.name}' is {found}",
                given=environment_path(benchmark),
                mend=f"robopolicy bench-env create {benchmark.name}",
            )
        )
    return _python_of(environment_path(benchmark))


def create_environment(
    benchmark: Benchmark, path: Path | None = None, *, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Make the environment, or complete or renew the one that is there.

    Args:
        benchmark: Whose.
        path: Folder, if it is to be elsewhere; a link in :func:`bench_home` then leads there.
        say: Is told what is being done.

    Raises:
        MissingDependencyError: no Python of a fitting version, or pip failed; the end of its output is shown.
        StorageError: the disk refused, or the path holds something else.
    """
    home = environment_path(benchmark)
    target = (path or home).expanduser().absolute()
    if not benchmark.requirements:
        return Path(sys.executable)
    if target.exists() and any(target.iterdir()) and not (target / "pyvenv.cfg").exists():
        raise StorageError(explain(f"{target} holds something else than an environment", mend="choose another path="))
    try:
        (target / MARKER).unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(explain(f"cannot write to {target}", given=error.strerror)) from error
    if not _python_of(target).exists():
        base = _base_python(benchmark)
        say(f"making {target} with {base}")
        _run([base, "-m", "venv", "--clear", str(target)], benchmark)
    python = str(_python_of(target))
    say(f"installing {', '.join(benchmark.requirements)}")
    _run([python, "-m", "pip", "install", "--disable-pip-version-check", *benchmark.requirements], benchmark)
    frozen = _run([python, "-m", "pip", "freeze", "--disable-pip-version-check"], benchmark).split()
    marker = {"benchmark": benchmark.name, "pins": benchmark.pins, "installed": frozen}
    try:
        (target / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        if target != home.absolute():
            home.parent.mkdir(parents=True, exist_ok=True)
            if home.is_symlink():
                home.unlink()
            home.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise StorageError(explain(f"cannot finish {target}", given=error.strerror)) from error
    return target


def remove_environment(benchmark: Benchmark) -> bool:
    """Delete the environment, and the link to one that is elsewhere. Returns whether there was one.

    Raises:
        StorageError: what stands there is no environment, or the disk refused.
    """
    home = environment_path(benchmark)
    if not home.exists() and not home.is_symlink():
        return False
    target = home.resolve()
    if target.exists() and not (target / "pyvenv.cfg").exists() and any(target.iterdir()):
        raise StorageError(explain(f"{target} is no environment, so it is left alone", mend="remove it by hand"))
    try:
        if home.is_symlink():
            home.unlink()
        if target.exists():
            shutil.rmtree(target)
    except OSError as error:
        raise StorageError(explain(f"cannot remove {target}", given=error.strerror)) from error
    return True


def _python_of(path: Path) -> Path:
    return path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _marker(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _base_python(benchmark: Benchmark) -> str:
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not benchmark.python or mine in benchmark.python:
        return sys.executable
    for version in benchmark.python:
        found = shutil.which(f"python{version}")
        if found:
            return found
    raise MissingDependencyError(
        explain(
            f"benchmark '{benchmark.name}' has pins for other versions of Python",
            given=mine,
            allowed=benchmark.python,
            mend="install one of them so that it is found as python" + benchmark.python[0],
        )
    )


def _run(command: list[str], benchmark: Benchmark) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=benchmark.environment())
    if done.returncode:
        tail = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise MissingDependencyError(
            explain(
                f"'{' '.join(command[:4])} ...' failed with code {done.returncode}",
                given=tail,
                mend="check the network and the pins, then run the same command again",
            )
        )
    return done.stdout
