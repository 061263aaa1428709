"""The compiled servo does what the steps in Python do."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.control.native import native
from robopolicy.errors import SimulationError
from robopolicy.sim.env import Env

pytestmark = pytest.mark.skipif(native is None, reason="installed without a C compiler")

PAIRS = (
    ("pick_place", "panda"),
    ("pick_place", "so101"),
    ("bimanual_transfer", "aloha"),
    ("in_hand_rotate", "allegro"),
)


def moved(env: Env, amplitude: float) -> list[np.ndarray]:
    """Measured joints and everything that moves, after each setpoint of a small wave."""
    env.reset(options={"split": "val", "index": 0})
    card, rows = env.embodiment, []
    for tick in range(30):
        wave = amplitude * np.sin(0.3 * tick + np.arange(len(card.joints)))
        env.servo(np.clip(env.start_position + wave, card.joints.lower, card.joints.upper))
        state = env.robot_state()
        rows.append(np.concatenate([state.position, state.velocity, env.data.qpos, env.data.ctrl]))
    return rows


@pytest.mark.parametrize(("task", "robot"), PAIRS)
def test_servo_gives_the_same_bits(task: str, robot: str) -> None:
    compiled, plain = Env(task, robot), Env(task, robot)
    assert compiled._servo is not None
    plain._servo = None
    one, two, other = moved(compiled, 0.05), moved(plain, 0.05), moved(plain, 0.06)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(two, other)  # control: the comparison sees another motion


def test_servo_takes_any_numbers_and_notices_divergence() -> None:
    env = Env("pick_place", "panda")
    env.reset(options={"split": "val", "index": 0})
    for position in (env.start_position.tolist(), env.start_position.astype(np.float32)):
        env.servo(position)
    with pytest.raises(ValueError, match="wanted 8"):
        env.servo(env.start_position[:-1])
    env.data.qpos[-7] = np.nan
    with pytest.raises(SimulationError, match="unstable"):
        env.servo(env.start_position)
