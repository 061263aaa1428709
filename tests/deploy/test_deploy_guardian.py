"""The guardian: one stop per silence, only in motion, again and again until it gets through."""

import numpy as np
import pytest

from robopolicy.deploy.bus import Bus
from robopolicy.deploy.guardian import Guardian
from robopolicy.deploy.records import Layout
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError

MS = 1_000_000
START = 10**12


class Channel:
    def __init__(self, failures=0):
        self.stops, self.failures = 0, failures

    def stop(self):
        if self.failures:
            self.failures -= 1
            raise DeployError("the dashboard does not answer")
        self.stops += 1

    def close(self):
        pass


@pytest.fixture
def bus():
    made = Bus(Layout.of(load_embodiment("panda"), cameras=(), chunk_steps=16, state_capacity=64))
    yield made
    made.close()


def show(bus, state, tick, at_ns):
    ring = bus.ring("state")
    record = np.zeros((), ring.dtype)
    record["state"], record["tick"] = state, tick
    ring.write(record)
    bus.heartbeat.beat("realtime", at_ns)


def test_a_silent_loop_in_motion_is_stopped_once(bus):
    channel = Channel()
    guardian = Guardian(bus, channel, 0.05)
    show(bus, State.RUNNING, 7, START)
    assert not guardian.poll(START + 49 * MS)
    assert guardian.poll(START + 51 * MS)
    assert not guardian.poll(START + 60 * MS)
    assert channel.stops == 1
    # it came back, moved, and fell silent again
    show(bus, State.RUNNING, 8, START + 100 * MS)
    assert not guardian.poll(START + 120 * MS)
    assert guardian.poll(START + 160 * MS)
    assert channel.stops == 2


@pytest.mark.parametrize("state", [State.OFFLINE, State.CONNECTED, State.ARMED, State.FAULT])
def test_nothing_is_stopped_where_nothing_is_streamed(bus, state):
    channel = Channel()
    show(bus, state, 7, START)
    assert not Guardian(bus, channel, 0.05).poll(START + 500 * MS)
    assert channel.stops == 0


def test_before_the_first_beat_there_is_nothing_to_guard(bus):
    assert not Guardian(bus, Channel(), 0.05).poll(START)


def test_a_stop_that_does_not_get_through_is_tried_again(bus, capsys):
    channel = Channel(failures=2)
    guardian = Guardian(bus, channel, 0.05)
    show(bus, State.HOLD, 7, START)
    assert [guardian.poll(START + t * MS) for t in (51, 55, 75, 80, 100)] == [False, False, False, False, True]
    assert (guardian.failed, guardian.stops, channel.stops) == (2, 1, 1)
    assert "does not answer" in capsys.readouterr().err


def test_it_shows_that_it_lives(bus):
    Guardian(bus, None, 0.05).poll(START)
    assert bus.heartbeat.age_s("guardian", START + 3 * MS) == pytest.approx(0.003)
