"""Two arms as one: whatever happens to one happens to both. And a recording played as a robot."""

import dataclasses
import time

import numpy as np
import pytest

from robopolicy.channels import ChannelGroup
from robopolicy.deploy.driver_check import check_driver, failed
from robopolicy.deploy.drivers.bimanual import BimanualDriver
from robopolicy.deploy.drivers.replay_robot import ReplayRobotDriver
from robopolicy.deploy.shm import monotonic_ns
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import DeployError
from robopolicy.protocols import Guarded, RobotDriver
from robopolicy.types import RobotState, Setpoint

CARD = load_embodiment("aloha")
HOME = CARD.home_position
MADE, CHANNELS = [], []


class Arm:
    """An arm that is where it was told to be."""

    buffered = False
    speed = 1.0

    def __init__(self, card, *, tick_s, timeout_s, name=""):
        self.embodiment, self.name, self.open, self.flags = card, name, False, 0
        self.position, self.calls, self.breaks, self.fault, self.time_ns = (
            card.home_position.copy(),
            [],
            {},
            False,
            None,
        )
        MADE.append(self)

    def _do(self, what):
        self.calls.append(what)
        if what in self.breaks:
            raise DeployError(self.breaks[what])

    def connect(self):
        self._do("connect")
        self.open = True

    def enable(self):
        self._do("enable")

    def read(self):
        if not self.open:
            raise DeployError("call connect() first")
        self._do("read")
        stamp = monotonic_ns() if self.time_ns is None else self.time_ns
        return RobotState(stamp, self.position.copy(), np.zeros(len(self.position)), self.fault)

    def command(self, setpoint, t_ns):
        self._do("command")
        self.position = np.array(setpoint.position)

    def hold(self):
        self._do("hold")

    def stop(self):
        self._do("stop")

    def close(self):
        self.open = False
        self._do("close")

    @property
    def speed_scale(self):
        return self.speed

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    def stop_channel(card, options):
        channel = Channel(options.get("name", ""))
        CHANNELS.append(channel)
        return channel


class Channel:
    def __init__(self, name):
        self.name, self.calls = name, []

    def stop(self):
        self.calls.append("stop")
        if self.name == "deaf":
            raise DeployError("nobody hears")

    def close(self):
        self.calls.append("close")


class Buffered(Arm):
    buffered = True


class Unguarded(Arm):
    stop_channel = None


TARGET = f"{__name__}:Arm"
SIDES = {"left": {"target": TARGET, "driver": {"name": "l"}}, "right": {"target": TARGET, "driver": {"name": "r"}}}


@pytest.fixture
def pair():
    MADE.clear()
    CHANNELS.clear()
    made = BimanualDriver(CARD, tick_s=0.01, timeout_s=0.2, **SIDES)
    left, right = MADE
    return made, left, right


def up(driver):
    driver.connect()
    driver.enable()
    return driver


def test_it_keeps_the_contract():
    findings = check_driver(BimanualDriver, CARD, SIDES, tick_s=0.01, move=True)
    assert not failed(findings), failed(findings)


def test_joints_find_their_arm_by_name(pair):
    driver, left, right = pair
    assert isinstance(driver, RobotDriver)
    up(driver)
    wanted = HOME.copy()
    wanted[CARD.joints.index("left.elbow")] += 0.1
    wanted[CARD.joints.index("right.waist")] -= 0.2
    driver.command(Setpoint(7, wanted), 0)
    assert left.position[left.embodiment.joints.index("left.elbow")] == wanted[CARD.joints.index("left.elbow")]
    assert right.position[right.embodiment.joints.index("right.waist")] == wanted[CARD.joints.index("right.waist")]
    assert driver.read().position == pytest.approx(wanted)
    driver.flags = 3
    assert (left.flags, right.flags) == (3, 3)


def test_cards_with_plain_names_are_matched_by_the_arms_name():
    MADE.clear()
    order = [*(n for n in CARD.joints.names if n.startswith("right")), *(n for n in CARD.joints.names if n[0] == "l")]
    swapped = ChannelGroup(tuple(CARD.joints.channels[CARD.joints.index(n)] for n in order))
    card = dataclasses.replace(CARD, joints=swapped)
    driver = up(BimanualDriver(card, tick_s=0.01, timeout_s=0.2, **SIDES))
    wanted = card.home_position + np.arange(14) / 100
    driver.command(Setpoint(0, wanted), 0)
    assert MADE[1].position == pytest.approx(wanted[:7])
    assert driver.read().position == pytest.approx(wanted)


def test_the_older_time_counts(pair):
    driver, left, right = pair
    up(driver)
    left.time_ns, right.time_ns = 50, 40
    assert driver.read().time_ns == 40
    left.speed, right.speed = 0.4, 0.7
    assert driver.speed_scale == 0.4


@pytest.mark.parametrize("which", [0, 1])
def test_silence_of_one_stops_both(pair, which):
    driver, *arms = pair
    up(driver)
    arms[which].breaks["read"] = "it is silent"
    for _ in range(3):
        with pytest.raises(DeployError, match=f"{('left', 'right')[which]} arm: it is silent"):
            driver.read()
    assert [arm.calls.count("stop") for arm in arms] == [1, 1]
    driver.command(Setpoint(0, HOME), 0)
    assert all("command" not in arm.calls for arm in arms), "nothing more goes out"
    arms[which].breaks.clear()
    driver.enable()
    driver.command(Setpoint(0, HOME), 0)
    assert all("command" in arm.calls for arm in arms)


@pytest.mark.parametrize("which", [0, 1])
def test_a_fault_or_a_refused_setpoint_of_one_stops_both(pair, which):
    driver, *arms = pair
    up(driver)
    arms[which].fault = True
    assert driver.read().fault
    assert all("stop" in arm.calls for arm in arms)
    arms[which].fault = False
    driver.enable()
    arms[which].breaks["command"] = "no"
    with pytest.raises(DeployError, match="arm: no"):
        driver.command(Setpoint(0, HOME), 0)
    assert [arm.calls.count("stop") for arm in arms] == [2, 2]


@pytest.mark.parametrize(("what", "undo"), [("connect", "close"), ("enable", "stop")])
def test_both_or_none(pair, what, undo):
    driver, left, right = pair
    right.breaks[what] = "refused"
    if what == "enable":
        driver.connect()
    with pytest.raises(DeployError, match="right arm: refused"):
        getattr(driver, what)()
    assert undo in left.calls
    assert undo in right.calls


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("what", ["close", "stop", "hold"])
def test_each_is_told_whatever_the_other_says(pair, what, which):
    driver, *arms = pair
    up(driver)
    arms[which].breaks[what] = "the cable is out"
    with pytest.raises(DeployError, match="cable"):
        getattr(driver, what)()
    assert all(what in arm.calls for arm in arms)


def test_both_stop_channels(pair):
    driver, *_ = pair
    assert isinstance(driver, Guarded)
    channel = BimanualDriver.stop_channel(CARD, SIDES)
    channel.stop()
    channel.close()
    assert [c.calls for c in CHANNELS] == [["stop", "close"]] * 2
    CHANNELS.clear()
    deaf = {**SIDES, "left": {"target": TARGET, "driver": {"name": "deaf"}}}
    channel = BimanualDriver.stop_channel(CARD, deaf)
    with pytest.raises(DeployError, match="hears"):
        channel.stop()
    assert CHANNELS[1].calls == ["stop"], "the other is stopped all the same"


def test_what_cannot_be_a_pair_is_refused():
    def built(card=CARD, **changes):
        return BimanualDriver(card, tick_s=0.01, timeout_s=0.2, **{**SIDES, **changes})

    for wrong, said in (
        ({"left": {"driver": {}}}, "no target"),
        ({"left": {"target": TARGET, "speed": 1}}, "speed"),
        ({"left": {"target": f"{__name__}:Buffered"}}, "two arms of one kind"),
        ({"left": {"target": TARGET, "embodiment": "xarm7"}}, "joints of the left arm"),
        ({"card": load_embodiment("panda")}, "two arms"),
    ):
        with pytest.raises(DeployError, match=said):
            built(**wrong)
    driver = up(built())
    for bad in (np.full(14, np.nan), np.zeros(13)):
        with pytest.raises(DeployError, match="not a setpoint"):
            driver.command(Setpoint(0, bad), 0)


# ------------------------------------------------------------------ two virtual xArms


def two_xarms():
    """A card of two xArms, left and right, with the names of both in front of the joints."""
    one = load_embodiment("xarm7")
    joints, arms, home = [], [], {}
    for side in ("left", "right"):
        joints += [dataclasses.replace(c, name=f"{side}.{c.name}") for c in one.joints.channels]
        chain = tuple(dataclasses.replace(link, joint=f"{side}.{link.joint}") for link in one.chain)
        arms.append(dataclasses.replace(one.arm(), name=side, chain=chain, gripper=f"{side}.{one.gripper}"))
        home |= {f"{side}.{name}": value for name, value in one.home.items()}
    return dataclasses.replace(
        one, name="two_xarms", joints=ChannelGroup(tuple(joints)), arms=tuple(arms), home=home,
        action_space="joint_position", state_space="joint_position", cameras=(),
    )  # fmt: skip


def read_on(driver):
    while True:
        driver.read()
        time.sleep(0.02)


def test_two_virtual_xarms_are_streamed_and_one_stops_both():
    pytest.importorskip("xarm")
    from robopolicy.sim.wire import WireProcess

    card, target = two_xarms(), "robopolicy.sim.wire.xarm:VirtualXArm"
    options = {"card": "xarm7", "setpoint_hz": 50, "port": 0, "report_port": 0}
    with WireProcess(target, **options) as first, WireProcess(target, **options) as second:
        sides = {
            name: {"target": "robopolicy.deploy.drivers.xarm:XArmDriver", "driver": box.address}
            for name, box in (("left", first), ("right", second))
        }
        with BimanualDriver(card, tick_s=0.02, timeout_s=0.5, **sides) as driver:
            up(driver)
            for k in range(50):
                driver.read()
                wanted = card.home_position.copy()
                wanted[[0, 8]] += 0.05 * (1 - np.cos(2 * np.pi * k / 50)) * np.array([1, -1])
                driver.command(Setpoint(0, wanted), 0)
                time.sleep(0.02)
            second.fault(freeze=True)
            with pytest.raises(DeployError, match="right arm"):
                read_on(driver)
            seen = first.report()
            assert seen["violated"] == 0
            assert seen["received"] == 50
            assert seen["arm_state"] == 4, "the left arm was stopped"
            assert seen["powered"]
            second.fault(freeze=False)


# ------------------------------------------------------------------ a recording


@pytest.fixture
def recording(tmp_path):
    times = np.arange(50, dtype=np.int64) * 10_000_000 + 5
    positions = HOME + np.linspace(0, 0.3, 50)[:, None]
    np.savez(tmp_path / "run.npz", time_ns=times, position=positions)
    table = np.zeros(50, [("time_ns", "<u8"), ("position", "<f8", (14,)), ("flags", "<u4")])
    table["time_ns"], table["position"] = times, positions
    np.save(tmp_path / "run.npy", table)
    return tmp_path, positions


@pytest.mark.parametrize("name", ["run.npz", "run.npy"])
def test_a_recording_is_played_state_by_state(recording, name):
    folder, positions = recording
    driver = ReplayRobotDriver(CARD, tick_s=0.01, timeout_s=0.2, path=str(folder / name), per_read=True)
    assert isinstance(driver, RobotDriver)
    with driver:
        up(driver)
        states = [driver.read() for _ in range(52)]
        assert np.array([s.position for s in states[:50]]) == pytest.approx(positions)
        assert states[51].position == pytest.approx(positions[-1])
        assert states[10].velocity == pytest.approx(np.full(14, 0.3 / 49 / 0.01))
        assert (states[51].velocity == 0).all()
        assert (np.diff([s.time_ns for s in states]) > 0).all()
        for q in positions:
            driver.command(Setpoint(0, q + 0.001), 0)
        assert driver.largest_difference == pytest.approx(0.001)
    with pytest.raises(DeployError, match="connect"):
        driver.read()


def test_a_recording_keeps_the_contract_as_far_as_it_can(recording):
    options = {"path": str(recording[0] / "run.npz"), "speed": 100.0}
    findings = check_driver(ReplayRobotDriver, CARD, options, tick_s=0.01, move=False)
    assert not failed(findings), failed(findings)


def test_the_end_of_a_recording(recording):
    path = str(recording[0] / "run.npz")
    for ends, last in (("holds", 0.3), ("again", 0.3 / 49)):
        with ReplayRobotDriver(CARD, tick_s=0.01, timeout_s=0.2, path=path, ends=ends, per_read=True) as driver:
            driver.connect()
            states = [driver.read() for _ in range(52)]
            assert states[-1].position == pytest.approx(HOME + last)
    with ReplayRobotDriver(CARD, tick_s=0.01, timeout_s=0.2, path=path, ends="silent", per_read=True) as driver:
        driver.connect()
        for _ in range(50):
            driver.read()
        with pytest.raises(DeployError, match="ended"):
            driver.read()


def test_what_is_no_recording_is_refused(recording, tmp_path):
    np.savez(tmp_path / "narrow.npz", time_ns=np.arange(3), position=np.zeros((3, 5)))
    np.savez(tmp_path / "back.npz", time_ns=np.array([2, 1]), position=np.zeros((2, 14)))
    np.savez(tmp_path / "nan.npz", time_ns=np.arange(2), position=np.full((2, 14), np.nan))
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    for name in ("narrow.npz", "back.npz", "nan.npz", "junk.npz", "object.npy", "absent.npz"):
        driver = ReplayRobotDriver(CARD, tick_s=0.01, timeout_s=0.2, path=str(tmp_path / name))
        with pytest.raises(DeployError, match="recording"):
            driver.connect()
    with pytest.raises(DeployError, match="speed"):
        ReplayRobotDriver(CARD, tick_s=0.01, timeout_s=0.2, path="x", speed=0.0)
