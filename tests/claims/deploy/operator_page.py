"""STOP on the operator's page, clicked in headless Chromium in motion: from the click to the brake, and to HOLD.

    python tests/claims/deploy/operator_page.py --work runs/operator_page --out docs/results --clicks 40 --losses 10

Budget: full, about 2 minutes; Chromium has to be there. The simulated Panda without physics follows a sine. The clock
starts before the mouse event is given to the browser; the brake is the first setpoint, as the robot recorded it, that
was sent after RUNNING was left; HOLD is the first one sent in HOLD. Violations are those in the robot's own report.
Then the supervisor is killed, and the page has to say so within a second. The control clicks beside STOP: the arm must
go on moving.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy"))
import claim_run
import numpy as np
from operator_browser import CHROMIUM, Browser

from robopolicy.deploy.config import DaemonConfig, DeployConfig, OperatorConfig, RobotConfig
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.operator import page_url
from robopolicy.deploy.records import FLAG_MOVING, FLAG_RUNNING
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.evaluation.claims import ClaimResult

ROBOT = RobotConfig(
    target="robopolicy.deploy.drivers.sim_robot:SimRobotDriver",
    embodiment="panda",
    process="robopolicy.deploy.drivers.sim_process",
    plant="robopolicy.sim.plant:KinematicPlant",
)
CONFIG = DaemonConfig("robopolicy.deploy.scripted:sweep", ROBOT, DeployConfig(operator=OperatorConfig(port=0)))
BRAKE_MS, HOLD_MS, LOST_MS = 100.0, 1000.0, 1000.0
WATCHED_S = 2.0
"""How long the control waits for a stop that must not come."""


def press(page: Browser, where: tuple[float, float]) -> int:
    """Click there. -> monotonic time before the browser knew of it."""
    before_ns = monotonic_ns()
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)
    return before_ns


def middle(page: Browser, selector: str) -> tuple[float, float]:
    """The middle of an element, in CSS pixels."""
    box = page.run(f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
                   " return [r.x + r.width / 2, r.y + r.height / 2]; })()")  # fmt: skip
    return box[0], box[1]


def start(daemon: Daemon) -> None:
    """In motion, and seen so by the robot; a stop of the machine's own is no answer."""
    daemon.request("start")

    def moves(status: dict[str, Any]) -> bool:
        if status["state"] == "HOLD" and status["reason"] == "overrun":
            daemon.request("start")
        return bool(status["state"] == "RUNNING" and not status["report"]["at_rest"])

    daemon.wait(moves, what="motion", timeout_s=60.0)


def recorded(daemon: Daemon) -> np.ndarray[Any, Any]:
    """Every setpoint since the daemon began, as it came over the wire."""
    number = daemon.request("snapshot")["order"]
    daemon.wait(lambda s: s["report"]["done"] >= number, what="the robot's record", timeout_s=30.0)
    return np.load(max((daemon.run_dir / "setpoints").glob("*.npy")))


def clicks(daemon: Daemon, page: Browser, n: int, wait_s: list[float]) -> tuple[list[float], list[float]]:
    """Click STOP ``n`` times in motion. -> ms to the first braking setpoint, ms to the first one of HOLD."""
    stop, pressed = middle(page, "#stop"), []
    while len(pressed) < n:
        start(daemon)
        time.sleep(wait_s[len(pressed)])
        moving = daemon.status()["state"] == "RUNNING"
        before_ns = press(page, stop)
        daemon.wait(lambda s: s["state"] == "HOLD", what="HOLD after the click", timeout_s=20.0)
        time.sleep(0.1)  # or the next start comes before the first setpoint of HOLD
        if moving and daemon.status()["reason"] == "operator":
            pressed.append(before_ns)
    trace = recorded(daemon)
    brakes, holds = [], []
    for before_ns in pressed:
        after = trace[trace["sent_ns"] > before_ns]
        # The dispatch itself takes time, and the arm runs on meanwhile: the brake comes after its last RUNNING.
        brake = after[(after["flags"] & FLAG_RUNNING == 0) & (after["flags"] & FLAG_MOVING != 0)][0]
        held = after[(after["flags"] & (FLAG_RUNNING | FLAG_MOVING)) == 0][0]
        brakes.append((int(brake["sent_ns"]) - before_ns) / 1e6)
        holds.append((int(held["sent_ns"]) - before_ns) / 1e6)
    return brakes, holds


def control(daemon: Daemon, page: Browser, n: int) -> int:
    """Click beside STOP. -> how often the arm stopped although nobody asked it to."""
    stopped, beside = 0, middle(page, "h1")
    for _ in range(n):
        start(daemon)
        press(page, beside)
        time.sleep(WATCHED_S)
        stopped += daemon.status()["reason"] == "operator"
        daemon.send("stop", "HOLD")
    return stopped


def loss(run_dir: Path) -> tuple[float, int]:
    """Kill the supervisor in motion. -> ms until the page said so, violations until then."""
    daemon = Daemon(run_dir, CONFIG)
    try:
        daemon.up()
        with Browser(page_url(run_dir)) as page:
            page.wait("document.documentElement.dataset.link === 'live'")
            start(daemon)
            violations = sum(daemon.status()["report"]["violations"].values())
            before_ns = monotonic_ns()
            os.kill(daemon.process.pid, signal.SIGKILL)
            page.wait("!document.getElementById('alarm').hidden && document.documentElement.dataset.link === 'lost'")
            return (monotonic_ns() - before_ns) / 1e6, violations
    finally:
        daemon.close()


def summary(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and the worst."""
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1), "max": round(max(values), 1)}


def main() -> None:
    """Click, watch, kill, and write the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], clicks=40, losses=10)
    if CHROMIUM is None:
        raise SystemExit("no chromium; mend: apt-get install chromium")
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    # at any phase of the swing
    waits = [float(x) for x in np.random.default_rng(0).uniform(0.0, 1.0, options.clicks)]
    with Daemon(options.work / "clicks", CONFIG) as daemon:
        daemon.up()
        with Browser(page_url(daemon.run_dir)) as page:
            page.wait("document.getElementById('state').textContent === 'HOLD'")
            brakes, holds = clicks(daemon, page, options.clicks, waits)
            beside = max(3, options.clicks // 8)
            stopped = control(daemon, page, beside)
            console = page.errors
        report = daemon.status()["report"]
    violations = sum(report["violations"].values())
    lost = []
    for k in range(options.losses):
        found, more = loss(options.work / f"loss{k}")
        lost.append(found)
        violations += more
    brake, hold, red = summary(brakes), summary(holds), summary(lost)
    reached = brake["p95"] <= BRAKE_MS and hold["max"] <= HOLD_MS and red["max"] <= LOST_MS and violations == 0
    result = ClaimResult(
        claim="a click on STOP of the operator's page brakes the arm within its limits; a page that lost it says so",
        source="own",
        command="python tests/claims/deploy/operator_page.py --work runs/operator_page --out docs/results "
        f"--clicks {options.clicks} --losses {options.losses}",
        commit=claim_run.commit(),
        target=f"first braking setpoint p95 <= {BRAKE_MS:.0f} ms, HOLD <= {HOLD_MS:.0f} ms, "
        f"page red <= {LOST_MS:.0f} ms, no violation, nothing on the console",
        value={
            "ms to first braking setpoint": brake,
            "ms to HOLD": hold,
            "ms from SIGKILL to red": red,
            "violations": violations,
            "console": len(console),
        },
        interval=None,
        n=len(brakes),
        seeds=[0],
        control={"what": f"a click beside STOP, {beside} times", "value": stopped, "failed": stopped == 0},
        passed=bool(reached and stopped == 0 and not console and len(brakes) == options.clicks),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "operator_page")


if __name__ == "__main__":
    main()
