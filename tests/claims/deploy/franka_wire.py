"""The Franka driver drives the real libfranka: a sine is followed in franky-sim, silence is noticed, a stop stops.

    python tests/claims/deploy/franka_wire.py --work runs/franka --out docs/results

Builds an environment of its own below --work (650 MB: franky-sim brings MuJoCo and Pinocchio) for the simulated robot;
of it, the driver's 1 kHz process is shown ``pylibfranka`` alone. ``--packages DIR`` takes a folder that
``pip install --target DIR franky-sim pylibfranka`` has filled instead.

Everything is judged in the robot's own time: on a small machine franky-sim runs slower than the clock on the wall, so
the driver is allowed to play its path faster (``longest_ratio``), which nobody should allow beside a robot.

- Seven joints follow a raised cosine for at least ``--cycles`` robot cycles: what the robot was commanded (``q_d``)
  spans it within 1 %, all joints in phase; what it measured spans it within 5 % and ends 5 mrad from the beginning.
  (How far it lags behind is the simulator's impedance, at a speed that the machine decides.)
- A stop in motion ends control; enabling again works.
- The simulator is stopped (SIGSTOP): DeployError; it goes on: states come again.

Control: the same run without any setpoint sent; the same comparison has to say that nothing was followed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run
import numpy as np

from robopolicy.deploy.drivers.franka import FrankaDriver
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.types import Setpoint

PACKAGES = ("franky-sim==1.0.4", "pylibfranka==0.21.3")
CARD = load_embodiment("panda")
TICK_S, PERIOD_TICKS, SIZE, TIMEOUT_S = 0.01, 400, 0.1, 0.5
ADDRESS = "127.0.9.1"
# more than the six of the daemon: the simulator's speed changes with the load of the machine
LEAD_TICKS = 25
COMMAND = "python tests/claims/deploy/franka_wire.py --work runs/franka --out docs/results"


def packages(work: Path, given: str) -> Path:
    """Folder of the installed packages; filled on the first run."""
    folder = Path(given) if given else work / "packages"
    if not given and not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *PACKAGES], check=True)
        (folder / "complete").touch()
    return folder.resolve()


def show_library(folder: Path, work: Path) -> None:
    """Let the driver's process import pylibfranka, and nothing else of that folder."""
    shown = work / "pylibfranka_only"
    shown.mkdir(exist_ok=True)
    for name in ("pylibfranka", "pylibfranka.libs"):
        if not (shown / name).exists():
            (shown / name).symlink_to(folder / name)
    os.environ["PYTHONPATH"] = str(shown.resolve())


@contextmanager
def simulator(folder: Path, work: Path) -> Any:
    """franky-sim in a process of its own."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = f"{folder}{os.pathsep}{folder / 'cmeel.prefix' / 'lib' / version / 'site-packages'}"
    words = [sys.executable, "-m", "franky_sim.run_server", "-s", "mujoco", "--hostname", ADDRESS]
    with (work / "franky_sim.log").open("w") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=work, env={**os.environ, "PYTHONPATH": path}
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Connect" in line:
                break
        else:
            raise SystemExit(f"franky-sim did not start: {work / 'franky_sim.log'}")
        yield process
    finally:
        process.kill()
        process.communicate()


def driver() -> FrankaDriver:
    """As in configs/robot/franka.yaml, but for a kernel without PREEMPT_RT and a robot slower than the clock."""
    return FrankaDriver(
        CARD, tick_s=TICK_S, timeout_s=TIMEOUT_S, address=ADDRESS, realtime="ignore", priority=0, longest_ratio=4.0
    )


def follow(arm: FrankaDriver, cycles: int, *, sends: bool) -> dict[str, float]:
    """Stream for ``cycles`` robot cycles and until the path is where it began. -> what was commanded, measured."""
    arm.read()
    assert arm._record is not None
    begin_ms, start = arm._record[2], np.array(arm._record[7:14])
    rows: list[tuple[Any, ...]] = []
    begin_ns, tick_ns, k = monotonic_ns(), round(TICK_S * 1e9), 0
    ends = 0  # a stream has to end at rest
    while ends < 5:
        ends += bool(ends) or (arm._record[2] - begin_ms >= cycles and k % PERIOD_TICKS == 0)
        arm.read()
        rows.append(arm._record[7:14] + arm._record[21:28])
        offset = 0.0 if ends else SIZE * (1 - np.cos(2 * np.pi * k / PERIOD_TICKS))
        if sends:
            arm.command(
                Setpoint(begin_ns + (k + LEAD_TICKS) * tick_ns, np.append(start + offset, CARD.home_position[7])), 0
            )
        k += 1
        time.sleep(max(begin_ns + k * tick_ns - monotonic_ns(), 0) / 1e9)
    cycles_done = arm._record[2] - begin_ms
    for _ in range(100):  # until it has come to rest
        arm.read()
        time.sleep(TICK_S)
    left = np.abs(np.array(arm._record[7:14]) - start).max()
    measured, wanted = np.array(rows)[:, :7] - start, np.array(rows)[:, 7:] - start
    return {
        "robot cycles": int(cycles_done),
        "setpoints": k if sends else 0,
        "lost cycles": arm.lost,
        "commanded span": float(np.ptp(wanted, axis=0).min()),
        "joints out of phase by": float(np.ptp(wanted, axis=1).max()),
        "measured span": float(np.ptp(measured, axis=0).min()),
        "measured left at the end": float(left),
    }


def followed(found: dict[str, float], cycles: int) -> bool:
    """The comparison that the control has to fail."""
    span_ok = abs(found["commanded span"] - 2 * SIZE) < 0.01 * 2 * SIZE
    in_phase = found["joints out of phase by"] < 1e-3
    measured = abs(found["measured span"] - 2 * SIZE) < 0.05 * 2 * SIZE and found["measured left at the end"] < 0.005
    return bool(span_ok and in_phase and measured and found["robot cycles"] >= cycles)


def wait(holds: Any, limit_s: float = 20.0) -> bool:
    """Whether it comes to hold."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            if holds():
                return True
        except DeployError:
            pass
        time.sleep(0.01)
    return False


def stops(arm: FrankaDriver) -> bool:
    """Stop in motion, control given back, no fault, and enabled again."""
    begin_ns, tick_ns = monotonic_ns(), round(TICK_S * 1e9)
    start = arm.read().position
    for k in range(60):
        arm.read()
        offset = np.append(np.full(7, SIZE * (1 - np.cos(2 * np.pi * k / PERIOD_TICKS))), 0.0)
        arm.command(Setpoint(begin_ns + (k + LEAD_TICKS) * tick_ns, start + offset), 0)
        time.sleep(max(begin_ns + (k + 1) * tick_ns - monotonic_ns(), 0) / 1e9)
    arm.stop()
    given_back = wait(lambda: arm.read() and arm._record is not None and not arm._record[3])
    fine = not arm.read().fault
    arm.enable()
    return given_back and fine and not arm.read().fault


def silent(arm: FrankaDriver, process: subprocess.Popen[str]) -> float:
    """Seconds until a stopped simulator is a DeployError; infinite when it never was."""
    process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 10:
            try:
                arm.read()
            except DeployError:
                return time.monotonic() - begin
            time.sleep(TICK_S)
        return float("inf")
    finally:
        process.send_signal(signal.SIGCONT)


def main() -> None:
    """The run and its control."""
    options = claim_run.arguments(__doc__ or "", packages="", cycles=4000)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    folder = packages(work, options.packages)
    show_library(folder, work)
    with simulator(folder, work) as process, driver() as arm:
        arm.connect()
        arm.enable()
        control = follow(arm, min(options.cycles, 500), sends=False)
        found: dict[str, Any] = follow(arm, options.cycles, sends=True)
        found["followed"] = followed(found, options.cycles)
        found["stopped, and enabled again"] = stops(arm)
        found["silence noticed after s"] = round(silent(arm, process), 3)
    control_followed = followed(control, min(options.cycles, 500))
    passed = found["followed"] and found["stopped, and enabled again"] and found["silence noticed after s"] < 10
    result = ClaimResult(
        claim="the Franka driver follows, stops and notices silence through the real libfranka",
        source=f"{', '.join(PACKAGES)}",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f"commanded span within 1 %, measured within 5 %, over {options.cycles} robot cycles; stop; DeployError",
        value=found,
        interval=None,
        n=int(found["robot cycles"]),
        seeds=[],
        control={"what": "the same run without setpoints", "value": control, "failed": not control_followed},
        passed=bool(passed and not control_followed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "franka_wire")
    sys.exit(not result.passed)


if __name__ == "__main__":
    main()
