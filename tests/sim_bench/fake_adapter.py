"""A benchmark for tests: a point that is pushed to a goal, and every way in which a benchmark can go wrong.

Runs in the benchmark's process, so it imports numpy and the guest's package only. What goes wrong is told by the name
of the task; ``<fault>-once`` goes wrong only the first time, remembered by a file in ``FAKE_BENCH_MEMORY``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from robopolicy.sim.bench.guest.adapter import Adapter, Moment, Spec

FAULTS = (
    *("crash", "kill", "hang", "garbage", "raise", "width", "nan", "nan-reset", "silent-exit", "diverge"),
    *("crash-once", "hang-once", "garbage-once", "raise-once"),
)
FAULTY = (3, 5)
"""Episodes that go wrong; all others are well."""
AT_STEP = 2


class Fake(Adapter):
    """``point`` works; every other task fails in episodes 3 and 5 at step 2, as its name says."""

    def versions(self) -> dict[str, str]:
        print("a benchmark that prints where frames should go")
        return {"fake": "1.0"}

    def tasks(self) -> list[str]:
        return ["point", "leaky", "noisy", *FAULTS]

    def make(self, task: str, render_profile: str) -> Spec:
        self.task, self.position = task, np.zeros(2)
        self.leak = 0.0
        return Spec(
            state=("position.x", "position.y"),
            environment_state=("goal.x", "goal.y"),
            action_lower=(-1.0, -1.0),
            action_upper=(1.0, 1.0),
            rest=(0.0, None),
            control_hz=20.0,
            horizon=60,
            instruction="go to the goal",
            cameras=("top",),
            expert=True,
        )

    def reset(self, split: str, index: int, seed: int) -> Moment:
        rng = np.random.default_rng(seed)
        self.index, self.steps = index, 0
        self.position, self.goal = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
        if self.task == "leaky":  # the control of the test of purity: a start that depends on what ran before
            self.position = self.position + self.leak
        initial = {"x": float(self.position[0]), "y": float(self.position[1])}
        state = np.array([np.nan, 0.0]) if self.task == "nan-reset" and index in FAULTY else self.position
        return Moment(state.copy(), self.goal.copy(), initial_state=initial, rest=(0.0, 0.5))

    def step(self, action: np.ndarray) -> Moment:
        self.steps += 1
        self.leak += 0.01
        self.position = self.position + 0.1 * action
        if self.index in FAULTY and self.steps == AT_STEP and self.task in FAULTS:
            self.go_wrong()
        near = float(np.linalg.norm(self.position - self.goal))
        state = self.position.copy()
        if self.index in FAULTY and self.steps >= AT_STEP:
            if self.task == "width":
                state = np.zeros(3)
            if self.task == "nan":
                state = np.array([np.nan, np.inf])
        return Moment(state, self.goal.copy(), -near, False, False, near < 0.05, metrics={"distance_m": near})

    def go_wrong(self) -> None:
        fault = self.task
        if fault.endswith("-once"):
            memory = Path(os.environ["FAKE_BENCH_MEMORY"]) / f"{fault}.{self.index}"
            if memory.exists():
                return
            memory.touch()
            fault = fault.removesuffix("-once")
        if fault == "crash":
            print("the fake benchmark aborts", file=sys.stderr, flush=True)
            os.abort()
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "silent-exit":
            os._exit(0)
        if fault == "hang":
            time.sleep(3600)
        if fault == "garbage":
            for name in os.listdir("/proc/self/fd"):
                if int(name) > 2 and "socket" in os.readlink(f"/proc/self/fd/{name}"):
                    os.set_blocking(int(name), True)
                    os.write(int(name), b"this is not a frame" * 100)
        if fault == "raise":
            raise ZeroDivisionError("the fake benchmark has a fault")
        if fault == "diverge":
            raise FloatingPointError("the fake benchmark diverged")

    def expert(self) -> np.ndarray:
        return np.array([np.nan, 0.0]) if self.task == "noisy" else 10.0 * (self.goal - self.position)

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:, :, 0] = int(127 + 60 * np.clip(self.position[0], -2, 2))
        return picture

    def close(self) -> None:
        self.position = np.zeros(0)
