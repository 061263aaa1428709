"""The transition table: total, safe in every corner, and the right way round."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.deploy.state_machine import EVENTS, INTERNAL_EVENTS, OPERATOR_EVENTS, Outcome, State, next_state

ALL = [(s, e) for s in State for e in EVENTS]


def walk(*events, state=State.OFFLINE):
    for event in events:
        state, _ = next_state(state, event)
    return state


@pytest.mark.parametrize(("state", "event"), ALL)
def test_every_event_in_every_state_is_defined(state, event):
    target, outcome = next_state(state, event)
    assert isinstance(target, State)
    assert (outcome is Outcome.CHANGED) == (target is not state)
    if outcome is Outcome.REFUSED:
        assert event in OPERATOR_EVENTS


def test_an_unknown_event_is_an_error():
    with pytest.raises(KeyError):
        next_state(State.HOLD, "jump")


def test_the_straight_way():
    up = ("connect", "arm", "enable", "start", "aligned")
    states = [walk(*up[: i + 1]) for i in range(len(up))]
    assert states == [State.CONNECTED, State.ARMED, State.HOLD, State.ALIGNING, State.RUNNING]
    assert walk(*up, "pause") is State.PAUSED
    assert walk(*up, "pause", "resume") is State.ALIGNING
    assert walk(*up, "stop") is State.STOPPING
    assert walk(*up, "stop", "at_rest") is State.HOLD


@pytest.mark.parametrize("state", list(State))
def test_stop_and_estop_are_never_refused(state):
    assert next_state(state, "stop")[1] is not Outcome.REFUSED
    assert not next_state(state, "stop")[0].moving
    assert next_state(state, "estop")[0] is State.ESTOP


@pytest.mark.parametrize("latched", [State.FAULT, State.ESTOP])
def test_only_arm_or_estop_leaves_a_latch(latched):
    for event in EVENTS:
        target, _ = next_state(latched, event)
        assert target is (State.ARMED if event == "arm" else State.ESTOP if event == "estop" else latched)


@pytest.mark.parametrize("event", ["robot_lost", "robot_fault"])
def test_robot_trouble_latches_from_every_connected_state(event):
    for state in State:
        if state not in (State.OFFLINE, State.ESTOP):
            assert next_state(state, event)[0] is State.FAULT


def test_motion_begins_only_by_a_person():
    for state, event in ALL:
        target, _ = next_state(state, event)
        if target.moving and not state.moving:
            assert event in ("start", "resume")
        if event in INTERNAL_EVENTS and target is State.RUNNING and state is not State.RUNNING:
            assert (state, event) == (State.ALIGNING, "aligned")


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_running_needs_an_arm_after_the_last_latch(events):
    state, armed = State.OFFLINE, False
    for event in events:
        state, _ = next_state(state, event)
        if event == "arm" and state is State.ARMED:
            armed = True
        if state.latched or state is State.OFFLINE:
            armed = False
        if state.moving:
            assert armed
