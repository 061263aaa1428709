"""``robopolicy deploy calibrate-latency``: measure every delay from sensor to motion, into latency.json.

A dry run of the policy on live observations, then, with consent, a small slow turn of the tool.

Examples:
  robopolicy deploy calibrate-latency runs/pick robot=sim_panda
  robopolicy deploy calibrate-latency runs/pick robot=ur5e move=true
  robopolicy deploy calibrate-latency runs/pick robot=ur5e move=false     # everything but the lag of the motion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.cli.arguments import parse
from robopolicy.config import setting, to_dict
from robopolicy.control.config import ControlConfig
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig

__all__ = ["CONFIG", "CalibrateConfig", "begin"]


@dataclass(frozen=True)
class CalibrateConfig:
    """Keys of ``robopolicy deploy calibrate-latency``."""

    policy: str = setting("run folder, or any policy of robopolicy deploy; also the first argument")
    robot: RobotConfig = setting("robopolicy list robots")
    deploy: DeployConfig = setting("tunables of the daemon")
    out: str | None = setting("where latency.json goes; null: the run folder, or runs/latency")
    seconds: float = setting("length of the dry run, s", gt=0)
    move: bool | None = setting("turn the tool by three degrees; null: only on a simulated robot")
    cameras: tuple[str, ...] | None = setting("cameras to stream; null: those that the policy reads")
    control: ControlConfig = setting("settings of the executor")


CONFIG = CalibrateConfig


def begin(argv: Sequence[str]) -> int:
    """Measure, print, write; returns 0."""
    from robopolicy.deploy.calibrate import FILE, USES, calibrate, require_consent
    from robopolicy.deploy.policy_source import cameras_of, check_policy
    from robopolicy.embodiment import load_embodiment

    config = parse(CalibrateConfig, "deploy_calibrate", argv, positional=("policy",))
    check_policy(config.policy)
    card = load_embodiment(config.robot.embodiment)
    cameras = cameras_of(config.policy, card) if config.cameras is None else config.cameras
    daemon = DaemonConfig(config.policy, config.robot, config.deploy, to_dict(config.control), cameras)
    move = require_consent(daemon, config.move)
    folder = Path(config.policy) if Path(config.policy).is_dir() else Path("runs/latency")
    out = Path(config.out) if config.out else folder
    found = calibrate(daemon, out, seconds=config.seconds, move=move)
    for name, use in USES.items():
        print(f"{name:<28} {_shown(found[name])}\n{'':<28} {use}")
    print(f"figures: {out / FILE}")
    return 0


def _shown(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "not measured (move=true)"
    if "joints" in figure:
        return f"{figure['max']:.1f} (slowest of {figure['n']} joints that moved)"
    return f"p50 {figure['p50']:.1f}  p95 {figure['p95']:.1f}  p99 {figure['p99']:.1f}  n {figure['n']}"
