"""Entry of the benchmark's process: ``python launch.py <adapter> --fd N [--write-fd N]``.

``<adapter>`` is ``file:Class``: a file of the folder ``adapters``, or the path of another one. The folder of this file is
taken off ``sys.path``, so that nothing of robopolicy can shadow a module of the benchmark.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
PACKAGE = "robopolicy_guest"


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
    """This folder as a package of its own name, with relative imports working inside."""
    spec = importlib.util.spec_from_file_location(PACKAGE, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def _adapter(name: str) -> Any:
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(f"{PACKAGE}.adapters.{Path(place).stem}", place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise ImportError(f"no such adapter file: {place}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
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
