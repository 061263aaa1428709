"""Robots with two arms, and hands without one: every arm is guarded by itself, and no arm pays for another."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from robopolicy.channels import ChannelGroup
from robopolicy.control import curve as curve_module
from robopolicy.control import kinematics as kinematics_module
from robopolicy.control import limiter_core, schedule
from robopolicy.control.config import ControlConfig
from robopolicy.control.curve import ActionLayout
from robopolicy.control.executor import Executor
from robopolicy.control.limiter import SafetyLimiter
from robopolicy.control.native import native
from robopolicy.control.robot import RobotKinematics
from robopolicy.control.verdict import Limit
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import EmbodimentError
from robopolicy.types import ActionChunk, RobotState

TICK_NS = 10_000_000
TICK_S = 0.01
Array = NDArray[np.float64]


@pytest.fixture(params=["python", "native"] if native else ["python"], autouse=True)
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test on both forms of the control tick."""
    if request.param == "python":
        for module in (curve_module, kinematics_module, limiter_core, schedule):
            monkeypatch.setattr(module, "native", None)
        monkeypatch.setattr("robopolicy.control.executor.native", None)
    return str(request.param)


@pytest.fixture(scope="module")
def aloha() -> Embodiment:
    return load_embodiment("aloha")


@pytest.fixture(scope="module")
def hand() -> Embodiment:
    return load_embodiment("allegro")


def of(card: Embodiment, side: str) -> Array:
    """Positions of an arm's channels, gripper included."""
    return np.array([i for i, n in enumerate(card.joints.names) if n.startswith(side + ".")])


def run(limiter: SafetyLimiter, wishes: Array) -> tuple[Array, list]:
    """-> (sent [T, J], verdicts) for requests [T, J]."""
    sent, verdicts = [], []
    still = np.zeros(wishes.shape[1])
    for tick, wish in enumerate(wishes):
        position, verdict = limiter.apply(wish, RobotState(tick * TICK_NS, limiter.command, still), TICK_S)
        sent.append(position)
        verdicts.append(verdict)
    return np.array(sent), verdicts


def wild(card: Embodiment, seed: int, ticks: int = 250) -> Array:
    """[T, J] requests that leap about, some far out of range."""
    rng = np.random.default_rng(seed)
    lower, upper = card.joints.lower, card.joints.upper
    count = len(lower)
    leaps = np.repeat(rng.uniform(lower - 0.3, upper + 0.3, (ticks // 25 + 1, count)), 25, axis=0)[:ticks]
    walk = card.home_position + np.cumsum(rng.normal(0, 0.03, (ticks, count)), axis=0)
    return np.where(rng.random(count) < 0.5, leaps, walk)


def gentle(card: Embodiment, ticks: int = 250) -> Array:
    """[T, J] around home, within every limit, beginning at rest."""
    swing = 0.08 * (1 - np.cos(2.0 * np.arange(ticks) * TICK_S)) ** 2
    ways = np.where(np.arange(len(card.joints)) % 2, 1.0, -1.0)
    motion = card.home_position + swing[:, None] * ways
    return np.clip(motion, card.joints.lower, card.joints.upper)


def outward(card: Embodiment, side: str, ticks: int = 250) -> Array:
    """[T, J] home for everything but one arm, which reaches out through the front of its box."""
    wishes = np.tile(card.home_position, (ticks, 1))
    target = dict(zip(("shoulder", "elbow", "wrist_angle"), (0.9, -0.6, -0.3), strict=True))
    for name, value in target.items():
        wishes[:, card.joints.index(f"{side}.{name}")] = value
    return wishes


def tcp_positions(card: Embodiment, sent: Array) -> dict[str, Array]:
    return {part.name: part.kinematics.positions(sent[:, part.joints]) for part in RobotKinematics(card).parts}


def worst_outside_m(card: Embodiment, sent: Array) -> dict[str, float]:
    """How far each arm's TCP was out of its own box at worst."""
    worst = {}
    for name, points in tcp_positions(card, sent).items():
        lower, upper = (np.array(side) for side in card.arm(name).workspace)
        worst[name] = float(np.maximum(lower - points, points - upper).max())
    return worst


def breaches(sent: Array, limiter: SafetyLimiter, card: Embodiment) -> list[str]:
    """Limits broken on the wire by positions [T, J] that began at rest at the first."""
    found = []
    if not np.isfinite(sent).all() or (sent > card.joints.upper).any() or (sent < card.joints.lower).any():
        found.append("position")
    rate = np.concatenate([np.tile(sent[:1], (3, 1)), sent])
    limits = (limiter.max_velocity, limiter.max_acceleration, limiter.max_jerk)
    for order, (name, limit) in enumerate(zip(("velocity", "acceleration", "jerk"), limits, strict=True), 1):
        rate = np.diff(rate, axis=0) / TICK_S
        rounding = 2**order * np.spacing(np.abs(sent).max()) / TICK_S**order
        if (np.abs(rate[3:]) > limit * (1 + 1e-9) + rounding).any():
            found.append(name)
    return found


# ------------------------------------------------------------------------------------------------------------ two arms
@pytest.mark.parametrize("seed", range(4))
def test_no_request_breaks_a_limit_or_takes_an_arm_out_of_its_box(aloha: Embodiment, seed: int) -> None:
    limiter = SafetyLimiter(aloha)
    wishes = wild(aloha, seed)
    sent, _ = run(limiter, wishes)
    assert breaches(np.concatenate([[aloha.home_position], sent]), limiter, aloha) == []
    assert max(worst_outside_m(aloha, sent).values()) <= 1e-9
    # control: the requests themselves, and a robot whose boxes are wide
    assert breaches(wishes, limiter, aloha) != []
    arms = tuple(dataclasses.replace(a, workspace=((-9.0,) * 3, (9.0,) * 3)) for a in aloha.arms)
    free, _ = run(SafetyLimiter(dataclasses.replace(aloha, arms=arms)), wishes)
    assert max(worst_outside_m(aloha, free).values()) > 0.02


@pytest.mark.parametrize("name", ["franka_fr3_dual", "tienkung_gello", "unitree_g1_inspire"])
def test_cards_with_two_arms_and_with_hands_on_them_are_driven(name: str) -> None:
    card = load_embodiment(name)
    limiter = SafetyLimiter(card, tick_s=TICK_S)
    assert [part.name for part in limiter.kinematics.parts] == ["left", "right"]
    wishes = wild(card, 0, 120)
    sent, _ = run(limiter, wishes)
    assert breaches(np.concatenate([[card.home_position], sent]), limiter, card) == []
    assert max(worst_outside_m(card, sent).values()) <= 1e-9
    assert max(worst_outside_m(card, wishes).values()) > 0.02
    held = [i for part in limiter.kinematics.parts for i in (*part.joints, *part.end)]
    assert sorted(held) == list(range(len(card.joints)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_arm_is_limited_exactly_as_if_it_were_alone(aloha: Embodiment, side: str) -> None:
    wishes = wild(aloha, 7)
    mine = of(aloha, side)
    both, verdicts = run(SafetyLimiter(aloha), wishes)
    alone, single = run(SafetyLimiter(aloha.single_arm(side)), wishes[:, mine])
    assert (both[:, mine] == alone).all()
    mask = sum(1 << int(i) for i in mine)
    shift = int(mine[0])
    assert [v.channels & mask for v in verdicts] == [v.channels << shift for v in single]
    # control: another request to this arm is seen
    wishes[20:, mine] = aloha.home_position[mine]
    assert (run(SafetyLimiter(aloha), wishes)[0][:, mine] != alone).any()


@pytest.mark.parametrize(("side", "other"), [("left", "right"), ("right", "left")])
def test_an_arm_at_its_border_does_not_slow_the_other(aloha: Embodiment, side: str, other: str) -> None:
    wishes, free = outward(aloha, side), of(aloha, other)
    wishes[:, free] = gentle(aloha)[:, free]
    sent, verdicts = run(SafetyLimiter(aloha), wishes)
    points = tcp_positions(aloha, sent)[side]
    front_m = aloha.arm(side).workspace[1][0]
    assert points[:, 0].max() > front_m - 0.02, "the arm does get to its border"
    assert points[:, 0].max() <= front_m + 1e-9
    assert any(v.bits & Limit.WORKSPACE for v in verdicts)
    # bit for bit what was asked for, and never named in a verdict
    assert (sent[:, free] == wishes[:, free]).all()
    mask = sum(1 << int(i) for i in free)
    assert not any(v.channels & mask for v in verdicts)
    # control: without the box the first arm goes on
    arms = tuple(dataclasses.replace(a, workspace=((-9.0,) * 3, (9.0,) * 3)) for a in aloha.arms)
    assert tcp_positions(aloha, run(SafetyLimiter(dataclasses.replace(aloha, arms=arms)), wishes)[0])[side][
        :, 0
    ].max() > (front_m + 0.02)


def test_boxes_are_the_arms_own(aloha: Embodiment) -> None:
    """The left arm's box is smaller here; the right, with the same requests, goes further."""
    left, right = aloha.arms
    lower, upper = left.workspace
    small = dataclasses.replace(left, workspace=(lower, (0.40, *upper[1:])))
    card = dataclasses.replace(aloha, arms=(small, right))
    wishes = outward(card, "left")
    wishes[:, of(card, "right")] = outward(card, "right")[:, of(card, "right")]
    sent, _ = run(SafetyLimiter(card), wishes)
    furthest = {name: points[:, 0].max() for name, points in tcp_positions(card, sent).items()}
    assert 0.38 < furthest["left"] <= 0.40 + 1e-9
    assert 0.63 < furthest["right"] <= 0.65 + 1e-9


def test_order_of_the_channels_does_not_matter(aloha: Embodiment) -> None:
    """Joints of both arms in turn, right before left: the same robot, the same motion, bit for bit."""
    order = [i for pair in zip(of(aloha, "right"), of(aloha, "left"), strict=True) for i in pair]
    mixed = dataclasses.replace(aloha, joints=ChannelGroup(tuple(aloha.joints.channels[i] for i in order)))
    assert mixed.joints.names != aloha.joints.names
    wishes = wild(aloha, 11)
    plain, verdicts = run(SafetyLimiter(aloha), wishes)
    sent, turned = run(SafetyLimiter(mixed), wishes[:, order])
    assert (sent == plain[:, order]).all()
    for one, two in zip(verdicts, turned, strict=True):
        assert one.bits == two.bits
        assert [one.channels >> i & 1 for i in order] == [two.channels >> k & 1 for k in range(len(order))]


def test_a_start_outside_widens_only_the_box_of_that_arm(aloha: Embodiment) -> None:
    limiter = SafetyLimiter(aloha)
    start = outward(aloha, "left")[0]
    outside = worst_outside_m(aloha, start[None])
    assert outside["left"] > 0.02 > 0 > outside["right"]
    limiter.reset(start)
    further = start.copy()
    further[of(aloha, "right")] = outward(aloha, "right")[0, of(aloha, "right")]
    further[aloha.joints.index("left.shoulder")] += 0.1
    sent, _ = run(limiter, np.tile(further, (250, 1)))
    worst = worst_outside_m(aloha, sent)
    assert worst["right"] <= 1e-9
    assert worst["left"] <= outside["left"] + 1e-9, "no further out than it began"
    # it may come home, and the true box holds again
    home, _ = run(limiter, np.tile(aloha.home_position, (300, 1)))
    np.testing.assert_allclose(home[-1], aloha.home_position, atol=1e-12)
    again, _ = run(limiter, outward(aloha, "left"))
    assert worst_outside_m(aloha, again)["left"] <= 1e-9


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_request_that_is_not_finite_stops_both_arms(aloha: Embodiment, side: str) -> None:
    limiter = SafetyLimiter(aloha)
    wishes = np.concatenate([gentle(aloha, 120), np.tile(gentle(aloha, 120)[-1], (150, 1))])
    before, _ = run(limiter, wishes[:60])
    bad = wishes[60].copy()
    bad[of(aloha, side)[2]] = np.nan
    after, verdicts = run(limiter, np.concatenate([bad[None], wishes[61:]]))
    assert all(v.fault and v.channels == (1 << len(aloha.joints)) - 1 for v in verdicts)
    moving = np.abs(before[-1] - before[-2]) > 1e-4
    assert moving[of(aloha, "left")].any()
    assert moving[of(aloha, "right")].any()
    assert breaches(np.concatenate([[aloha.home_position], before, after]), limiter, aloha) == []
    assert (after[-1] == after[-2]).all()
    assert limiter.at_rest
    # control: without the fault both go on to where they were asked to be
    on, _ = run(SafetyLimiter(aloha), wishes)
    assert (np.abs(on[-1] - after[-1])[moving] > 1e-3).all()


# ------------------------------------------------------------------------------------------------ executor of two arms
def follow(executor: Executor, chunks: list[ActionChunk], ticks: int) -> tuple[Array, list[bool]]:
    """-> (sent [T, J], whether each chunk was taken); chunks are submitted one per control step."""
    step_ns = round(1e9 / executor.embodiment.control_hz)
    still, sent, taken = np.zeros(len(executor.embodiment.joints)), [], []
    for tick in range(ticks):
        now_ns = tick * TICK_NS
        if now_ns % step_ns == 0 and now_ns // step_ns < len(chunks):
            taken.append(executor.submit(chunks[now_ns // step_ns], now_ns).accepted)
        sent.append(executor.tick(RobotState(now_ns, executor.command, still), now_ns).setpoint.position)
    return np.array(sent), taken


def chunk(card: Embodiment, values: Array, t0_ns: int = 0) -> ActionChunk:
    return ActionChunk(np.atleast_2d(values), t0_ns, card.control_dt_s, card.hash)


def test_layout_knows_both_grippers_and_takes_a_hand_for_joints(aloha: Embodiment, hand: Embodiment) -> None:
    layout = ActionLayout.of(aloha)
    names = np.array(aloha.action.names)
    assert names[layout.gripper].tolist() == ["left.gripper", "right.gripper"]
    assert len(layout.position) == 12
    assert not len(layout.rotation)
    assert len(ActionLayout.of(hand).position) == 16
    assert not len(ActionLayout.of(hand).gripper)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_jump_of_either_arm_refuses_the_chunk_and_a_gripper_may_jump(aloha: Embodiment, side: str) -> None:
    for name, change, taken in ((f"{side}.waist", 1.3, False), (f"{side}.waist", 1.1, True), ("gripper", -1.0, True)):
        executor = Executor(aloha)
        executor.reset(RobotState(0, aloha.home_position, np.zeros(14)))
        values = aloha.home_position.copy()
        values[aloha.joints.index(name if "." in name else f"{side}.{name}")] += change
        sent, accepted = follow(executor, [chunk(aloha, values)], 60)
        assert accepted == [taken], name
        assert bool(np.abs(sent[-1] - aloha.home_position).max() > 0.1) is taken
        assert ("jump" in (executor.counters.refused or {})) is not taken


def test_arms_follow_one_chunk_each_as_if_it_were_alone(aloha: Embodiment) -> None:
    """A chunk that moves both arms moves each as the chunk in which the other stands still."""

    def moved(sides: tuple[str, ...]) -> Array:
        rows = np.tile(aloha.home_position, (40, 1))
        for side in sides:
            mine = of(aloha, side)
            rows[:, mine] = gentle(aloha, 160)[::4][:40][:, mine]
        executor = Executor(aloha)
        executor.reset(RobotState(0, aloha.home_position, np.zeros(14)))
        sent, taken = follow(executor, [chunk(aloha, rows)], 80)
        assert taken == [True]
        return sent

    both, left, right = moved(("left", "right")), moved(("left",)), moved(("right",))
    assert (both[:, of(aloha, "left")] == left[:, of(aloha, "left")]).all()
    assert (both[:, of(aloha, "right")] == right[:, of(aloha, "right")]).all()
    assert (left[:, of(aloha, "right")] == aloha.home_position[of(aloha, "right")]).all()
    # control: they do move
    for side, sent in (("left", left), ("right", right)):
        assert np.abs(sent[:, of(aloha, side)] - aloha.home_position[of(aloha, side)]).max() > 0.05


def test_executor_keeps_each_arm_in_its_box_and_comes_to_rest(aloha: Embodiment) -> None:
    executor = Executor(aloha)
    executor.reset(RobotState(0, aloha.home_position, np.zeros(14)))
    target = outward(aloha, "left")[0]
    steps = [aloha.home_position + share * (target - aloha.home_position) for share in np.linspace(0, 1, 60)[1:]]
    chunks = [chunk(aloha, row, round(i * 2e7)) for i, row in enumerate(steps)]
    sent, taken = follow(executor, chunks, 300)
    assert all(taken)
    assert max(worst_outside_m(aloha, sent).values()) <= 1e-9
    assert worst_outside_m(aloha, target[None])["left"] > 0.02
    assert breaches(np.concatenate([[aloha.home_position], sent]), executor.limiter, aloha) == []
    assert np.abs(np.diff(sent[-40:], axis=0)).max() < 2e-4


# ------------------------------------------------------------------------------------------------------------- a hand
@pytest.mark.parametrize("seed", range(3))
def test_a_hand_keeps_its_limits_and_has_no_workspace(hand: Embodiment, seed: int) -> None:
    limiter = SafetyLimiter(hand)
    assert limiter.kinematics.parts == ()
    wishes = wild(hand, seed)
    sent, verdicts = run(limiter, wishes)
    assert breaches(np.concatenate([[hand.home_position], sent]), limiter, hand) == []
    assert not any(v.bits & Limit.WORKSPACE for v in verdicts)
    assert any(v.bits & Limit.POSITION for v in verdicts)
    assert breaches(wishes, limiter, hand) != []


def test_fingers_are_limited_as_joints_and_not_as_a_gripper(hand: Embodiment, aloha: Embodiment) -> None:
    config = ControlConfig(velocity_scale=0.5, gripper_scale=0.25)
    fingers, arms = SafetyLimiter(hand, config), SafetyLimiter(aloha, config)
    np.testing.assert_allclose(fingers.max_velocity, 0.5 * hand.joints.limit("max_velocity"))
    share = arms.max_velocity / aloha.joints.limit("max_velocity")
    jaws = [aloha.joints.index(f"{side}.gripper") for side in ("left", "right")]
    np.testing.assert_allclose(share[jaws], 0.25)
    np.testing.assert_allclose(np.delete(share, jaws), 0.5)


def test_a_hand_passes_what_is_within_its_limits_and_stops(hand: Embodiment) -> None:
    wishes = gentle(hand)
    sent, verdicts = run(SafetyLimiter(hand), wishes)
    assert (sent == wishes).all()
    assert not any(v.bits for v in verdicts)
    slow, _ = run(SafetyLimiter(hand, ControlConfig(velocity_scale=0.01)), wishes)
    assert (slow != wishes).any(), "control: a slower limit shows"
    executor = Executor(hand)
    executor.reset(RobotState(0, hand.home_position, np.zeros(16)))
    rows = np.tile(hand.home_position + 0.1, (3, 1))
    sent, taken = follow(executor, [chunk(hand, np.clip(rows, hand.joints.lower, hand.joints.upper))], 120)
    assert taken == [True]
    assert executor.limiter.at_rest
    np.testing.assert_allclose(sent[-1], np.minimum(hand.home_position + 0.1, hand.joints.upper), atol=1e-9)
    flat = np.where(np.isin(hand.joints.names, ["mfj1"]), 0.0, hand.home_position)
    for reach, taken in ((1.1, True), (1.3, False)):
        executor.reset(RobotState(0, flat, np.zeros(16)))
        report = executor.submit(chunk(hand, flat + reach * np.isin(hand.joints.names, ["mfj1"])), 0)
        assert report.accepted is taken, "fingers count in a jump"


# --------------------------------------------------------------------------------------------------------- kinematics
def test_state_of_two_arms_is_that_of_each_by_name(aloha: Embodiment) -> None:
    robot, rng = RobotKinematics(aloha), np.random.default_rng(0)
    q = rng.uniform(aloha.joints.lower, aloha.joints.upper) * 0.5
    assert (robot.tcp_state(q) == q).all()
    posed = dataclasses.replace(aloha, state_space="ee_pose")
    state = dict(zip(posed.state.names, RobotKinematics(posed).tcp_state(q), strict=True))
    for part in robot.parts:
        position, rotation = part.kinematics.forward(q[part.joints])
        assert [state[f"{part.name}.ee_position.{a}"] for a in "xyz"] == position.tolist()
        columns = [state[f"{part.name}.ee_rotation.{i}"] for i in range(6)]
        assert columns == [*rotation[:, 0], *rotation[:, 1]]
        assert state[f"{part.name}.gripper"] == q[part.end[0]]
    left, right = (robot.part(side).kinematics.forward(q[robot.part(side).joints])[0] for side in ("left", "right"))
    assert np.abs(left - right).max() > 0.01, "control: the arms differ"


def test_what_a_robot_does_not_have_is_said(aloha: Embodiment, hand: Embodiment) -> None:
    for card in (aloha, hand):
        with pytest.raises(EmbodimentError, match="not a robot of one arm"):
            _ = RobotKinematics(card).only
    with pytest.raises(EmbodimentError, match=r"'middle'.*left.*right"):
        RobotKinematics(aloha).part("middle")
    assert (RobotKinematics(hand).tcp_state(hand.home_position) == hand.home_position).all()
    left, right = aloha.arms
    with pytest.raises(EmbodimentError, match="has no chain"):
        RobotKinematics(dataclasses.replace(aloha, arms=(left, dataclasses.replace(right, chain=()))))
    bare = dataclasses.replace(right, gripper="")
    with pytest.raises(EmbodimentError, match=r"no arm: \['right.gripper'\]"):
        RobotKinematics(dataclasses.replace(aloha, arms=(left, bare)))
