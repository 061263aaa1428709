"""The stages of ``robopolicy demo``, and the one report that they end in.

::

    out/
      pick.zarr  policy/  expert/  null/  eval/  deploy/     what each stage leaves
      report.json  report.html                               the blocks expert, null, train, eval, deploy
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.cli.demo_page import demo_sections
from robopolicy.cli.progress import Progress
from robopolicy.errors import ConfigError, explain
from robopolicy.evaluation.files import plain, read_json, write_json
from robopolicy.evaluation.html import write_html
from robopolicy.evaluation.report import versions
from robopolicy.schema import to_dict

if TYPE_CHECKING:
    from robopolicy.cli.demo import DemoConfig

__all__ = ["run_demo"]

SETTINGS = "demo.json"
SECONDS = "seconds.json"
EVALUATION = ("successes", "n", "success_rate", "wilson_95", "success_once", "success_at_end", "lengths", "latency")


def run_demo(config: DemoConfig, *, command: str) -> dict[str, Any]:
    """Run every stage that is not done yet, then write report.json and report.html.

    Args:
        config: What to run.
        command: Kept in the report.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: ``out`` holds a demo with other settings.
        RobopolicyError: whatever a stage raises.
    """
    out = Path(config.out)
    _settle(out, config)
    seconds: dict[str, float] = read_json(out / SECONDS, "seconds") if (out / SECONDS).is_file() else {}
    blocks: dict[str, Any] = {}
    stages: dict[str, Callable[[DemoConfig, Path], dict[str, Any]]] = {
        "collect": _collect,
        "expert": _expert,
        "null": _null,
        "train": _train,
        "eval": _evaluate,
        "deploy": _deploy,
    }
    for number, (name, stage) in enumerate(stages.items(), 1):
        print(f"[{number}/{len(stages)}] {name}", flush=True)
        began = time.monotonic()
        blocks[name] = stage(config, out)
        # a stage that an earlier run has finished keeps the time that it took then
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - began, 2)
        write_json(out / SECONDS, seconds)
    report = plain(
        {
            "schema_version": 1,
            "command": command,
            "task": config.task,
            "embodiment": config.embodiment,
            **blocks,
            "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
            "versions": versions(),
        }
    )
    report["summary"] = _summary(report, out)
    write_json(out / "report.json", report)
    write_html(
        out / "report.html",
        f"{config.task} on {config.embodiment}, from demonstrations to the arm",
        demo_sections(report, out),
        subtitle=command,
    )
    return report


def _settle(out: Path, config: DemoConfig) -> None:
    """Note the settings, or refuse a folder that was begun with others."""
    settings = json.loads(json.dumps(to_dict(config)))
    path = out / SETTINGS
    if path.is_file():
        there = read_json(path, "demo settings")
        differing = sorted(k for k in settings.keys() | there.keys() if settings.get(k) != there.get(k))
        if differing:
            raise ConfigError(
                explain(
                    f"{out} holds a demo with other settings",
                    given=f"different: {', '.join(differing)}",
                    mend="choose another out=, or remove that folder",
                )
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _collect(config: DemoConfig, out: Path) -> dict[str, Any]:
    from robopolicy.data.store import EpisodeStore
    from robopolicy.sim.collect import collect

    store = out / "pick.zarr"
    with Progress("demonstrations", config.demonstrations) as bar:
        collect(
            config.task,
            config.embodiment,
            config.demonstrations,
            store,
            cameras=_cameras(config),
            codec="jpeg",
            workers=config.workers,
            progress=lambda done, wanted, success: bar.show(done),
        )
    with EpisodeStore.open(store) as opened:
        return {"episodes": opened.num_episodes, "steps": opened.num_steps, "content_hash": opened.content_hash}


def _cameras(config: DemoConfig) -> tuple[str, ...]:
    """Every camera that a stage of the recipe reads."""
    found = [c for stage in config.recipe.stages.values() for c in stage.parameters.get("cameras", ())]
    return tuple(dict.fromkeys(found))


def _train(config: DemoConfig, out: Path) -> dict[str, Any]:
    from robopolicy.training.run import resume, train

    run = out / "policy"
    if (run / "train.json").is_file():
        return read_json(run / "train.json", "training summary")
    if (run / "config.yaml").is_file():
        return resume(run)
    return train(config.recipe, out / "pick.zarr", run)


def _expert(config: DemoConfig, out: Path) -> dict[str, Any]:
    return _rolled(config, out, "expert", "expert", config.expert_episodes, videos=min(config.videos, 2))


def _null(config: DemoConfig, out: Path) -> dict[str, Any]:
    return _rolled(config, out, "null", "null", config.episodes, videos=0)


def _evaluate(config: DemoConfig, out: Path) -> dict[str, Any]:
    latency = [0.0, *config.latency_ms] if config.latency_ms else 0.0
    return _rolled(config, out, "eval", out / "policy", config.episodes, videos=config.videos, latency_ms=latency)


def _rolled(
    config: DemoConfig,
    out: Path,
    folder: str,
    policy: str | Path,
    episodes: int,
    *,
    videos: int,
    latency_ms: Any = 0.0,
) -> dict[str, Any]:
    """Evaluate on the split ``test`` into a folder of its own; a finished one is read."""
    from robopolicy.assess import evaluate
    from robopolicy.evaluation.report import read_report

    if (out / folder / "report.html").is_file():
        report = read_report(out / folder)
    else:
        points = len(latency_ms) if isinstance(latency_ms, list) else 1
        with Progress(folder, episodes * points) as bar:
            report = evaluate(
                policy,
                config.task,
                embodiment=config.embodiment,
                episodes=range(episodes),
                workers=config.workers,
                latency_ms=latency_ms,
                videos=videos,
                out=out / folder,
                progress=bar.count,
            )
    block = {name: report[name] for name in EVALUATION}
    return {**block, "safety": report["safety"], "sweep": report["sweep"], "report": f"{folder}/report.html"}


def _deploy(config: DemoConfig, out: Path) -> dict[str, Any]:
    from robopolicy.deploy.episodes import run_deploy_episodes

    path = out / "deploy" / "deploy_report.json"
    if path.is_file():
        return read_json(path, "deploy block")
    with Progress("deploy, in real time", config.deploy_episodes) as bar:
        block = run_deploy_episodes(
            out / "policy", config.robot, range(config.deploy_episodes), "test", out / "deploy", progress=bar.count
        )
    write_json(path, plain(block))
    return block


def _summary(report: Mapping[str, Any], out: Path) -> list[str]:
    """What the terminal shows at the end."""

    def rate(name: str) -> str:
        block = report[name]
        low, high = block["wilson_95"]
        return f"{block['successes']} of {block['n']} = {block['success_rate']:.3f} ({low:.3f} to {high:.3f})"

    deploy = report["deploy"]
    kill = deploy["kill_test"]
    return [
        *(f"{name:<8}{rate(name)}" for name in ("expert", "null", "eval", "deploy")),
        f"deploy  {deploy['missing_setpoints']} missing setpoints, {sum(deploy['violations'].values())} out of limits, "
        f"largest seam step {deploy['max_seam_velocity_step']:.2f} of one tick's limit, "
        f"policy killed in motion: {'stopped and held' if kill and kill['passed'] else 'FAILED'}",
        f"time    {report['seconds']['total'] / 60:.1f} min",
        f"report  {out / 'report.html'}",
    ]
