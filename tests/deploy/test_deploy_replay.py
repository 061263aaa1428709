"""A recording is recomputed bit for bit; what is not, is found; what cannot be, is said."""

import dataclasses

import numpy as np
import pytest
from blackbox_rig import CARD, TICK, Follower, ScaledFollower, TapedRig

from robopolicy.cli.main import main
from robopolicy.data.convert.blackbox_log import BlackBoxLog, find_logs, sessions
from robopolicy.deploy.driver_proxy import in_front_of
from robopolicy.deploy.dry_run import DryDriver
from robopolicy.deploy.replay import recompute, spans_of
from robopolicy.deploy.replay_diff import compare_motion, lag_s
from robopolicy.deploy.replay_policy import RecordedPolicy
from robopolicy.deploy.state_machine import State
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError, EmbodimentMismatchError
from robopolicy.types import Observation


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Folder of an eventful run."""
    folder = tmp_path_factory.mktemp("run") / "blackbox"
    with TapedRig(folder) as rig:
        rig.eventful()
        assert rig.arm.state is State.HOLD
    return folder


def log_of(folder):
    return BlackBoxLog(sessions(folder)[0])


def tampered(log, topic, index, change):
    """The same log with one record of a binary topic changed."""
    logged = log.topics[topic]
    record = np.frombuffer(logged.data[index], logged.dtype).copy()
    change(record)
    data = list(logged.data)
    data[index] = record.tobytes()
    copy = log_of(log.paths[0].parent)
    copy.topics[topic] = dataclasses.replace(logged, data=data)
    return copy


def test_a_run_with_seams_stops_and_faults_comes_out_bit_for_bit(recorded):
    log = log_of(recorded)
    report = recompute(log)
    assert report.exact, report.first
    assert report.replayed == report.recorded > 800
    states = log.records("/binary/state")
    assert {int(s) for s in states["state"]} >= {int(s) for s in State if s is not State.OFFLINE}
    assert states["seam"].sum() > 10
    assert report.setpoints == int((log.records("/binary/tape")["calls"] & 1).sum()) > 700


def flip(record, name, joint=3):
    bits = record[name][0].view(np.uint64)
    bits[joint] ^= 1


def test_one_flipped_bit_of_a_setpoint_is_found_where_it_is(recorded):
    log = log_of(recorded)
    index = int(np.flatnonzero(log.records("/binary/tape")["calls"] & 1)[400])
    report = recompute(tampered(log, "/binary/tape", index, lambda r: flip(r, "setpoint")))
    assert report.different == 1
    assert (report.first.tick, report.first.what) == (index + 1, "setpoint")


def test_one_changed_chunk_value_changes_everything_after_it(recorded):
    log = log_of(recorded)
    taken = log.records("/binary/tape")["chunk"]
    index = int(np.flatnonzero(taken)[2])

    def nudge(record):
        record["values"][0, :, 0] += 1e-6

    report = recompute(tampered(log, "/binary/chunk", int(taken[index]) - 1, nudge))
    assert report.different > 50
    assert index <= report.first.tick - 1 <= index + 20


def test_a_limit_one_per_cent_lower_is_found(recorded):
    report = recompute(log_of(recorded), control={"acceleration_scale": 0.693})
    assert report.different > 0
    same = recompute(log_of(recorded), control={"acceleration_scale": 0.7})
    assert same.exact  # control: the default itself


def test_another_card_differs(recorded):
    log = log_of(recorded)
    document = log.card.to_dict()
    slower = dataclasses.replace(log.card)
    assert slower.hash == log.card.hash
    for joint in document["joints"]:
        joint["max_jerk"] *= 0.99
    changed = type(log.card).from_dict(document)
    report = recompute(log, card=changed)
    assert not report.exact


def test_a_driver_that_slows_down_and_ticks_that_were_missed_are_inputs_too(tmp_path):
    with TapedRig(tmp_path, ScaledFollower) as rig:
        rig.up().run(3)
        rig.driver.scale = 0.5
        rig.run(2, seed=5)
        rig.step(30)
        rig.clock.advance_ns(3 * TICK)
        now = rig.clock.now_ns()
        rig.arm.overrun(now, 3 * TICK)
        rig.arm.missed(now, 3)
        rig.put(0.01)
        rig.step(40)
        rig.driver.frozen = True
        rig.step(5)
        assert rig.arm.state is State.FAULT
    report = recompute(log_of(tmp_path))
    assert report.exact, report.first
    log = log_of(tmp_path)
    index = int(np.flatnonzero(log.records("/binary/tape")["speed_scale"] == 0.5)[5])

    def full_speed(record):
        record["speed_scale"] = 1.0

    assert not recompute(tampered(log, "/binary/tape", index, full_speed)).exact


def test_a_file_that_begins_in_the_middle_is_replayed_from_where_the_arm_stood(tmp_path):
    with TapedRig(tmp_path) as rig:
        rig.up().run(25, seed=7)
        rig.do("stop")
        rig.step(60)
        rig.do("disable")
        rig.bus.ring("tape")
        rig.logger._cursors = {name: ring.newest for name, (ring, _) in rig.logger._rings.items()}
        rig.logger.file.close()
        rig.logger._files += 1
        rig.logger._open()
        first, second = find_logs(tmp_path)
        rig.do("enable")
        rig.run(4, seed=8)
    log = BlackBoxLog([second])
    tape, states = log.records("/binary/tape"), log.records("/binary/state")
    assert int(tape["tick"][0]) > 1
    # it was disabled before this file begins, so there is nothing to begin with: that is said, not passed over
    assert spans_of(tape, states) == []
    report = recompute(log)
    assert not report.exact
    assert "nothing to begin with" in report.notes[0]
    assert recompute(BlackBoxLog([first, second])).exact


def test_after_lost_ticks_the_next_standing_start_is_found(recorded):
    log = log_of(recorded)
    states = log.records("/binary/state")
    standing = np.flatnonzero(states["state"] == int(State.ARMED))
    cut = int(standing[-1]) - 100
    kept = [i for i in range(len(states)) if not cut <= i < cut + 50]
    for topic in ("/binary/tape", "/binary/state"):
        logged = log.topics[topic]
        log.topics[topic] = dataclasses.replace(
            logged, numbers=[logged.numbers[i] for i in kept], data=[logged.data[i] for i in kept]
        )
    report = recompute(log)
    assert len(report.spans) == 2
    assert report.different == 0, report.first
    assert report.replayed < report.recorded


def test_a_chunk_that_is_not_in_the_recording_is_named(recorded):
    log = log_of(recorded)
    logged = log.topics["/binary/chunk"]
    log.topics["/binary/chunk"] = dataclasses.replace(logged, numbers=logged.numbers[3:], data=logged.data[3:])
    report = recompute(log)
    assert report.replayed < report.recorded
    assert any("chunk 1" in note for note in report.notes)


def test_the_command_line_says_which_tick(recorded, tmp_path, capsys):
    assert main(["deploy", "replay", str(recorded), f"json={tmp_path / 'r.json'}"]) == 0
    assert "bit for bit" in capsys.readouterr().out
    assert (tmp_path / "r.json").is_file()
    assert main(["deploy", "replay", str(recorded), "control.acceleration_scale=0.693"]) == 1
    assert "first: tick" in capsys.readouterr().out
    assert main(["deploy", "diff", str(recorded)]) == 0
    assert "joint4" in capsys.readouterr().out
    assert main(["deploy", "replay", str(tmp_path)]) != 0
    assert "mend" in capsys.readouterr().err


def test_the_chunks_of_a_recording_are_a_policy(recorded):
    policy = RecordedPolicy(next(iter(find_logs(recorded))), CARD)
    first = policy.chunks[0]

    def asked(at_ns):
        state = np.zeros((1, len(CARD.state)), np.float32)
        return policy.act(Observation(state, np.array([at_ns]), CARD.hash), rng=None)

    begun = 5 * 10**9
    chunk = asked(begun)
    np.testing.assert_allclose(chunk.values, first.values, atol=1e-12)
    assert chunk.t0_ns == begun
    step = round(CARD.control_dt_s * 1e9)
    later = asked(begun + 2 * step)
    np.testing.assert_allclose(later.values[:5], first.values[2:7], atol=1e-9)
    over = asked(begun + 2 * 10**9)
    over = asked(begun + 3 * 10**9)
    assert len(over.values) >= 1
    again = asked(begun + 60 * 10**9)
    np.testing.assert_allclose(again.values, first.values, atol=1e-12)
    with pytest.raises(EmbodimentMismatchError):
        RecordedPolicy(next(iter(find_logs(recorded))), load_embodiment("ur5e_2f85"))


@pytest.mark.parametrize("delay_s", [0.0, 0.034, 0.1203])
def test_a_lag_is_found_to_a_millisecond(delay_s):
    t = np.arange(0, 8, 0.002)

    def signal(x):
        return 0.3 * np.sin(1.1 * x) + 0.1 * np.sin(2.9 * x + 1)

    noise = np.random.default_rng(0).normal(0, 1e-3, len(t))
    lag, correlation = lag_s(signal(t), signal(t - delay_s) + noise)
    assert lag == pytest.approx(delay_s, abs=1e-3)
    assert correlation > 0.99


def test_diff_says_what_a_servo_leaves_behind(recorded):
    joints = {j.joint: j for j in compare_motion(log_of(recorded))}
    moved = joints["joint4"]
    # 0.6 of the way in every tick: on a ramp that is 2/3 of a tick behind, and the setpoint is told six ticks early
    assert moved.lag_ms is not None
    assert moved.rms_after_lag <= moved.rms
    assert joints["gripper"].lag_ms is None


def test_a_dry_run_powers_and_sends_nothing(tmp_path):
    dry = lambda clock: in_front_of(DryDriver, Follower(clock))  # noqa: E731
    with TapedRig(tmp_path, dry, dry=True) as rig:
        rig.up().run(4)
        rig.do("stop")
        assert rig.step(90) is State.HOLD
        inner = rig.driver._inner
        assert rig.driver.unsent > 100
        assert inner.commands == inner.stops == 0
        assert not inner.powered
        rig.do("estop")
        assert inner.stops == 0
    log = log_of(tmp_path)
    tape = log.records("/binary/tape")
    assert float(np.ptp(tape["setpoint"][(tape["calls"] & 1) > 0], axis=0).max()) > 0.01
    assert recompute(log).exact
    with TapedRig(tmp_path / "earnest") as rig:  # control: in earnest the same run does move
        rig.up().run(4)
        assert rig.driver.commands > 100
        assert rig.driver.powered


def test_a_dry_run_without_its_exception_would_fault(tmp_path):
    dry = lambda clock: in_front_of(DryDriver, Follower(clock))  # noqa: E731
    with TapedRig(tmp_path, dry, dry=False) as rig:
        rig.up()
        rig.do("start")
        for k in range(12):
            rig.put(0.12, offset=0.1 * k if k < 2 else 0.2)
            rig.step(30)
        faulted = rig.arm.state is State.FAULT
    with TapedRig(tmp_path / "dry", dry, dry=True) as rig:
        rig.up()
        rig.do("start")
        for k in range(12):
            rig.put(0.12, offset=0.1 * k if k < 2 else 0.2)
            rig.step(30)
        assert rig.arm.state is not State.FAULT
    assert faulted


def test_a_recording_without_ticks_is_refused(tmp_path):
    with TapedRig(tmp_path):
        pass
    with pytest.raises(DeployError, match="no ticks"):
        recompute(log_of(tmp_path))


class Refusing(Follower):
    """Takes no setpoint once it is told to."""

    refuses = False

    def command(self, setpoint, t_ns):
        if self.refuses:
            raise DeployError("the program takes no setpoints")
        super().command(setpoint, t_ns)


def test_a_setpoint_that_the_driver_refused_is_an_input_too(tmp_path):
    with TapedRig(tmp_path, Refusing) as rig:
        rig.up().run(2)
        rig.driver.refuses = True
        rig.step(10)
        assert rig.arm.state is State.FAULT
    log = log_of(tmp_path)
    report = recompute(log)
    assert report.exact, report.first
    tape = log.records("/binary/tape")
    index = int(np.flatnonzero(tape["calls"] & 16)[0])

    def forget(record):
        record["calls"] &= 15

    assert recompute(tampered(log, "/binary/tape", index, forget)).different > 0
