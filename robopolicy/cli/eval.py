"""Evaluate a policy on unseen episodes and write report.json and report.html.

The policy is a run or checkpoint folder, or a baseline: expert, null, random. Task and embodiment are taken from the
checkpoint; a baseline has to be told. Results do not depend on the number of workers. A list of latencies is a sweep:
success against inference latency on the same episodes, as a table and a plot.

Examples:
  robopolicy eval runs/pick episodes=100 out=runs/pick/eval
  robopolicy eval runs/arms embodiment=panda out=runs/arms/eval_panda
  robopolicy eval policy=null task=pick_place embodiment=panda out=runs/null
  robopolicy eval runs/pick 'latency_ms=[0,50,100,200]' out=runs/pick/latency
  robopolicy eval runs/pick episodes=100:200 videos=4
  robopolicy eval policy=expert task=metaworld/reach-v3 out=runs/reach    # robopolicy list benchmarks
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.control.config import ControlConfig
from robopolicy.errors import ConfigError, explain

__all__ = ["CONFIG", "EvalConfig", "episode_indices", "run"]


@dataclass(frozen=True)
class EvalConfig:
    """Keys of ``robopolicy eval``."""

    policy: str | None = setting("run or checkpoint folder, or expert, null, random; also the first argument")
    task: str | None = setting("null: the one it was trained on", registry="task")
    embodiment: str | None = setting("null: the one of the checkpoint; a policy of several robots has to be told")
    out: str | None = setting("folder of the report; null: eval in the run's folder, or runs/<baseline>")
    episodes: int | str = setting('how many, or indices as "100:200"', ge=1)
    split: Literal["test", "val", "train"] = setting("test was never seen in training")
    workers: int = setting("processes that simulate", ge=1)
    latency_ms: float | tuple[float, ...] | dict[str, Any] = setting(
        "from observation to action; a list is a sweep; {kind: normal, mean_ms: 50, std_ms: 10}", ge=0
    )
    videos: int = setting("how many of the first episodes are filmed", ge=0)
    device: str = setting("auto, cpu, cuda, cuda:1, mps")
    weights: Literal["ema", "raw"] = setting("averaged weights, or those of the last step")
    overwrite: bool = setting("replace a report of something else")
    control: ControlConfig = setting("settings of the executor, for example control.velocity_scale=0.5")


CONFIG = EvalConfig


def run(argv: Sequence[str]) -> int:
    """Roll out, write the report, print the result."""
    config = parse(EvalConfig, "eval", argv, positional=("policy",))
    indices = episode_indices(config.episodes)
    from robopolicy.assess import evaluate
    from robopolicy.cli.progress import Progress
    from robopolicy.subject import find_subject

    subject = find_subject(config.policy, device=config.device, weights=config.weights)
    home = Path(config.policy) / "eval" if config.policy and subject.checkpoint else Path("runs") / subject.name
    out = Path(config.out) if config.out else home
    points = len(config.latency_ms) if isinstance(config.latency_ms, tuple) else 1
    with Progress(f"{subject.name}, split {config.split}", len(indices) * points) as bar:
        report = evaluate(
            subject,
            config.task,
            embodiment=config.embodiment,
            episodes=indices,
            split=config.split,
            workers=config.workers,
            latency_ms=config.latency_ms,
            control=config.control,
            videos=config.videos,
            out=out,
            overwrite=config.overwrite,
            command=shlex.join(["robopolicy", "eval", *argv]),
            progress=bar.count,
        )
    _show(report, out)
    return 0


def episode_indices(episodes: int | str) -> range:
    """``100`` or ``"100:200"`` as indices.

    Raises:
        ConfigError: anything else, or an empty range.
    """
    if isinstance(episodes, int):
        return range(episodes)
    first, colon, last = episodes.partition(":")
    if not (colon and first.strip().isdigit() and last.strip().isdigit() and int(first) < int(last)):
        raise ConfigError("episodes: " + explain("not a count or a range", given=episodes, allowed='100 or "100:200"'))
    return range(int(first), int(last))


def _show(report: dict[str, Any], out: Path) -> None:
    from robopolicy.evaluation.page import lost_notice

    low, high = report["wilson_95"]
    head = report["header"]
    print(f"{head['policy']} on {head['task']}, {head['embodiment']}, split {head['split']}")
    print(f"success {report['successes']} of {report['n']} = {report['success_rate']:.3f} ({low:.3f} to {high:.3f})")
    if report["lost"]:
        print(lost_notice(report))
    elif report["lost_attempts"]:
        print(f"the simulation was restarted {report['lost_attempts']} times; every episode was evaluated")
    for point in report["sweep"] or ():
        low, high = point["wilson_95"]
        print(f"  latency {point['latency_ms']:g} ms: {point['rate']:.3f} ({low:.3f} to {high:.3f})")
    print(f"report: {out / 'report.html'}")
