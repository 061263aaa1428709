"""Serve a public benchmark over pipes: reset, step, expert and pictures in its own environment.

For programs that speak the protocol themselves (docs/benchmarks.md); collect, train and eval start it by themselves.
Frames come in on standard input and go out on standard output, or over one socket that the caller hands down as fd=N.
This process becomes the benchmark's own Python.

Examples:
  robopolicy sim-server metaworld
  robopolicy sim-server metaworld fd=3
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import parse
from robopolicy.config import setting

__all__ = ["CONFIG", "SimServerConfig", "run"]


@dataclass(frozen=True)
class SimServerConfig:
    """Keys of ``robopolicy sim-server``."""

    benchmark: str = setting("which; robopolicy list benchmarks; also the first argument")
    fd: int | None = setting("descriptor of a socket to speak on; null: standard input and output", ge=0)


CONFIG = SimServerConfig


def run(argv: Sequence[str]) -> int:
    """Become the benchmark's process; returns only where that is not possible."""
    config = parse(SimServerConfig, "sim_server", argv, positional=("benchmark",))
    from robopolicy.sim.bench.benchmark import load_benchmark
    from robopolicy.sim.bench.process import command_line

    benchmark = load_benchmark(config.benchmark)
    words = ("--fd", "0", "--write-fd", "1") if config.fd is None else ("--fd", str(config.fd))
    command = command_line(benchmark, *words)
    if config.fd is not None:
        os.set_inheritable(config.fd, True)
    sys.stdout.flush()
    os.execve(command[0], command, benchmark.environment())
