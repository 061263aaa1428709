"""Entry of the benchmark's process: ``python launch.py <adapter> --fd N [--write-fd N]``.

``<adapter>`` is ``file:Class``: a file of the folder ``adapters``, or the path of another one. Nothing is put on
``sys.path``: this folder becomes the package ``robopolicy.sim.bench.guest`` by itself, its parents empty, so that the
same imports hold here and where robopolicy is installed, and nothing of robopolicy shadows a module of the benchmark.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
PACKAGE = "robopolicy.sim.bench.guest"


def main(argv: list[str] | None = None) -> int:
    """Load the adapter and serve it until the other end closes."""
    parser = argparse.ArgumentParser(description="Serve a benchmark over a file descriptor.")
    parser.add_argument("adapter", help="file:Class")
    parser.add_argument("--fd", type=int, required=True, help="descriptor to read from")
    parser.add_argument("--write-fd", type=int, help="descriptor to write to; by default the same")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the business of the process that asked
    _die_with_parent()
    read_fd = os.dup(options.fd)
    write_fd = read_fd if options.write_fd is None else os.dup(options.write_fd)
    # What a benchmark prints must not end up between the frames.
    os.dup2(2, 1)
    if options.fd == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    _package()
    server = importlib.import_module(f"{PACKAGE}.server")
    server.serve(lambda: _adapter(options.adapter)(), read_fd, write_fd)
    return 0


def _package() -> None:
    """This folder as a package, below parents that hold nothing."""
    parts = PACKAGE.split(".")
    for depth in range(1, len(parts)):
        name = ".".join(parts[:depth])
        parent = types.ModuleType(name)
        parent.__path__ = []
        sys.modules[name] = parent
    _load(PACKAGE, HERE / "__init__.py", [str(HERE)])


def _load(name: str, path: Path, folders: list[str] | None = None) -> Any:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no such file of Python: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _adapter(name: str) -> Any:
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        module = _load(f"{PACKAGE}.adapters.{Path(place).stem}", Path(place))
    else:
        module = importlib.import_module(f"{PACKAGE}.adapters.{place}")
    return getattr(module, attribute)


def _die_with_parent() -> None:
    """A benchmark that hangs in its own code never sees its pipe close; Linux ends it with the parent."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(main())
