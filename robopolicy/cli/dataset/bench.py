"""Measure how fast a store is read, side by side with what others use, on this machine.

Figures are per CPU-second of the reading process where that is the unit, contenders take turns, and every comparison
has a control that must miss the target. 'synthetic' makes a store of its own (two cameras) and compares with all peers
that are there; of a store of yours at most the first 'episodes' episodes are used.

Options:
  --peer-python PATH   Python of an environment with lerobot 0.4; without it that comparison is left out
  --out DIR            write one entry per comparison, misses included, under DIR/data (docs/results)

Examples:
  robopolicy data bench synthetic
  robopolicy data bench runs/pick.zarr only=[reading,workers]
  robopolicy data bench synthetic --peer-python peers/bin/python --out docs/results
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.cli.arguments import split_arguments
from robopolicy.config import setting
from robopolicy.errors import ConfigError, DataError, MissingDependencyError, explain

if TYPE_CHECKING:
    from robopolicy.data.bench.comparison import Comparison

__all__ = ["CONFIG", "BenchConfig", "run"]

PARTS = ("reading", "robomimic", "lerobot", "queue", "workers", "scale")


@dataclass(frozen=True)
class BenchConfig:
    """Keys of ``robopolicy data bench``."""

    store: str = setting("episode store, or synthetic")
    only: tuple[str, ...] = setting("parts to measure, of reading, robomimic, lerobot, queue, workers, scale")
    rounds: int = setting("turns of every contender", ge=1)
    scale: float = setting("length of a turn, 1 for the figures of the ledger", gt=0)
    episodes: int = setting("episodes of the synthetic store, and at most of another", ge=1)
    steps: int = setting("rows of each synthetic episode", ge=20)
    size: int = setting("height and width of synthetic frames, pixels", ge=16)
    many: int = setting("episodes of the larger store of part scale", ge=10)
    many_rows: int = setting("rows of both stores of part scale", ge=10)
    batch: int = setting("windows per batch of part queue", ge=1)
    peer_python: str | None = setting("Python with lerobot", default=None)
    out: str | None = setting("root of the results ledger", default=None)


CONFIG = BenchConfig


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the entries. Returns 0 also when a target was missed."""
    from robopolicy.config import load

    options = {"peer-python": "peer_python", "out": "out"}
    named, overrides = split_arguments(argv, positional=("store",), options=tuple(options))
    quoted = [f"{options.get(k, k)}='{v}'" for k, v in named.items()]
    config = load(BenchConfig, "data/bench", [*quoted, *overrides])
    unknown = [part for part in config.only if part not in PARTS]
    if unknown:
        raise ConfigError(explain("no such part", given=unknown, allowed=PARTS))
    command = " ".join(["robopolicy data bench", *_portable(argv)])
    with tempfile.TemporaryDirectory(prefix="robopolicy-bench-") as folder:
        started = time.process_time()
        for comparison in _comparisons(config, Path(folder)):
            _show(comparison)
            if config.out:
                _write(comparison, config.out, command, time.process_time() - started)
            started = time.process_time()
    return 0


def _portable(words: Sequence[str]) -> list[str]:
    """The command as another machine would run it: of paths only the last part."""
    return [re.sub(r"(?:~|\.{0,2})?/[^\s=]*/([^\s/=]+)", r"\1", word) for word in words]


def _comparisons(config: BenchConfig, folder: Path) -> Iterator[Comparison]:
    from robopolicy.data.bench.reading import compare_reading
    from robopolicy.data.bench.scale import compare_scale
    from robopolicy.data.bench.transport import compare_queue, compare_workers

    rounds, scale = config.rounds, config.scale
    stores = _stores(config, folder)
    jpeg = stores.get("jpeg")
    if "reading" in config.only:
        yield from compare_reading(stores, folder, rounds, scale)
    if "robomimic" in config.only and "raw" in stores:
        yield from _or_reason(lambda: _robomimic(stores, folder, rounds, scale))
    if "lerobot" in config.only and config.peer_python and jpeg is not None:
        from robopolicy.data.bench.lerobot_peer import compare_lerobot

        yield from compare_lerobot(stores, folder, config.peer_python, rounds, scale)
    elif "lerobot" in config.only:
        print("left out: lerobot needs --peer-python and a JPEG store")
    if "queue" in config.only:
        yield compare_queue(next(iter(stores.values())), config.batch, rounds, scale)
    if "workers" in config.only:
        yield compare_workers(jpeg or next(iter(stores.values())), rounds, scale)
    if "scale" in config.only:
        yield compare_scale(folder, config.many, config.many_rows, 48, rounds, scale)


def _robomimic(stores: dict[str, Any], folder: Path, rounds: int, scale: float) -> list[Comparison]:
    from robopolicy.data.bench.robomimic_peer import compare_robomimic

    return compare_robomimic(stores, folder, rounds, scale)


def _or_reason(measure: Any) -> list[Comparison]:
    try:
        found: list[Comparison] = measure()
        return found
    except MissingDependencyError as error:
        print(f"left out: {error}")
        return []


def _stores(config: BenchConfig, folder: Path) -> dict[str, Any]:
    """Codec -> store of the same episodes; at most ``config.episodes`` of a given store, copied."""
    from robopolicy.data.bench.synthetic import synthetic_store
    from robopolicy.data.store import EpisodeStore

    if config.store == "synthetic":
        shape = (config.episodes, config.steps, config.size, config.size)
        return {codec: synthetic_store(folder / f"{codec}.zarr", codec, *shape) for codec in ("raw", "jpeg")}
    store = EpisodeStore.open(config.store)
    if not store.cameras:
        raise DataError(explain(f"{store.path} has no cameras", mend="there is nothing to compare; use synthetic"))
    codec = next(iter(store.attributes["cameras"].values()))["codec"]
    if store.num_episodes <= config.episodes and not store.tombstones:
        return {codec: store}
    return {codec: _head(store, codec, config.episodes, folder)}


def _head(store: Any, codec: str, episodes: int, folder: Path) -> Any:
    from robopolicy.data.episode import Episode
    from robopolicy.data.store import EpisodeStore

    sizes = {c: store.streams[f"image/{c}"].shape[:2] for c in store.cameras}
    with EpisodeStore.create(
        folder / "head.zarr", store.embodiment, cameras=sizes, codec=codec, joints=False, fps=store.fps
    ) as made:
        for i in range(min(episodes, store.num_episodes)):
            info = store.info(i)
            streams = {name: store.read(name, info["start"], info["stop"]) for name in made.streams}
            made.append(Episode(streams, language=info["language"]), any_rate=True)
    return EpisodeStore.open(folder / "head.zarr")


def _show(comparison: Comparison) -> None:
    verdict = "reached" if comparison.reached else "MISSED"
    low, high = comparison.interval
    print(f"\n{verdict}: {comparison.claim}")
    print(f"  {comparison.ratio():.2f} times ({low:.2f} to {high:.2f}), target {comparison.target:g}")
    for name, rates in comparison.rates.items():
        middle = sorted(rates)[len(rates) // 2]
        print(f"  {name:32s} {middle:12,.1f} {comparison.unit}   ({min(rates):,.1f} to {max(rates):,.1f})")
    for name, value in comparison.facts.items():
        print(f"  {name}: {value}")


def _write(comparison: Comparison, out: str, command: str, cpu_s: float) -> None:
    from statistics import median

    from robopolicy.evaluation.claims import ClaimResult, write_claim

    target, control = comparison.target, comparison.control_ratio
    rates = {name: round(median(values), 1) for name, values in comparison.rates.items()}
    result = ClaimResult(
        claim=comparison.claim,
        source=f"measured here; rates in {comparison.unit}",
        command=command,
        commit=_commit(),
        target=f">= {target:g}",
        value={"result": round(comparison.ratio(), 3), **rates, **comparison.facts},
        interval=list(comparison.interval),
        n=len(next(iter(comparison.rates.values()))),
        seeds=[0],
        control={"what": comparison.control[1], "value": round(control, 3), "failed": bool(control < target)},
        passed=comparison.reached,
        cpu_s=round(cpu_s, 1),
    )
    print(f"  {write_claim(result, out, 'data', comparison.name)}")


def _commit() -> str:
    """Short hash of the checkout that this module is in, or the version where there is none."""
    from robopolicy import __version__

    git = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return found or __version__
