"""The daemon's real-time loop with a driver in memory, in slices: what is measured beside the bare loop.

``python arm_loop.py RATE_HZ PRIORITY [work TICKS]``: a line with a number of ticks on the standard input is a slice and
prints the lateness of each tick, ns. With ``work`` it ticks as fast as it can and prints CPU time per tick and growth.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import tracemalloc
from typing import Any

import numpy as np

from robopolicy.control.clock import MonotonicClock
from robopolicy.control.executor import Executor
from robopolicy.deploy.arm import Arm
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.process import become_realtime
from robopolicy.deploy.realtime import control_config, run_loop
from robopolicy.deploy.records import Layout
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.types import ActionChunk, RobotState

CARD = "ur5e_2f85"
EVERY_S = 0.4


class Memory:
    """A driver of an arm that is where it is told to be."""

    buffered = False

    def __init__(self, card: Any, clock: Any):
        self.embodiment, self._clock, self.flags = card, clock, 0
        self._position, self._still = card.home_position.copy(), np.zeros(len(card.joints))

    def read(self) -> RobotState:
        return RobotState(self._clock.now_ns(), self._position, self._still)

    def command(self, setpoint: Any, t_ns: int) -> None:
        self._position = setpoint.position

    def connect(self) -> None: ...
    def enable(self) -> None: ...
    def hold(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Rig:
    """An arm in RUNNING, given a chunk every 0.4 s."""

    def __init__(self, rate_hz: float, clock: Any):
        self.card, self.clock = load_embodiment(CARD), clock
        deploy = DeployConfig(first_chunk_timeout_s=1e6, dry_grace_s=1e6)
        robot = RobotConfig(target="x:y", embodiment=CARD, rate_hz=rate_hz)
        config = DaemonConfig("p", robot, deploy)
        self.tick_ns = round(config.tick_s * 1e9)
        self.bus = Bus(Layout.of(self.card, cameras=(), chunk_steps=64, state_capacity=4096))
        executor = Executor(self.card, dataclasses.replace(control_config(config)), config.tick_s)
        self.driver = Memory(self.card, clock)
        self.arm = Arm(self.card, executor, self.driver, self.bus, deploy, tick_s=config.tick_s)
        self.home = np.asarray(executor.kinematics.tcp_state(self.card.home_position), float)
        self.next_ns = 0

    def begin(self) -> None:
        """To RUNNING, wherever it stands."""
        for event in ("connect", "arm", "enable", "start"):
            self.bus.heartbeat.beat("worker", self.clock.now_ns())
            self.arm.event(event, self.clock.now_ns())
            self.clock.sleep_until_ns(self.clock.now_ns() + self.tick_ns)
            self.arm.step(self.clock.now_ns(), 0)

    def feed(self, now_ns: int) -> None:
        """A heartbeat, and a chunk when one is due."""
        self.bus.heartbeat.beat("worker", now_ns)
        if now_ns < self.next_ns:
            return
        self.next_ns = now_ns + round(EVERY_S * 1e9)
        t = now_ns / 1e9 + np.arange(1, 17) * self.card.control_dt_s
        values = np.repeat(self.home[None], 16, axis=0)
        values[:, 0] += 0.03 * np.sin(2 * np.pi * t / 4)
        chunk = ActionChunk(values, now_ns, self.card.control_dt_s, self.card.hash)
        self.bus.mailbox.put(chunk, epoch=self.arm.epoch, obs_id=1, t_made_ns=now_ns)


class ByHand:
    """A clock that jumps to where it is asked to sleep until."""

    def __init__(self) -> None:
        self._now_ns = 10**12

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_until_ns(self, t_ns: int) -> None:
        self._now_ns = t_ns


def work(rate_hz: float, ticks: int) -> dict[str, Any]:
    """CPU time of every tick, and what memory grew by in the second half of them."""
    clock = ByHand()
    rig = Rig(rate_hz, clock)
    become_realtime(0)
    rig.begin()
    spent, due, half, stray = np.empty(ticks), clock.now_ns(), 0, 0
    for k in range(ticks):
        if k == ticks // 2:
            tracemalloc.start()
        if k == ticks // 2 + 1000:
            half = tracemalloc.get_traced_memory()[0]
        due += rig.tick_ns
        clock.sleep_until_ns(due)
        rig.feed(due)
        begin = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID)
        rig.arm.step(due, 0)
        spent[k] = time.clock_gettime_ns(time.CLOCK_THREAD_CPUTIME_ID) - begin
        stray += rig.arm.state is not State.RUNNING
    grown = tracemalloc.get_traced_memory()[0] - half
    tracemalloc.stop()
    counted = spent[100 : ticks // 2] / 1e3
    p50, p99, p999 = (float(x) for x in np.percentile(counted, (50, 99, 99.9)))
    return {"ticks": ticks, "not_running": stray, "p50_us": p50, "p99_us": p99, "p999_us": p999, "grown_bytes": grown}


def slices(rate_hz: float, priority: int) -> None:
    """One slice per line of the standard input."""
    clock = MonotonicClock()
    rig = Rig(rate_hz, clock)
    become_realtime(priority)
    rig.begin()
    print("ready", flush=True)
    for line in sys.stdin:
        late: list[int] = []
        ticks = int(line)

        class Counted:
            """The arm, with the lateness of its ticks noted as they begin."""

            buffered = False
            at_rest = True
            left_out_ns = 0

            def step(self, due_ns: int, late_ns: int, late: list[int] = late) -> None:
                late.append(late_ns + self.left_out_ns)
                self.left_out_ns = 0
                rig.feed(due_ns)
                rig.arm.step(due_ns, late_ns)

            def missed(self, wall_ns: int, ticks: int) -> None:
                self.left_out_ns = ticks * rig.tick_ns
                rig.arm.missed(wall_ns, ticks)

            def overrun(self, now_ns: int, late_ns: int = 0) -> None:
                """Only counted."""

            def event(self, name: str, now_ns: int) -> None:
                """Only the end of the slice."""

        rig.arm.missed(clock.now_ns(), 1)
        run_loop(
            Counted(),  # type: ignore[arg-type]
            clock,
            tick_ns=rig.tick_ns,
            lookahead_ticks=1,
            should_leave=lambda _, late=late, ticks=ticks: "stop" if len(late) >= ticks else "",  # type: ignore[misc]
        )
        print(" ".join(map(str, late)), flush=True)


if __name__ == "__main__":
    if sys.argv[3:4] == ["work"]:
        print(json.dumps(work(float(sys.argv[1]), int(sys.argv[4]))))
    else:
        slices(float(sys.argv[1]), int(sys.argv[2]))
