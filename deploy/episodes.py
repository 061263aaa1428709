"""Episodes in real time through every process of the daemon, and the test that kills the policy in motion.

The demo's deploy block is made here. What counts as missing or out of limits is what the *robot* recorded, in its own
process, from the setpoints that arrived there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig, robot_config
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.policy_source import cameras_of, check_policy
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.evaluation.result import EpisodeResult
from robopolicy.evaluation.statistics import wilson

__all__ = ["kill_test", "run_deploy_episodes", "run_episode", "set_scene"]

Progress = Callable[[EpisodeResult], None]
MOVING = ("ALIGNING", "RUNNING")


def run_deploy_episodes(
    policy_dir: str | Path,
    robot: str | RobotConfig,
    episodes: Iterable[int],
    split: str = "test",
    out: str | Path = "runs/deploy",
    *,
    deploy: DeployConfig | None = None,
    control: Mapping[str, Any] | None = None,
    cameras: Sequence[str] | None = None,
    max_steps: int | None = None,
    kill: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run simulated episodes in real time, one after another, through supervisor, worker, loop and robot.

    Args:
        policy_dir: Run folder or checkpoint, ``module:attribute`` of a policy factory, or a policy server's address.
        robot: Registry name or configuration of a simulated robot.
        episodes: Indices in ``split``.
        split: ``train``, ``val`` or ``test``.
        out: Run folder of the daemon: logs, socket, recorded setpoints.
        deploy: Tunables.
        control: Overrides of the executor's configuration.
        cameras: Cameras to stream; those that the policy reads by default.
        max_steps: Control steps at most; the task's horizon by default.
        kill: Also run :func:`kill_test`, on the last episode's scene.
        progress: Called with each result.

    Returns:
        The block of the report: ``n``, ``success_rate``, ``wilson_95``, ``missing_setpoints``, ``violations`` ...,
        and ``episodes``, the records as dicts.

    Raises:
        DeployError: the daemon cannot be started, or the policy reads a goal.
    """
    chosen = robot_config(robot) if isinstance(robot, str) else robot
    chosen_card = load_embodiment(chosen.embodiment)
    check_policy(str(policy_dir))
    settings = deploy or DeployConfig()
    if cameras is None:
        cameras = cameras_of(str(policy_dir), chosen_card, settings.remote)
    config = DaemonConfig(
        policy=str(policy_dir),
        robot=chosen,
        deploy=settings,
        control=dict(control or {}),
        cameras=tuple(cameras),
    )
    results: list[EpisodeResult] = []
    raws: list[dict[str, Any]] = []
    killed = None
    indices = list(episodes)
    with Daemon(out, config) as daemon:
        daemon.up()
        for index in indices:
            result, raw = run_episode(daemon, config, split=split, index=index, max_steps=max_steps)
            results.append(result)
            raws.append(raw)
            if progress is not None:
                progress(result)
        if kill and indices:
            killed = kill_test(daemon, split=split, index=indices[-1])
    return _block(config, results, raws, killed)


def set_scene(daemon: Daemon, split: str, index: int) -> dict[str, Any]:
    """Leave the stream, set up scene ``(split, index)``, hold again. -> the robot's report.

    Raises:
        DeployError: the scene cannot be set up.
    """
    state = daemon.status()["state"]
    if state in (*MOVING, "PAUSED"):
        state = daemon.send("stop", "HOLD")["state"]
    if state == "STOPPING":
        state = daemon.wait(lambda s: s["state"] == "HOLD", what="HOLD")["state"]
    if state == "HOLD":
        daemon.send("disable", "ARMED")
    elif state in ("FAULT", "ESTOP"):
        daemon.send("arm", "ARMED")
    wired = bool(daemon.config.robot.wire)
    if wired:
        # No arm jumps from scene to scene: a driver that watches its servos would bring it back.
        daemon.send("disconnect", "OFFLINE")
    number = daemon.request("reset_scene", split=split, index=index)["order"]
    status = daemon.wait(lambda s: s["report"]["done"] >= number, what=f"scene {split} {index}", timeout_s=30.0)
    if status["report"]["failed"]:
        raise DeployError(status["report"]["message"])
    if wired:
        daemon.send("connect", "CONNECTED", timeout_s=20.0)
        daemon.send("arm", "ARMED")
    daemon.request("begin_episode")
    daemon.send("enable", "HOLD")
    report: dict[str, Any] = status["report"]
    return report


def run_episode(
    daemon: Daemon, config: DaemonConfig, *, split: str, index: int, max_steps: int | None = None
) -> tuple[EpisodeResult, dict[str, Any]]:
    """One episode: scene, HOLD, start, until success or timeout, planned stop.

    Returns:
        The record, and the raw counts of monitor (``episode``) and robot (``report``).
    """
    report = set_scene(daemon, split, index)
    steps = max_steps or report["horizon"] or 200
    limit_s = steps * config.card.control_dt_s
    daemon.request("start")
    status = daemon.wait(lambda s: s["state"] != "HOLD", what="the arm to start")
    begin, interruptions = time.monotonic(), 0
    while True:
        counted = daemon.request("episode")["episode"]
        status = daemon.status()
        if counted["success_once"] or counted["running_s"] >= limit_s or status["state"] in ("FAULT", "ESTOP"):
            break
        if status["state"] == "HOLD" and status["reason"] == "overrun" and interruptions < 20:
            # The machine, not the policy, stopped the arm: go on, and say so in the record.
            interruptions += 1
            daemon.request("start")
        elif status["state"] == "HOLD" and time.monotonic() - begin > 0.5:
            break
        if time.monotonic() - begin > 3 * limit_s + config.deploy.first_chunk_timeout_s:
            break
        time.sleep(0.02)
    final = daemon.status()
    if final["state"] not in ("FAULT", "ESTOP"):
        daemon.request("stop")
        final = daemon.wait(lambda s: s["state"] == "HOLD", what="HOLD after stop")
    snapshot = daemon.request("snapshot")["order"]
    daemon.wait(lambda s: s["report"]["done"] >= snapshot, what="the robot's report")
    raw = daemon.request("episode") | {"interruptions": interruptions, "state": final["state"], "final": final}
    return _result(config, split, index, raw), raw


def kill_test(daemon: Daemon, *, split: str, index: int, after_s: float = 1.0) -> dict[str, Any]:
    """SIGKILL the policy worker in motion; the robot's own record says whether the arm stopped within its limits.

    Args:
        daemon: In any state; it is left in HOLD with a fresh worker.
        split, index: Scene.
        after_s: Seconds of motion before the kill.

    Returns:
        ``passed`` and what it rests on: final state and reason, seconds to rest, violations, missing setpoints.
    """
    set_scene(daemon, split, index)
    daemon.send("start", "RUNNING", timeout_s=30.0)
    time.sleep(after_s)
    moving = daemon.wait(
        lambda s: not s["report"]["at_rest"] or s["state"] not in MOVING, what="motion", timeout_s=20.0
    )
    os.kill(moving["processes"]["worker"]["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    stopped = daemon.wait(lambda s: s["state"] not in (*MOVING, "STOPPING"), what="the stop", timeout_s=20.0)
    # The robot still has a lookahead of setpoints to play when the loop has come to rest.
    daemon.wait(lambda s: s["report"]["at_rest"], what="the robot to rest", timeout_s=5.0)
    seconds = time.monotonic() - killed_s
    snapshot = daemon.request("snapshot")["order"]
    final = daemon.wait(lambda s: s["report"]["done"] >= snapshot, what="the robot's report")
    report, counted = final["report"], daemon.request("episode")["episode"]
    daemon.request("restart_worker")
    daemon.wait_ready()
    violations = sum(report["violations"].values())
    was_moving = moving["state"] == "RUNNING" and not moving["report"]["at_rest"]
    return {
        "passed": bool(was_moving and stopped["state"] == "HOLD" and report["at_rest"] and violations == 0),
        "was_moving": was_moving,
        "state": stopped["state"],
        "reason": stopped["reason"],
        "seconds_to_hold": round(seconds, 4),
        "stopping_ticks": counted["stopping_ticks"],
        "at_rest": report["at_rest"],
        "violations": report["violations"],
        "worst": report["worst"],
        "missing_setpoints": report["missing"],
        "watchdog_stops": report["watchdog_stops"],
    }


def _result(config: DaemonConfig, split: str, index: int, raw: Mapping[str, Any]) -> EpisodeResult:
    counted, report = raw["episode"], raw["report"]
    success = bool(counted["success_once"])
    fault = raw["state"] in ("FAULT", "ESTOP")
    latency = counted["latency_ms"]
    return EpisodeResult(
        index=index,
        split=split,
        task=config.robot.task or "none",
        embodiment=config.card.name,
        success_once=success,
        success_at_end=bool(counted["success_at_end"]),
        length=round(counted["running_s"] * config.card.control_hz),
        duration_s=counted["running_s"],
        termination="success" if success else "fault" if fault else "timeout",
        inference_ms=counted["inference_ms"],
        latency_ms=float(np.mean(latency)) if latency else 0.0,
        ticks=counted["ticks"],
        tracking_ticks=counted["tracking_ticks"],
        missing_setpoints=report["missing"],
        clipped_ticks=counted["clipped_ticks"],
        max_seam_velocity_step=counted["max_seam_velocity_step"],
        chunks=counted["chunks"],
        initial_state=report["initial_state"],
    )


def _block(
    config: DaemonConfig,
    results: Sequence[EpisodeResult],
    raws: Sequence[Mapping[str, Any]],
    kill: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The deploy block of the report."""
    n = len(results)
    successes = sum(r.success_once for r in results)
    reports = [raw["report"] for raw in raws]
    kinds = reports[0]["violations"] if reports else {}
    return {
        "robot": config.robot.embodiment,
        "policy": config.policy,
        "between": config.deploy.between.kind,
        "n": n,
        "successes": successes,
        "success_rate": successes / n if n else 0.0,
        "wilson_95": list(wilson(successes, n)) if n else [0.0, 1.0],
        "missing_setpoints": sum(r.missing_setpoints for r in results),
        "running_ticks": sum(r.ticks for r in results),
        "max_seam_velocity_step": max((r.max_seam_velocity_step for r in results), default=0.0),
        "setpoint_hz": float(np.mean([report["setpoint_hz"] for report in reports])) if reports else 0.0,
        "lateness_ms": _quantiles([x for raw in raws for x in raw["episode"]["late_ms"]]),
        "violations": {kind: sum(report["violations"][kind] for report in reports) for kind in kinds},
        "worst": {kind: max(report["worst"][kind] for report in reports) for kind in kinds},
        "inference_ms": _quantiles([x for r in results for x in r.inference_ms]),
        "latency_ms": _quantiles([x for raw in raws for x in raw["episode"]["latency_ms"]]),
        "interruptions": sum(raw["interruptions"] for raw in raws),
        "overruns": max((raw["final"]["overruns"] for raw in raws), default=0),
        "robot_slips": sum(report["slips"] for report in reports),
        "refused": raws[-1]["final"]["refused"] if raws else {},
        "kill_test": None if kill is None else dict(kill),
        "episodes": [r.to_dict() for r in results],
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    p50, p95, p99 = (float(x) for x in np.percentile(values, (50, 95, 99)))
    return {"p50": round(p50, 4), "p95": round(p95, 4), "p99": round(p99, 4), "max": round(float(max(values)), 4)}
