"""A seven-joint arm with the published kinematics and limits of the Panda, so that this room needs no other."""

from __future__ import annotations

import math

JOINTS = [f"joint{i}" for i in range(1, 8)]
DH = list(
    zip(  # Craig's convention: alpha and a of the link before, then d and theta about z
        (0.0, -math.pi / 2, math.pi / 2, math.pi / 2, -math.pi / 2, math.pi / 2, math.pi / 2),
        (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088),
        (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0),
        strict=True,
    )
)
RANGE = [(-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698)]
RANGE += [(-2.8973, 2.8973), (-0.0175, 3.7525), (-2.8973, 2.8973)]
VELOCITY = [2.175] * 4 + [2.61] * 3
ACCELERATION = [15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]
JERK = [7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0]
HOME = [0.0, -math.pi / 4, 0.0, -3 * math.pi / 4, 0.0, math.pi / 2, math.pi / 4]


def about(axis: int, angle: float) -> list[float]:
    """Quaternion wxyz of a turn about a coordinate axis."""
    return [math.cos(angle / 2), *(math.sin(angle / 2) if i == axis else 0.0 for i in range(3))]


def panda_card(action_space: str = "ee_pose", setpoint_hz: float = 100.0) -> dict:
    """The card as a mapping."""
    joints = [
        {
            "name": name,
            "unit": "rad",
            "lower": RANGE[i][0],
            "upper": RANGE[i][1],
            "max_velocity": VELOCITY[i],
            "max_acceleration": ACCELERATION[i],
            "max_jerk": JERK[i],
        }
        for i, name in enumerate(JOINTS)
    ]
    gripper = {"name": "gripper", "unit": "normalised", "lower": 0.0, "upper": 1.0}
    gripper |= {"max_velocity": 2.5, "max_acceleration": 25.0, "max_jerk": 1000.0}
    chain = [
        {
            "joint": name,
            "position_m": [a, -d * math.sin(alpha), d * math.cos(alpha)],
            "quaternion": about(0, alpha),
        }
        for name, (alpha, a, d) in zip(JOINTS, DH, strict=True)
    ]
    return {
        "name": "test_panda",
        "action_space": action_space,
        "control_hz": 20.0,
        "setpoint_hz": setpoint_hz,
        "joints": [*joints, gripper],
        "gripper": {"channel": "gripper", "width_m": 0.08},
        "chain": chain,
        "tcp": {"position_m": [0.0, 0.0, 0.107 + 0.1034], "quaternion": about(2, -math.pi / 4)},
        "workspace": {"lower_m": [0.2, -0.45, 0.0], "upper_m": [0.75, 0.45, 0.8]},
        "home": {**dict(zip(JOINTS, HOME, strict=True)), "gripper": 1.0},
    }
