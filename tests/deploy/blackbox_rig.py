"""A taped arm on a virtual clock with a logger in the same process, for the tests of black box and replay."""

import dataclasses

import numpy as np

from robopolicy.control.clock import VirtualClock
from robopolicy.control.kinematics import Kinematics
from robopolicy.deploy.blackbox_tape import Tape
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.config import DaemonConfig, DeployConfig, RobotConfig
from robopolicy.deploy.logger import Logger
from robopolicy.deploy.realtime import assemble_arm
from robopolicy.deploy.records import PROCESSES, Layout
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.types import ActionChunk, RobotState

CARD = load_embodiment("panda")
TICK = round(CARD.tick_s * 1e9)
START = 10**12
CONFIG = DaemonConfig("robopolicy.deploy.scripted:sweep", RobotConfig(target="x:y", embodiment="panda"), DeployConfig())


class Follower:
    """An arm that follows its setpoints a little late, with noise that only a replay of its readings can know."""

    buffered = True

    def __init__(self, clock, seed=0):
        self.clock, self.flags, self.rng = clock, 0, np.random.default_rng(seed)
        self.position = CARD.home_position.copy()
        self.commands, self.powered, self.stops = 0, False, 0
        self.fault = self.frozen = False
        self.embodiment = CARD

    def connect(self):
        pass

    def enable(self):
        self.powered = True

    def read(self):
        if self.frozen:
            raise DeployError("the robot's clock stands still")
        noise = self.rng.normal(0, 1e-4, len(CARD.joints))
        velocity = self.rng.normal(0, 1e-3, len(CARD.joints))
        return RobotState(self.clock.now_ns(), self.position + noise, velocity, self.fault)

    def command(self, setpoint, t_ns):
        self.commands += 1
        self.position += 0.6 * (setpoint.position - self.position)

    def hold(self):
        pass

    def stop(self):
        self.stops += 1

    def close(self):
        pass


class ScaledFollower(Follower):
    """Its controller slows down by itself, and it keeps no setpoints."""

    buffered = False
    scale = 1.0

    @property
    def speed_scale(self):
        return self.scale


class TapedRig:
    """Arm, driver, bus, clock and logger, stepped by hand."""

    def __init__(self, folder, driver=Follower, dry=False, **tunables):
        deploy = DeployConfig(state_capacity=2048, dry_run=dry, **tunables)
        self.config = dataclasses.replace(CONFIG, deploy=deploy)
        self.folder = folder
        self.clock = VirtualClock(START)
        self.bus = Bus(Layout.of(CARD, cameras=(), chunk_steps=64, state_capacity=2048))
        self.driver = driver(self.clock)
        tape = Tape(self.bus.ring("tape"), PROCESSES)
        self.arm = tape.arm(assemble_arm(self.config, CARD, tape.driver(self.driver), tape.bus(self.bus)))
        self.home = np.asarray(Kinematics(CARD).tcp_state(CARD.home_position), float)
        self.obs_id = 0
        self.logger = Logger(self.bus, self.config, folder, "session")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.logger is not None:
            self.logger.close()
            self.logger = None
            self.bus.close()

    def restart_logger(self):
        """As after its death: the file stays as it is, the next logger knows nothing of the last."""
        if self.logger.file is not None:
            self.logger.file.flush()
            self.logger.file.abandon()
        self.logger = Logger(self.bus, self.config, self.folder, "session")
        self.logger._files = 1

    def step(self, n=1, late_ns=0):
        for _ in range(n):
            self.clock.advance_ns(TICK)
            now = self.clock.now_ns()
            self.bus.heartbeat.beat("worker", now)
            self.bus.heartbeat.beat("sensors", now)
            self.arm.step(now, late_ns)
            if self.logger is not None:
                self.logger.poll()
        return self.arm.state

    def do(self, *events):
        for event in events:
            self.bus.post_event(event)
            self.step()
        return self.arm.state

    def up(self):
        assert self.do("connect", "arm", "enable") is State.HOLD
        self.step(3)
        return self

    def put(self, dx=0.0, *, offset=0.0, steps=15, epoch=None):
        """A chunk straight on along x by ``dx`` metres, beginning ``offset`` from home."""
        values = np.repeat(self.home[None], steps, axis=0)
        values[:, 0] += offset + dx * np.arange(1, steps + 1) / steps
        chunk = ActionChunk(values, self.clock.now_ns() - 2 * TICK, CARD.control_dt_s, CARD.hash)
        self.obs_id += 1
        now = self.clock.now_ns()
        made = self.arm.epoch if epoch is None else epoch
        self.bus.mailbox.put(chunk, epoch=made, obs_id=self.obs_id, t_made_ns=now, inference_ns=TICK)
        self.step()

    def run(self, chunks=6, seed=0):
        """ALIGNING, then chunks that disagree, so that every seam is a splice."""
        rng = np.random.default_rng(seed)
        self.do("start")
        offset = 0.0
        for _ in range(chunks):
            dx = float(rng.uniform(-0.05, 0.05))
            self.put(dx, offset=offset + float(rng.normal(0, 0.003)))
            self.step(int(rng.integers(20, 45)))
            offset = float(np.clip(offset + 0.5 * dx, -0.05, 0.05))
        return self

    def eventful(self):
        """A run with seams, a pause, a refused chunk, a stop, a fault of the robot, an emergency stop."""
        self.up().run(6, seed=1)
        self.do("pause")
        self.step(60)
        self.do("resume")
        self.put(0.02)
        self.step(20)
        self.put(0.02, epoch=self.arm.epoch - 1)
        self.step(20)
        self.do("stop")
        self.step(90)
        self.run(3, seed=2)
        self.driver.fault = True
        self.step(30)
        self.driver.fault = False
        self.do("arm", "enable")
        self.run(3, seed=3)
        self.do("estop")
        self.step(20)
        self.do("arm", "enable")
        self.run(2, seed=4)
        self.do("stop")
        self.step(90)
        return self
