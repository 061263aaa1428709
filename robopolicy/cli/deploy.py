"""Run a policy on a robot: supervisor, real-time loop and policy as separate processes, in the foreground.

Without episodes= the arm starts and follows the policy until Ctrl-C, which is a planned stop. With episodes=N a
simulated robot runs N scenes in real time, one after another, and episodes.json of the counts is written. From another
terminal, with the run folder (out=) of a running daemon:

  robopolicy deploy status DIR
  robopolicy deploy start|stop|pause|resume|estop|arm|enable DIR

With the black box that every run leaves (docs/blackbox.md), and before a robot is trusted with a policy:

  robopolicy deploy replay DIR|FILE.mcap            recompute every setpoint and compare bit for bit
  robopolicy deploy replay FILE.mcap robot=NAME     play its chunks on that robot
  robopolicy deploy diff DIR|FILE.mcap              commanded against measured, per joint
  robopolicy deploy dry-run RUN robot=NAME          everything but sending
  robopolicy deploy calibrate-latency RUN robot=NAME
  robopolicy deploy calibrate-servos robot=NAME device=PATH out=FILE

The operator's page (docs/operator.md) is served with deploy.operator.port=0; as a service of systemd:

  robopolicy deploy install-service RUN robot=NAME [--user]

A hardware emergency stop stays mandatory: this software is not a safety function.

Examples:
  robopolicy deploy runs/pick robot=sim_panda
  robopolicy deploy runs/pick robot=sim_panda episodes=20 kill_test=true out=runs/pick/deploy
  robopolicy deploy expert robot=sim_ur5e_2f85 episodes=1
  robopolicy deploy ws://127.0.0.1:8000 robot=sim_panda
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robopolicy.cli.arguments import parse, split_arguments
from robopolicy.config import setting, to_dict
from robopolicy.control.config import ControlConfig
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.control_socket import request
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.operator import page_url
from robopolicy.deploy.policy_source import cameras_of, check_policy
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import CommandError, explain

__all__ = ["CONFIG", "CliConfig", "run"]

REMOTE = ("status", "start", "stop", "pause", "resume", "estop", "arm", "enable", "disable", "shutdown")
"""Words that talk to a running daemon instead of starting one."""

TOOLS = {
    "replay": "robopolicy.cli.deploy_replay",
    "diff": "robopolicy.cli.deploy_diff",
    "dry-run": "robopolicy.cli.deploy_dry_run",
    "calibrate-latency": "robopolicy.cli.deploy_calibrate",
    "calibrate-servos": "robopolicy.cli.deploy_calibrate_servos",
    "install-service": "robopolicy.cli.deploy_install",
}
"""Words that have a file of their own."""


@dataclass(frozen=True)
class CliConfig:
    """Keys of ``robopolicy deploy``."""

    policy: str = setting("run folder, expert, null, random, module:attribute, ws://HOST:PORT; also the first argument")
    robot: RobotConfig = setting("robopolicy list robots")
    deploy: DeployConfig = setting("tunables of the daemon")
    out: str | None = setting("run folder of the daemon; null: deploy in the policy's folder, or runs/deploy")
    episodes: int = setting("scenes of a simulated robot; 0 runs until Ctrl-C", ge=0)
    split: Literal["test", "val", "train"] = setting("split of the scenes")
    max_steps: int | None = setting("control steps of an episode; null: the task's horizon", ge=1)
    kill_test: bool = setting("after the episodes, kill the policy in motion and judge the stop")
    cameras: tuple[str, ...] | None = setting("cameras to stream; null: those that the policy reads")
    control: ControlConfig = setting("settings of the executor")


CONFIG = CliConfig


def run(argv: Sequence[str]) -> int:
    """Deploy, or talk to a daemon. Returns 0 when the arm was left in HOLD as planned, 1 otherwise."""
    if argv and argv[0] in REMOTE:
        return _remote(argv)
    if argv and argv[0] in TOOLS:
        return int(importlib.import_module(TOOLS[argv[0]]).begin(argv[1:]))
    config = parse(CliConfig, "deploy", argv, positional=("policy",))
    home = Path(config.policy) / "deploy" if Path(config.policy).is_dir() else Path("runs/deploy")
    out = Path(config.out) if config.out else home
    return _episodes(config, out) if config.episodes else _foreground(config, out)


def _remote(argv: Sequence[str]) -> int:
    named, rest = split_arguments(argv, positional=("command", "run_dir"))
    if rest or "run_dir" not in named:
        usage = f"robopolicy deploy {argv[0]} RUN_DIR"
        raise CommandError(explain("which daemon?", given=" ".join(argv), mend=usage))
    reply = request(named["run_dir"], named["command"])
    if named["command"] == "status":
        print(json.dumps(reply, indent=1))
        return 0
    time.sleep(0.05)
    if named["command"] != "shutdown":
        status = request(named["run_dir"], "status")
        print(f"{status['state']}  {status['message']}".rstrip())
    return 0


def _episodes(config: CliConfig, out: Path) -> int:
    from robopolicy.deploy.episodes import run_deploy_episodes

    def show(result: Any) -> None:
        word = "success" if result.success_once else result.termination
        print(f"episode {result.index}: {word} after {result.duration_s:.1f} s, {result.missing_setpoints} missing")

    block = run_deploy_episodes(
        config.policy,
        config.robot,
        range(config.episodes),
        config.split,
        out,
        deploy=config.deploy,
        control=to_dict(config.control),
        cameras=config.cameras,
        max_steps=config.max_steps,
        kill=config.kill_test,
        progress=show,
    )
    (out / "episodes.json").write_text(json.dumps(block, indent=1) + "\n")
    low, high = block["wilson_95"]
    print(f"success {block['successes']} of {block['n']} = {block['success_rate']:.3f} ({low:.3f} to {high:.3f})")
    print(f"missing setpoints {block['missing_setpoints']}, violations {sum(block['violations'].values())}")
    if block["kill_test"]:
        print(f"kill test: {'passed' if block['kill_test']['passed'] else 'FAILED'}")
    print(f"counts: {out / 'episodes.json'}")
    return 0


def _foreground(config: CliConfig, out: Path) -> int:
    card = load_embodiment(config.robot.embodiment)
    check_policy(config.policy)
    cameras = cameras_of(config.policy, card, config.deploy.remote) if config.cameras is None else config.cameras
    daemon_config = DaemonConfig(config.policy, config.robot, config.deploy, to_dict(config.control), cameras)
    print("a hardware emergency stop stays mandatory; Ctrl-C is a planned stop")
    with Daemon(out, daemon_config) as daemon:
        try:
            daemon.up()
            if config.deploy.operator.port >= 0:
                print(f"operator's page: {page_url(out)}")
            daemon.request("start")
            while daemon.process.poll() is None:
                _show(daemon.status())
                time.sleep(0.2)
            print("\nthe daemon has ended")
            return 1
        except KeyboardInterrupt:
            print("\nstopping")
            daemon.request("stop")
            status = daemon.wait(lambda s: s["state"] not in ("ALIGNING", "RUNNING", "STOPPING"), what="the stop")
            print(f"{status['state']}: the arm holds until its process ends")
            return 0 if status["state"] == "HOLD" else 1


def _show(status: dict[str, Any]) -> None:
    report, scene = status["report"], status["scene"]
    missing = f"  missing {report['missing']}  violations {sum(report['violations'].values())}" if report else ""
    step = f"  step {scene['step']}" if scene else ""
    why = f"  {status['reason']} {status['message']}".rstrip()
    line = (
        f"{status['state']:<9} {status.get('mode', ''):<9} late {status.get('late_ms', 0):6.2f} ms{step}{missing}{why}"
    )
    end = "" if sys.stdout.isatty() else "\n"
    print(f"\r{line:<110.110}" if not end else line, end=end, flush=True)
