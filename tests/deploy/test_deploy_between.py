"""The daemon tells the worker what is scheduled: through shared memory, by absolute time, of the present run only."""

import dataclasses

import numpy as np
import pytest

from robopolicy.control.between import BetweenConfig
from robopolicy.control.config import ControlConfig
from robopolicy.control.executor import Executor
from robopolicy.deploy.bus import Bus
from robopolicy.deploy.outlook import Outlook, publish_nothing, publish_outlook
from robopolicy.deploy.policy_worker import PolicyWorker
from robopolicy.deploy.records import Layout
from robopolicy.deploy.scripted import ScriptedPolicy
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.types import ActionChunk, RobotState

CARD = load_embodiment("panda")
DT = round(CARD.control_dt_s * 1e9)
START = 10**12


class Spy(ScriptedPolicy):
    """Remembers its prefixes; every chunk stands where the newest state says, so its value is the step."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, continues=True)

    def act(self, observation, *, rng, prefix=None, goal=None):
        seen.append(prefix)
        values = np.repeat(observation.state[-1:].astype(float), 15, axis=0)
        return ActionChunk(values, int(observation.time_ns[-1]), CARD.control_dt_s, CARD.hash, horizon=8)


seen = []


@pytest.fixture
def bus():
    seen.clear()
    made = Bus(Layout.of(CARD, cameras=(), chunk_steps=32, state_capacity=64))
    yield made
    made.close()


@pytest.fixture
def executor():
    made, home = Executor(CARD, ControlConfig()), CARD.home_position
    made.reset(RobotState(START, home, np.zeros_like(home)))
    return made


def frame(bus, step):
    ring = bus.ring("frames")
    record = np.zeros((), ring.dtype)
    record["time_ns"], record["scene"], record["step"], record["split"] = START + step * DT, 1, step, b"test"
    record["state"] = step
    ring.write(record)


def arm(bus, epoch, state=State.RUNNING):
    ring = bus.ring("state")
    record = np.zeros((), ring.dtype)
    record["state"], record["epoch"] = state, epoch
    ring.write(record)


def line(executor, step):
    values = np.repeat(executor.kinematics.only.tcp_state(CARD.home_position)[None], 15, axis=0)
    values[:, 0] += 0.002 * (step + np.arange(1, 16))
    return ActionChunk(values, START + step * DT, CARD.control_dt_s, CARD.hash, horizon=8)


def tell(bus, executor, step, delay, epoch):
    """As the real-time loop after it accepted a chunk that took ``delay`` steps."""
    chunk = line(executor, step)
    starts_ns = START + (step + delay) * DT
    assert executor.submit(chunk, starts_ns).accepted
    assert publish_outlook(bus.ring("schedule"), executor, t_obs_ns=chunk.t0_ns, starts_ns=starts_ns, epoch=epoch)


def test_the_worker_knows_what_the_executor_knows(bus, executor):
    outlook = Outlook(bus.ring("schedule"), CARD.hash)
    assert outlook.scheduled(START, 0) is None
    tell(bus, executor, 0, 0, epoch=3)
    assert outlook.poll(3) == [0]
    tell(bus, executor, 8, 2, epoch=3)
    assert outlook.poll(3) == [2 * DT]
    for shift in (0, DT // 3):
        mine = outlook.scheduled(START + 16 * DT + shift, 2 * DT)
        theirs = executor.scheduled(START + 16 * DT + shift, 2 * DT)
        np.testing.assert_allclose(mine.values, theirs.values, atol=2e-4)
        assert (mine.horizon, mine.t0_ns) == (theirs.horizon, theirs.t0_ns) == (2, START + 16 * DT + shift)
    assert not outlook.standing(START + 16 * DT)
    assert outlook.standing(START + 23 * DT)
    assert outlook.scheduled(START + 23 * DT, DT) is None


def test_a_stop_or_another_run_ends_what_was_known(bus, executor):
    outlook = Outlook(bus.ring("schedule"), CARD.hash)
    tell(bus, executor, 0, 0, epoch=3)
    outlook.poll(3)
    assert outlook.scheduled(START + 4 * DT, DT) is not None
    publish_nothing(bus.ring("schedule"), 3)
    assert outlook.poll(3) == []
    assert outlook.scheduled(START + 4 * DT, DT) is None
    tell(bus, executor, 1, 0, epoch=3)
    assert outlook.poll(4) == []
    assert outlook.scheduled(START + 4 * DT, DT) is None


def test_rtc_hands_the_policy_a_prefix_of_the_measured_delay(bus, executor):
    worker = PolicyWorker(Spy(CARD), bus, BetweenConfig(kind="rtc"))
    arm(bus, 4)
    frame(bus, 0)
    assert worker.poll()
    assert seen == [None]
    tell(bus, executor, 0, 3, epoch=4)
    for step in range(1, 9):
        frame(bus, step)
        assert worker.poll() == (step == 8)
    prefix = seen[-1]
    assert prefix.horizon == 3
    assert prefix.t0_ns == START + 8 * DT
    assert prefix.strongest == 20.0
    np.testing.assert_allclose(prefix.values, executor.scheduled(START + 8 * DT, 3 * DT).values, atol=1e-9)


def test_naive_is_never_told(bus, executor):
    worker = PolicyWorker(Spy(CARD), bus)
    arm(bus, 4)
    frame(bus, 0)
    worker.poll()
    tell(bus, executor, 0, 3, epoch=4)
    frame(bus, 8)
    assert worker.poll()
    assert seen == [None, None]


def test_an_ensemble_is_averaged_before_it_is_sent(bus, executor):
    worker = PolicyWorker(Spy(CARD), bus, BetweenConfig(kind="ensemble", decay=0.0))
    arm(bus, 4)
    frame(bus, 0)
    assert worker.poll()
    assert bus.mailbox.take().chunk().values[0, 0] == 0
    tell(bus, executor, 0, 0, epoch=4)
    # its clock is that of the machine, far from the frames' here: for it the motion has long begun to be over
    frame(bus, 1)
    assert worker.poll()
    assert bus.mailbox.take().chunk().values[0, 0] == pytest.approx(1.0)


def test_warming_up_measures_the_guided_call(bus):
    worker = PolicyWorker(Spy(CARD), bus, BetweenConfig(kind="rtc"), lead_ns=DT)
    worker.warm_up(2)
    assert [prefix is not None for prefix in seen] == [False, True, False, True]
    assert worker._between.expected_ns >= DT
