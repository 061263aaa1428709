"""Make, list, check and remove the environments that public benchmarks run in.

A benchmark keeps its own pins of mujoco and numpy, so each has a virtual environment of its own, below
~/.cache/robopolicy/bench or ROBOPOLICY_BENCH_HOME. check starts the benchmark, resets, steps and draws one picture.

Examples:
  robopolicy bench-env create metaworld
  robopolicy bench-env create metaworld path=/big/disk/metaworld
  robopolicy bench-env list
  robopolicy bench-env check metaworld
  robopolicy bench-env remove metaworld
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.errors import CommandError, SimulationError, explain
from robopolicy.registry import registry

if TYPE_CHECKING:
    from robopolicy.sim.bench.benchmark import Benchmark

__all__ = ["CONFIG", "BenchEnvConfig", "check", "run"]


@dataclass(frozen=True)
class BenchEnvConfig:
    """Keys of ``robopolicy bench-env``."""

    action: Literal["list", "create", "check", "remove"] = setting("what to do; also the first argument")
    benchmark: str | None = setting("which; robopolicy list benchmarks; also the second argument", registry="benchmark")
    path: str | None = setting("of create: folder of the environment; null: below ROBOPOLICY_BENCH_HOME")
    task: str | None = setting("of check: task to try; null: the one that its YAML names")


CONFIG = BenchEnvConfig


def run(argv: Sequence[str]) -> int:
    """Do it and say what was done; 1 where check finds that the benchmark does not run."""
    config = parse(BenchEnvConfig, "bench_env", argv, positional=("action", "benchmark"))
    from robopolicy.sim.bench.benchmark import load_benchmark
    from robopolicy.sim.bench.venv import create_environment, remove_environment

    if config.action == "list":
        _list()
        return 0
    if config.benchmark is None:
        known = registry("benchmark").names()
        mend = f"robopolicy bench-env {config.action} {known[0] if known else 'NAME'}"
        raise CommandError(explain("which benchmark", allowed=known, mend=mend))
    benchmark = load_benchmark(config.benchmark)
    if config.action == "create":
        where = create_environment(benchmark, Path(config.path) if config.path else None, say=print)
        print(f"ready: {where}")
        print(f"next: robopolicy bench-env check {benchmark.name}")
    elif config.action == "remove":
        print(f"removed: {benchmark.name}" if remove_environment(benchmark) else f"nothing to remove: {benchmark.name}")
    else:
        return check(benchmark, config.task)
    return 0


def check(benchmark: Benchmark, task: str | None = None) -> int:
    """Start, make, reset, step, ask the expert, draw; one line each. Returns 0 if all of it works."""
    from robopolicy.sim.bench.env import BenchEnv

    name = f"{benchmark.name}/{task or benchmark.example_task}"
    begin = time.perf_counter()
    try:
        env = BenchEnv(name)
        try:
            for key, version in env.process.versions.items():
                print(f"  {key:<22}{version}")
            print(f"  started and made {name} in {time.perf_counter() - begin:.1f} s, {len(env.process.tasks())} tasks")
            env.reset("val", 0)
            begin, steps = time.perf_counter(), 20
            for _ in range(steps):
                action = env.process.expert() if env.task.has_expert else env.rest_start
                env.step(action)
            spent_ms = (time.perf_counter() - begin) / steps * 1e3
            with_expert = "with its expert" if env.task.has_expert else "without an expert"
            print(f"  {steps} steps {with_expert}: {spent_ms:.1f} ms each")
            for camera in env.embodiment.cameras[:1]:
                begin = time.perf_counter()
                picture = env.frame((camera.name,)).image[camera.name]
                drawn_ms = (time.perf_counter() - begin) * 1e3
                shape = "x".join(map(str, picture.shape))
                print(f"  picture {camera.name} {shape} ({env.render_profile}): {drawn_ms:.0f} ms")
        finally:
            env.close()
    except SimulationError as error:
        print(f"{benchmark.name} does not run: {error}")
        return 1
    print(f"{benchmark.name} runs")
    return 0


def _list() -> None:
    from robopolicy.sim.bench.benchmark import load_benchmark
    from robopolicy.sim.bench.venv import environment_path, state

    names = registry("benchmark").names()
    width = max(map(len, names), default=0)
    for name in names:
        benchmark = load_benchmark(name)
        found = state(benchmark)
        where = f"  {environment_path(benchmark)}" if found not in ("missing", "built in") else ""
        tried = "" if benchmark.checked else "  (never run by this project)"
        print(f"  {name:<{width}}  {found:<10}  {benchmark.description}{where}{tried}")
