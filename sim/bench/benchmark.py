"""What the project knows of a public benchmark: ``configs/benchmark/<name>.yaml`` as a frozen dataclass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.registry import benchmark_task, registry
from robopolicy.schema import build, setting
from robopolicy.seeding import SPLITS

__all__ = ["Benchmark", "Deadlines", "benchmark_of", "episode_seed", "load_benchmark"]

_SPLIT_SEEDS = {name: number << 29 for number, name in enumerate(SPLITS)}


@dataclass(frozen=True)
class Deadlines:
    """Seconds of real time after which a benchmark's process counts as hung."""

    start: float = setting("from the start of the process to its first answer, seconds", default=180.0, gt=0)
    make: float = setting("building a task, seconds", default=180.0, gt=0)
    reset: float = setting("starting an episode, seconds", default=120.0, gt=0)
    step: float = setting("one control step, or one action of the expert, seconds", default=60.0, gt=0)
    render: float = setting("one picture, seconds", default=120.0, gt=0)


@dataclass(frozen=True)
class Benchmark:
    """Keys of ``configs/benchmark/<name>.yaml``."""

    description: str = setting("one line")
    adapter: str = setting("file:Class; a file of robopolicy/sim/bench/guest/adapters, or a path relative to this YAML")
    embodiment: str = setting("card of its robot; robopolicy list embodiments")
    requirements: tuple[str, ...] = setting("what pip installs, pinned; none: runs in this Python", default=())
    python: tuple[str, ...] = setting("versions that the pins exist for, the preferred first", default=())
    env: dict[str, str] = setting("environment variables of its process", default={})
    render_profile: Literal["stock", "fast"] = setting("stock: the benchmark's own look", default="stock")
    horizon: int | None = setting("steps at most; null: as many as the benchmark allows", default=None, ge=1)
    collect_noise: float = setting("standard deviation of the noise on executed actions", default=0.0, ge=0)
    deadline_s: Deadlines = setting("when it counts as hung", default=Deadlines())
    checked: bool = setting("whether this project has run it", default=False)
    notes: str = setting("facts and traps worth knowing", default="")
    example_task: str = setting("task that robopolicy bench-env check runs", default="")
    name: str = setting("filled in from the file's name", default="")
    folder: str = setting("filled in: where the YAML stands", default="")

    @property
    def card(self) -> Embodiment:
        """The robot's card."""
        return load_embodiment(self.embodiment)

    @property
    def adapter_argument(self) -> str:
        """``file:Class`` as the benchmark's process takes it: a path for an adapter of one's own."""
        place, _, attribute = self.adapter.rpartition(":")
        if not place or not attribute:
            raise ConfigError(
                explain(f"benchmark '{self.name}' has no usable adapter", given=self.adapter, allowed="file:Class")
            )
        return f"{Path(self.folder, place).resolve()}:{attribute}" if place.endswith(".py") else self.adapter

    @property
    def pins(self) -> str:
        """First 16 hex digits of the SHA-256 of the requirements: what an environment was made from."""
        return hashlib.sha256("\n".join(self.requirements).encode()).hexdigest()[:16]

    def environment(self) -> dict[str, str]:
        """Variables of the process: those of this one, its own, and one thread per process.

        ``PYTHONPATH`` is left out: what it names was installed for this Python and not for the benchmark's.
        """
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")
        return {**kept, **threads, **self.env}


def load_benchmark(name: str) -> Benchmark:
    """Read ``configs/benchmark/<name>.yaml``.

    Raises:
        UnknownNameError: no such benchmark.
        ConfigError: everything wrong with its YAML.
    """
    config: Mapping[str, Any] = registry("benchmark").config(name)
    folder = str(registry("benchmark").path(name).parent)
    return build(Benchmark, {**config, "name": name, "folder": folder}, where=f"benchmark/{name}")


def benchmark_of(task: str) -> tuple[Benchmark, str] | None:
    """``metaworld/reach-v3`` as (benchmark, its own name of the task); None for a task of this project."""
    found = benchmark_task(task)
    return None if found is None else (load_benchmark(found[0]), found[1])


def episode_seed(split: str, index: int) -> int:
    """Seed of an episode, below 2**31; no two episodes of any splits share one.

    Raises:
        ConfigError: an unknown split or an index beyond 2**29.
    """
    if split not in _SPLIT_SEEDS or not 0 <= index < 1 << 29:
        raise ConfigError(explain("no such episode", given=(split, index), allowed=f"{SPLITS}, 0 to 2**29 - 1"))
    return _SPLIT_SEEDS[split] + index
