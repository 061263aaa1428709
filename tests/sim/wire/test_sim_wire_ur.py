"""The virtual UR controller: packets, recipes, dispatcher, servo, gripper, dashboard, and ur_rtde's reader."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import SimulationError
from robopolicy.rotations import rotation_6d_to_matrix
from robopolicy.sim.plant import KinematicPlant
from robopolicy.sim.wire import WireFaults, WireProcess
from robopolicy.sim.wire.robotiq import RobotiqGripper
from robopolicy.sim.wire.ur import VirtualUR
from robopolicy.sim.wire.ur_dashboard import Dashboard
from robopolicy.sim.wire.ur_dispatcher import PAUSED, PLAYING, STOPPED, UrController
from robopolicy.sim.wire.ur_rtde import Claims, RtdeSession, packet, split_packets

PERIOD_S = 0.002
PROGRAM = "def rtde_control():\n  cmd = read_input_integer_reg(0)\nend\n"
SERVO = ["input_int_register_0", *(f"input_double_register_{i}" for i in range(11))]
HOST = f"127.{20 + os.getpid() % 200}.{1 + os.getpid() // 200 % 250}.7"


def _controller(**calls):
    calls = {"on_target": lambda q: None, "on_end": lambda reason: None, **calls}
    made = UrController(PERIOD_S, np.full(6, np.pi), **calls)
    assert made.start(PROGRAM, 0)
    return made


def _servo(controller, target, now_ns=0, lookahead_s=0.03):
    controller.write(SERVO, [11, *target, 0.0, 0.0, PERIOD_S, lookahead_s, 300.0], now_ns)


def _ramp_lag(scale: float, lookahead_s: float) -> float:
    """Seconds that the arm is behind a slow ramp."""
    controller, speed = _controller(), 0.2
    for k in range(1500):
        target = speed * k * PERIOD_S
        _servo(controller, [target] * 6, lookahead_s=lookahead_s)
        controller.cycle(0, scale)
    return float(target - controller.position[0]) / speed


def test_servo_follows_with_the_lag_that_people_measure():
    assert _ramp_lag(1.0, 0.03) == pytest.approx(0.034, abs=0.003)
    assert _ramp_lag(1.0, 0.1) == pytest.approx(0.104, abs=0.003)
    # the control: at half speed the same stream is followed twice as late
    assert _ramp_lag(0.5, 0.03) == pytest.approx(0.068, abs=0.006)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_servo_of_a_step_keeps_the_arms_own_limits(scale):
    controller = _controller()
    _servo(controller, [1.5] * 6)
    path = np.array([controller.cycle(0, scale)[0] for _ in range(1500)])
    velocity = np.diff(path) / PERIOD_S
    assert velocity.max() == pytest.approx(scale * np.pi, rel=0.02)
    assert np.abs(np.diff(velocity)).max() / PERIOD_S <= 40.0 * 1.001
    assert path.max() < 1.5 + 0.01
    assert path[-1] == pytest.approx(1.5, abs=1e-3)


def test_watchdog_ends_a_silent_program_and_feeding_keeps_it():
    ended = []
    controller = _controller(on_end=ended.append)
    controller.write(["input_int_register_0", "input_double_register_0"], [35, 10.0], 0)
    controller.cycle(0, 1.0)
    for k in range(300):
        _servo(controller, [0.3] * 6, now_ns=k * 2_000_000)
        controller.cycle(k * 2_000_000, 1.0)
    assert controller.runtime == PLAYING
    last = 299 * 2_000_000
    controller.cycle(last + 99_000_000, 1.0)
    assert controller.runtime == PLAYING
    controller.cycle(last + 101_000_000, 1.0)
    assert (controller.runtime, controller.watchdog_stops, ended) == (STOPPED, 1, ["watchdog"])


def test_without_a_watchdog_a_silent_client_means_the_last_target():
    controller = _controller()
    _servo(controller, [0.3] * 6)
    for k in range(2000):
        controller.cycle(k * 2_000_000, 1.0)
    assert controller.runtime == PLAYING
    assert controller.position == pytest.approx(0.3, abs=1e-3)


def test_stops_brake_end_the_stream_and_ignore_setpoints():
    targets, ended = [], []
    controller = _controller(on_target=targets.append, on_end=ended.append)
    for k in range(100):
        _servo(controller, [0.01 * k] * 6)
        controller.cycle(0, 1.0)
    controller.halt(emergency=False)
    assert controller.runtime == PAUSED
    assert controller.safety_bits & 1 << 2
    before = controller.velocity[0]
    controller.cycle(0, 1.0)
    assert 0 < before - controller.velocity[0] <= 40.0 * PERIOD_S * 1.001
    _servo(controller, [9.0] * 6)
    for _ in range(200):
        controller.cycle(0, 1.0)
    assert controller.at_rest
    assert controller.position[0] < 1.2
    assert (len(targets), controller.ignored, ended) == (100, 1, ["protective stop"])
    controller.halt(emergency=True)
    controller.cycle(0, 1.0)
    assert controller.safety_bits & 1 << 7
    assert controller.mode == 3
    assert not controller.start(PROGRAM, 0)
    controller.recover()
    assert not controller.start(PROGRAM, 0)
    board = Dashboard(controller, (5, 15, 0, 126))
    assert [board.answer(word) for word in ("power on", "robotmode", "brake release", "robotmode")] == [
        *("Powering on\n", "Robotmode: IDLE\n", "Brake releasing\n", "Robotmode: RUNNING\n")
    ]
    assert controller.start(PROGRAM, 0)


def test_input_registers_outlive_a_program():
    controller = _controller()
    _servo(controller, [0.5] * 6)
    controller.cycle(0, 1.0)
    controller.end("test")
    controller.start(PROGRAM, 0)
    controller.cycle(0, 1.0)
    # why ur_rtde clears the command before it uploads
    assert controller.servoing


def test_a_target_that_is_no_number_ends_the_program():
    controller = _controller()
    _servo(controller, [float("nan")] * 6)
    controller.cycle(0, 1.0)
    assert controller.runtime == STOPPED
    assert np.isfinite(controller.position).all()


def _session(claims=None, written=None):
    written = [] if written is None else written
    return RtdeSession((5, 15, 0, 1), 500.0, claims or Claims(), lambda n, v: written.append((list(n), list(v))))


def test_recipes_types_and_rates():
    written = []
    session = _session(written=written)
    assert session.receive("V", b"\x00\x02") == packet("V", b"\x01")
    assert session.receive("V", b"\x00\x01") == packet("V", b"\x00")
    assert struct.unpack(">4I", session.receive("v", b"")[3:]) == (5, 15, 0, 1)
    wanted = struct.pack(">d", 250.0) + b"timestamp,actual_q,robot_mode,"
    assert session.receive("O", wanted)[3:] == b"\x01DOUBLE,VECTOR6D,INT32"
    assert session.outputs({"timestamp": 1.0}) == b""
    assert session.receive("S", b"")[3:] == b"\x01"
    values = {"timestamp": 1.5, "actual_q": [0, 1, 2, 3, 4, 5], "robot_mode": 7}
    sent = [session.outputs(values) for _ in range(4)]
    assert [bool(s) for s in sent] == [False, True] * 2 or [bool(s) for s in sent] == [True, False] * 2
    assert struct.unpack(">Bd6di", next(s for s in sent if s)[3:]) == (1, 1.5, 0, 1, 2, 3, 4, 5, 7)
    assert b"NOT_FOUND" in session.receive("O", struct.pack(">d", 500.0) + b"timestamp,no_such_thing")
    assert session.receive("I", b"input_int_register_0,input_double_register_3")[3:] == b"\x01INT32,DOUBLE"
    session.receive("U", struct.pack(">Bid", 1, -5, 2.5))
    assert written == [(["input_int_register_0", "input_double_register_3"], [-5, 2.5])]


def test_an_input_belongs_to_the_client_that_asked_first():
    claims = Claims()
    first, second = _session(claims), _session(claims)
    assert first.receive("I", b"input_int_register_0")[3] == 1
    assert second.receive("I", b"input_int_register_0")[3:] == b"\x00IN_USE"
    first.close()
    assert second.receive("I", b"input_int_register_0")[3] == 1


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("VvOISPUMx"), st.binary(max_size=60)), max_size=6), st.binary(max_size=40))
def test_no_packet_brings_the_controller_down(packets, noise):
    session = _session()
    stream = b"".join(packet(kind, payload) for kind, payload in packets)
    found, rest = split_packets(stream)
    assert (found, rest) == (packets, b"")
    for kind, payload in found:
        session.receive(kind, payload)
    session.outputs({})
    with contextlib.suppress(SimulationError):
        split_packets(stream + noise)


def test_gripper_needs_activation_goes_at_its_own_speed_and_reports():
    gripper = RobotiqGripper(0.085, PERIOD_S)
    assert gripper.answer("SET POS 255 SPE 255") == "ack\n"
    assert gripper.answer("GET STA") == "STA 0\n"
    opening = 1.0
    for _ in range(100):
        opening = gripper.cycle(opening)
    assert opening == 1.0
    gripper.answer("SET ACT 1")
    for _ in range(150):
        opening = gripper.cycle(opening)
    assert gripper.answer("GET STA") == "STA 3\n"
    gripper.answer("SET POS 255 SPE 255 FOR 100 GTO 1")
    before = opening
    opening = gripper.cycle(opening)
    assert before - opening == pytest.approx(0.15 / 0.085 * PERIOD_S)
    for _ in range(400):
        opening = gripper.cycle(opening)
    assert gripper.answer("GET POS") == "POS 255\n"
    assert gripper.answer("GET OBJ") == "OBJ 3\n"
    assert [gripper.answer(bad) for bad in ("", "GET", "SET POS x", "GET XYZ", "SET STA 3")] == [
        *("?\n", "?\n", "?\n", "XYZ ?\n", "?\n")
    ]


def test_dashboard_words():
    controller = _controller()
    board = Dashboard(controller, (5, 15, 0, 126))
    assert "5.15.0.126" in board.answer("PolyscopeVersion")
    assert board.answer("is in remote control") == "true\n"
    assert board.answer("get serial number").strip().isdigit()
    assert board.answer("programState").startswith("PLAYING")
    assert board.answer("stop") == "Stopped\n"
    assert board.answer("programState").startswith("STOPPED")
    assert "Cannot" in board.answer("unlock protective stop")
    controller.halt(emergency=False)
    assert board.answer("safetystatus") == "Safetystatus: PROTECTIVE_STOP\n"
    assert board.answer("unlock protective stop") == "Protective stop releasing\n"
    assert board.answer("safetystatus") == "Safetystatus: NORMAL\n"
    assert "could not" in board.answer("rm -rf")


def test_the_cards_joints_have_the_controllers_signs_and_zeros():
    card = load_embodiment("ur5e_2f85")
    d, a = [0.1625, 0, 0, 0.1333, 0.0997, 0.0996], [0, -0.425, -0.3922, 0, 0, 0]
    alpha = [np.pi / 2, 0, 0, np.pi / 2, -np.pi / 2, 0]
    rng, kinematics = np.random.default_rng(0), RobotKinematics(card)
    for _ in range(5):
        q = np.append(rng.uniform(-2, 2, 6), 1.0)
        flange = np.eye(4)
        for k in range(6):
            c, s, ca, sa = np.cos(q[k]), np.sin(q[k]), np.cos(alpha[k]), np.sin(alpha[k])
            flange = flange @ np.array(
                [[c, -s * ca, s * sa, a[k] * c], [s, c * ca, -c * sa, a[k] * s], [0, sa, ca, d[k]], [0, 0, 0, 1]]
            )
        state = np.asarray(kinematics.tcp_state(q))
        np.testing.assert_allclose(state[:3], (flange @ [0, 0, 0.15, 1])[:3], atol=1e-9)
        np.testing.assert_allclose(rotation_6d_to_matrix(state[3:9]), flange[:3, :3], atol=1e-6)


def test_a_taken_port_is_named():
    card = load_embodiment("ur5e_2f85")
    with socket.socket() as taken:
        taken.bind((HOST, 30004))
        taken.listen(1)
        with pytest.raises(SimulationError, match=f"{HOST}:30004"):
            VirtualUR(card, KinematicPlant(card), WireFaults(), host=HOST)
        with contextlib.closing(VirtualUR(card, KinematicPlant(card), WireFaults(), host="auto")) as first:
            second = VirtualUR(card, KinematicPlant(card), WireFaults(), host="auto")
            second.close()
            assert len({HOST, first.address["address"], second.address["address"]}) == 3
    # the control: free again, and nothing was left listening
    VirtualUR(card, KinematicPlant(card), WireFaults(), host=HOST).close()


def test_ur_rtdes_reader_with_every_variable_it_knows():
    rtde_receive = pytest.importorskip("rtde_receive")
    with WireProcess("robopolicy.sim.wire.ur:VirtualUR", card="ur5e_2f85", host=HOST) as arm:
        reader = rtde_receive.RTDEReceiveInterface(HOST)
        try:
            assert reader.getActualQ() == pytest.approx(arm.report()["position"][:6], abs=1e-9)
            assert (reader.getRobotMode(), reader.getRuntimeState()) == (7, STOPPED)
            assert not reader.isProtectiveStopped()
            assert len(reader.getActualTCPPose()) == 6
            first = reader.getTimestamp()
            while reader.getTimestamp() == first:
                pass
            arm.fault(emergency_stop=True)
            while not reader.isEmergencyStopped():
                pass
        finally:
            reader.disconnect()
