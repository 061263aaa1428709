"""Faults in motion, for four drivers: how each ends, and what the simulated controller saw at its wire.

    python tests/claims/deploy/fault_campaign.py --work runs/claims/faults --out docs/results

Budget: full (about forty minutes). For each driver a daemon swings the arm; one fault after another is injected while
it moves: chunks that are wrong, a policy that fails, hangs or dies, a controller that freezes, loses, delays or
garbles its answers, stops by itself, slows down, or is gone, processes of the daemon killed or suspended, and what an
operator may do. What is finished in --work is not done again. Wanted of every single fault:

- zero setpoints out of the card's envelope (range, velocity, acceleration, jerk, a jump, a NaN) **at the wire**, judged
  by the box that plays the vendor's controller, in its own process;
- the arm ends at rest in HOLD, FAULT or ESTOP, or where the fault is to be lived with still moves;
- no motor's torque was dropped, where the box can tell;
- afterwards, with the fault gone and a person arming again, the arm swings again.

Control: what judges the wire sees a stream with one step of 0.2 rad in it, for every card.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import claim_run

from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig, robot_config
from robopolicy.deploy.daemon import Daemon
from robopolicy.errors import DeployError
from robopolicy.evaluation.claims import ClaimResult
from robopolicy.sim.wire import WireProcess

PEERS = Path(__file__).resolve().parent / "peers"
COMMAND = "python tests/claims/deploy/fault_campaign.py --work runs/claims/faults --out docs/results"
DRIVERS = {"ur": "virtual_ur5e", "feetech": "virtual_so101", "dynamixel": "virtual_widowx", "xarm": "virtual_xarm7"}
MOVING_S, AFTER_S = 0.8, 2.5
STOPPED, MOVING = ("HOLD", "FAULT", "ESTOP", "ARMED", "OFFLINE"), ("RUNNING", "ALIGNING", "PAUSED")
LEAST = 40


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: Of it.
        kind: ``chunk``, ``policy``, ``wire``, ``process`` or ``operator``.
        lived_with: The arm may go on moving.
        fresh: Needs a daemon of its own, because a part of it is gone afterwards.
    """

    name: str
    kind: str
    lived_with: bool = False
    fresh: bool = False


CHUNKS = [
    "nan",
    "all_nan",
    "infinite",
    "too_wide",
    "too_narrow",
    "other_dt",
    "other_robot",
    "nothing_valid",
    "too_long",
    "stale",
    "from_the_future",
    "ten_times_the_range",
    "zeros",
    "jump",
]
LIVED_CHUNKS = ["small_jump", "bang_bang", "one_row"]
FAULTS = (
    *(Fault(name, "chunk", name in LIVED_CHUNKS) for name in (*CHUNKS, *LIVED_CHUNKS)),
    *(Fault(name, "policy", fresh=True) for name in ("raises", "exits", "killed")),
    Fault("hangs", "policy", fresh=True),
    Fault("suspended", "policy", fresh=True),
    Fault("slow", "policy", True),
    Fault("freeze", "wire"),
    Fault("silent_clock", "wire", True),
    Fault("drop a tenth", "wire", True),
    Fault("drop all", "wire"),
    Fault("delay 5 ms", "wire", True),
    Fault("delay 500 ms", "wire"),
    Fault("corrupt a twentieth", "wire", True),
    Fault("corrupt all", "wire"),
    Fault("disconnect", "wire"),
    Fault("protective_stop", "wire"),
    Fault("emergency_stop", "wire"),
    Fault("half speed", "wire", True),
    Fault("no speed", "wire", True),
    Fault("controller suspended", "process"),
    Fault("controller suspended for 50 ms", "process", True),
    Fault("controller killed", "process", fresh=True),
    Fault("realtime killed", "process", fresh=True),
    Fault("realtime suspended", "process", fresh=True),
    Fault("realtime suspended for 30 ms", "process", True),
    Fault("realtime told to end", "process", fresh=True),
    Fault("supervisor killed", "process", fresh=True),
    Fault("supervisor suspended", "process", fresh=True),
    Fault("worker killed", "process", fresh=True),
    Fault("worker suspended", "process", fresh=True),
    Fault("logger killed", "process", True),
    Fault("guardian killed", "process", True, fresh=True),
    Fault("sensors killed", "process", fresh=True),
    Fault("stop", "operator"),
    Fault("estop", "operator"),
    Fault("pause and resume", "operator", True),
    Fault("start again and again", "operator", True),
    Fault("disable in motion", "operator", True),
    Fault("nonsense on the control socket", "operator", True),
)

WIRE: dict[str, dict[str, Any]] = {
    "freeze": {"freeze": True},
    "silent_clock": {"silent_clock": True},
    "drop a tenth": {"drop": 0.1},
    "drop all": {"drop": 1.0},
    "delay 5 ms": {"delay_s": 0.005},
    "delay 500 ms": {"delay_s": 0.5},
    "corrupt a twentieth": {"corrupt": 0.05},
    "corrupt all": {"corrupt": 1.0},
    "disconnect": {"disconnect": True},
    "protective_stop": {"protective_stop": True},
    "emergency_stop": {"emergency_stop": True},
    "half speed": {"speed_scale": 0.5},
    "no speed": {"speed_scale": 0.0},
}
CLEAR = {
    "freeze": False,
    "silent_clock": False,
    "drop": 0.0,
    "delay_s": 0.0,
    "corrupt": 0.0,
    "disconnect": False,
    "refuse": False,
    "protective_stop": False,
    "emergency_stop": False,
    "speed_scale": 1.0,
}


class Bench:
    """A box and a daemon that drives it as it would drive the real arm."""

    def __init__(self, driver: str, folder: Path):
        self.folder, self.driver = folder, driver
        folder.mkdir(parents=True, exist_ok=True)
        self.fault_file = folder / "fault"
        self.fault_file.write_text("")
        robot = robot_config(DRIVERS[driver])
        wire = dict(robot.wire)
        # an address of its own, so that nothing else on this machine is in the way
        if "link" in wire:
            wire["link"] = str(folder.resolve() / "bus")
        if "host" in wire:
            wire["host"] = "auto"
        self.box = WireProcess(wire.pop("target"), card=robot.embodiment, **wire)
        address = {**robot.driver, **self.box.address}
        fields = {**vars(robot), "process": "", "plant": "", "wire": {}, "driver": address}
        self.config = DaemonConfig(
            policy="faulty_policy:swing",
            robot=RobotConfig(**fields),
            deploy=DeployConfig(
                warm_up=0,
                worker_timeout_s=1.0,
                first_chunk_timeout_s=3.0,
                supervisor_timeout_s=1.0,
                record_setpoints=False,
            ),
        )
        self.daemon: Daemon | None = None
        self.stopped = False
        self.before = 0

    def swing(self) -> None:
        """Whatever happened, bring the arm into motion, with a new daemon if it must be; three attempts.

        Raises:
            DeployError: it does not move.
        """
        for attempt in range(3):
            try:
                return self._swing()
            except DeployError:
                if attempt == 2:
                    raise
                # the controller may have latched something that only a person clears
                self.stopped = True
                if attempt:
                    self.end()

    def _swing(self) -> None:
        self.fault_file.write_text("")
        self.box.fault(**CLEAR)
        if self.stopped:
            # a person at the pendant, or at the switch of the supply
            self.box.recover()
        self.stopped = False
        # from here on everything counts, the way back into motion too; what a person did at the supply does not
        seen = self.box.report()
        self.before = seen["violated"] + seen.get("torque_dropped", 0)
        if self.daemon is not None and not self._whole():
            self.end()
        if self.daemon is None:
            self.daemon = Daemon(self.folder / "run", self.config)
        state = self.daemon.wait_ready()["state"]
        if state in MOVING:
            self.daemon.send("stop", "HOLD")
        if state in ("FAULT", "ESTOP", "OFFLINE", "CONNECTED"):
            # a connection that broke is made anew, as a person would
            with contextlib.suppress(DeployError):
                self.daemon.send("arm", "ARMED", timeout_s=2.0)
                self.daemon.send("disconnect", "OFFLINE", timeout_s=5.0)
        self.daemon.up()
        self.daemon.send("start", "RUNNING", timeout_s=30.0)
        time.sleep(MOVING_S)

    def _whole(self) -> bool:
        assert self.daemon is not None
        try:
            found = self.daemon.status()
        except DeployError:
            return False
        return all(process["alive"] for process in found["processes"].values())

    def end(self) -> None:
        """End the daemon, however it stands."""
        if self.daemon is not None:
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.daemon.close()
        self.daemon = None

    @property
    def pids(self) -> dict[str, int]:
        """Process ids as last known."""
        assert self.daemon is not None
        with contextlib.suppress(DeployError):
            found = self.daemon.status()
            self._pids = {name: process["pid"] for name, process in found["processes"].items()}
            self._pids["supervisor"] = found["pid"]
        return getattr(self, "_pids", {})

    def close(self) -> None:
        """End everything."""
        try:
            self.end()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.box.process.pid, signal.SIGCONT)
            self.box.close()


def inject(bench: Bench, fault: Fault) -> None:
    """Do it, now."""
    assert bench.daemon is not None
    daemon, name = bench.daemon, fault.name
    if fault.kind in ("chunk", "policy"):
        bench.fault_file.write_text(name)
    elif name in WIRE:
        bench.box.fault(**WIRE[name])
        bench.stopped = name in ("protective_stop", "emergency_stop")
    elif fault.kind == "process":
        _process(bench, name)
    elif name in ("stop", "estop"):
        daemon.request(name)
    elif name == "pause and resume":
        daemon.send("pause", "PAUSED")
        time.sleep(0.5)
        daemon.send("resume", "RUNNING", timeout_s=20.0)
    elif name == "start again and again":
        for _ in range(20):
            daemon.request("start")
    elif name == "disable in motion":
        daemon.request("disable")
    else:
        with contextlib.suppress(DeployError):
            daemon.request("launch", x=[1] * 1000)
        with contextlib.suppress(DeployError):
            daemon.request("reset_scene", split="test", index=-1)


def _process(bench: Bench, name: str) -> None:
    who, what = name.split(" ", 1)
    pid = bench.box.process.pid if who == "controller" else bench.pids[who]
    if what == "told to end":
        os.kill(pid, signal.SIGTERM)
    elif what == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGSTOP)
        if "for" in what:
            time.sleep(float(what.split()[2]) / 1e3)
            os.kill(pid, signal.SIGCONT)


def outcome(bench: Bench, fault: Fault, state: str) -> dict[str, Any]:
    """What the box saw; it is let go on when it had been stopped, and killed boxes saw what they saw before."""
    gone = fault.name == "controller killed"
    if fault.name == "controller suspended":
        os.kill(bench.box.process.pid, signal.SIGCONT)
    if not gone:
        # a frozen controller says where it stands only when it runs again; a stop at the arm stays pressed
        pressed = fault.name if fault.name in ("protective_stop", "emergency_stop") else "freeze"
        bench.box.fault(**{**CLEAR, pressed: pressed != "freeze"})
        time.sleep(0.5)
    report = {} if gone else bench.box.report()
    still = gone or bool(report["at_rest"])
    ended = state in STOPPED and still
    bad = 0 if gone else report["violated"] + report.get("torque_dropped", 0) - bench.before
    if bad:
        bench.box.save(bench.folder / f"{fault.name.replace(' ', '_')}.npz")
    return {
        "fault": fault.name,
        "kind": fault.kind,
        "state": state,
        "at_rest": still,
        "violated": None if gone else bad,
        "torque_dropped": report.get("torque_dropped", 0),
        "first_violation": report.get("first_violation", ""),
        "reason": bench.reason,
        "passed": bool((ended or fault.lived_with) and not bad),
    }


def one(bench: Bench, fault: Fault) -> dict[str, Any]:
    """Swing, inject, wait, look, and swing again."""
    bench.swing()
    inject(bench, fault)
    bench.reason, state = "", "gone"
    # without news the arm follows what it has been told to the end, ever slower, and then waits for a while
    scheduled_s = 2.5 * 15 * bench.config.card.control_dt_s + bench.config.deploy.dry_grace_s
    until = time.monotonic() + (AFTER_S if fault.lived_with else max(AFTER_S, scheduled_s + 1.0))
    while time.monotonic() < until:
        time.sleep(0.05)
        with contextlib.suppress(DeployError):
            assert bench.daemon is not None
            status = bench.daemon.status()
            state, bench.reason = status["state"], f"{status['reason']} {status['message']}".strip()
        if state in ("FAULT", "ESTOP", "HOLD") and not fault.lived_with:
            break
    time.sleep(0.5)
    if state == "gone" or fault.name.startswith(("realtime", "supervisor")):
        state = "OFFLINE" if fault.fresh else state
    found = outcome(bench, fault, state)
    if fault.fresh:
        bench.end()
    return found


def campaign(driver: str, folder: Path, chosen: tuple[Fault, ...]) -> list[dict[str, Any]]:
    """Every fault of one driver; those in ``faults.json`` are not done again."""
    kept = folder / "faults.json"
    results: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else []
    done = {found["fault"] for found in results}
    bench: Bench | None = None
    try:
        for fault in (f for f in chosen if f.name not in done):
            if bench is None:
                bench = Bench(driver, folder)
            try:
                found = one(bench, fault)
            except (DeployError, RuntimeError, OSError) as error:
                found = {
                    "fault": fault.name,
                    "kind": fault.kind,
                    "state": "?",
                    "passed": False,
                    "reason": str(error)[:500],
                }
            results.append(found)
            print(driver, json.dumps(found), flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(results, indent=1))
            if fault.name == "controller killed" or found["state"] == "?":
                bench.close()
                bench = None
    finally:
        if bench is not None:
            bench.close()
    return results


def control(driver: str) -> int:
    """Violations that a box records of a stream with one step of 0.2 rad in it."""
    import numpy as np

    from robopolicy.embodiment import load_embodiment
    from robopolicy.sim.wire import WireRecorder

    card = load_embodiment(robot_config(DRIVERS[driver]).embodiment)
    recorder = WireRecorder(card, 0.01)
    position = np.array(card.home_position)
    for k in range(50):
        position[0] += 0.2 if k == 25 else 0.0
        recorder.setpoint(position, k * 10_000_000)
    return recorder.violated


def main() -> None:
    """All drivers; the entry."""
    options = claim_run.arguments(__doc__.splitlines()[0], drivers=",".join(DRIVERS), faults="")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    wanted = tuple(filter(None, options.faults.split(",")))
    chosen = tuple(f for f in FAULTS if not wanted or f.name in wanted)
    found: dict[str, list[dict[str, Any]]] = {}
    for driver in options.drivers.split(","):
        os.environ["ROBOPOLICY_FAULT_FILE"] = str((options.work / driver / "fault").resolve())
        found[driver] = campaign(driver, options.work.resolve() / driver, chosen)
    for driver, results in found.items():
        bad = [f for f in results if not f["passed"]]
        print(driver, len(results) - len(bad), "of", len(results), [f["fault"] for f in bad])
    if wanted or set(found) != set(DRIVERS):
        return
    everything = [f for results in found.values() for f in results]
    seen = {driver: control(driver) for driver in found}
    passed = all(f["passed"] for f in everything) and min(map(len, found.values())) >= LEAST and all(seen.values())
    result = ClaimResult(
        claim="every fault ends as planned, with no setpoint out of the envelope at the wire",
        source="own; each driver on its vendor's client library against a controller played on its wire",
        command=COMMAND,
        commit=claim_run.commit(),
        target=f">= {LEAST} faults per driver, all ended at rest or lived with, 0 violations, 0 torque drops",
        value={
            "faults": {driver: len(results) for driver, results in found.items()},
            "passed": {driver: sum(f["passed"] for f in results) for driver, results in found.items()},
            "violations": {d: sum(f.get("violated") or 0 for f in results) for d, results in found.items()},
            "not passed": {d: [f["fault"] for f in results if not f["passed"]] for d, results in found.items()},
        },
        interval=None,
        n=len(everything),
        seeds=(),
        control={
            "what": "violations seen of a stream with one step of 0.2 rad",
            "value": seen,
            "failed": all(seen.values()),
        },
        passed=bool(passed),
        cpu_s=claim_run.cpu_s(),
    )
    claim_run.write(result, options.out, "deploy", "fault_campaign")


if __name__ == "__main__":
    main()
