"""The whole way in one run: collect, train, evaluate, deploy, and one report of it all.

Everything is kept below out=. A run that was stopped goes on where it was when the same command is given again.
--quick does it with fewer demonstrations, steps and episodes; its policy is weaker.

Examples:
  robopolicy demo
  robopolicy demo --quick
  robopolicy demo embodiment=ur5e_2f85 robot=sim_ur5e_2f85 out=runs/demo_ur5e
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robopolicy.cli.arguments import split_arguments
from robopolicy.config import load, setting
from robopolicy.deploy.config import RobotConfig
from robopolicy.training.recipe import Recipe

__all__ = ["CONFIG", "QUICK", "DemoConfig", "run"]

QUICK = (
    *("demonstrations=100", "episodes=20", "expert_episodes=20", "deploy_episodes=3", "latency_ms=[]", "videos=2"),
    *("recipe.stages.policy.steps=1800", "out=runs/demo_quick"),
    # the clean chunk is learnt from fewer steps than the noise
    "recipe.stages.policy.parameters.schedule.prediction=x0",
)
"""Overrides that ``--quick`` puts before the user's own."""


@dataclass(frozen=True)
class DemoConfig:
    """Keys of ``robopolicy demo``."""

    recipe: Recipe = setting("what to train; robopolicy list recipes")
    robot: RobotConfig = setting("simulated robot that the daemon drives; robopolicy list robots")
    task: str = setting("what to do", registry="task")
    embodiment: str = setting("with which robot", registry="embodiment")
    out: str = setting("folder of everything that comes out")
    demonstrations: int = setting("successful demonstrations to train on", ge=2)
    episodes: int = setting("unseen episodes for the trained and the null policy", ge=1)
    expert_episodes: int = setting("unseen episodes for the expert", ge=1)
    deploy_episodes: int = setting("episodes in real time through the daemon", ge=1)
    latency_ms: tuple[float, ...] = setting("further inference latencies to evaluate at", gt=0)
    videos: int = setting("filmed episodes", ge=0)
    workers: int = setting("processes that simulate", ge=1)


CONFIG = DemoConfig


def run(argv: Sequence[str]) -> int:
    """Run the demo. Returns 0 when every stage has run to its end, whatever the success rate is."""
    quick = "--quick" in argv
    _, overrides = split_arguments([a for a in argv if a != "--quick"])
    config = load(DemoConfig, "demo", [*(QUICK if quick else ()), *overrides])
    from robopolicy.cli.demo_run import run_demo

    command = " ".join(["robopolicy", "demo", *argv])
    report = run_demo(config, command=command)
    for line in report["summary"]:
        print(line)
    return 0
