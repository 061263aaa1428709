"""Every tunable of the way from action chunks to setpoints, in one frozen dataclass with its default."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from robopolicy.errors import ConfigError, explain

__all__ = ["RESEED", "ControlConfig"]

RESEED = ("measured", "command")
"""Where :meth:`Executor.reset` takes the first command from: the measured position, or the last command. Arms under
impedance control sag when seeded from the measurement and want ``command``."""

_SCALES = ("velocity_scale", "acceleration_scale", "jerk_scale", "gripper_scale")
_POSITIVE = (
    *("max_staleness_s", "max_state_age_s", "reject_jump_m", "reject_jump_rad", "ik_damping"),
    *("ik_max_position_error_m", "ik_max_rotation_error_rad", "rest_velocity", "settle_timeout_s"),
)
_NON_NEGATIVE = ("blend_knots", "stop_tail_knots", "workspace_margin_m", "nullspace_gain_hz")


@dataclass(frozen=True)
class ControlConfig:
    """Tunables of schedule, inverse kinematics and limiter.

    Attributes:
        velocity_scale: Arm velocity limit as a share of the card's, in (0, 1].
        acceleration_scale: Arm acceleration limit as a share of the card's, in (0, 1].
        jerk_scale: Arm jerk limit as a share of the card's, in (0, 1]; None for a tenth of it, or as much of it as
            takes the arm to full acceleration in 0.07 s where that is more. Most published limits are far above what
            gears like.
        gripper_scale: Share of all three limits of the gripper channel, in (0, 1].
        blend_knots: Length of the blend from the old chunk into the new one, in control steps; 0 switches at once.
        stop_tail_knots: Time in control steps in which the reference comes to rest on its last knot when the schedule
            runs dry.
        max_staleness_s: A chunk whose observation is older than this is refused.
        max_state_age_s: A measured state older than this, or whose time stamp stands still for as long, is a fault.
        reject_jump_m: A chunk that starts further than this from the scheduled path is refused.
        reject_jump_rad: The same for rotation, and for joints in ``joint_position`` embodiments.
        bounds_factor: Actions further from the middle of their range than this many half ranges refuse the chunk;
            smaller excesses are clamped to the range. At least 1.
        workspace_margin_m: Clamped position targets stay this far inside the workspace box.
        ik_damping: Damping of the least-squares step (metres per radian; error units).
        ik_iterations: Most steps of inverse kinematics in one tick.
        ik_max_position_error_m: Position error is shortened to this before a step.
        ik_max_rotation_error_rad: Rotation error is shortened to this before a step.
        nullspace_gain_hz: Rate at which a redundant arm is pulled to its home posture while tracking.
        settle_timeout_s: This long after the schedule ran dry the arm stops where it is, even short of a reference that
            it cannot reach.
        rest_velocity: Below this share of the velocity limit on every channel the arm counts as at rest.
        reseed: One of :data:`RESEED`.
    """

    velocity_scale: float = 0.9
    acceleration_scale: float = 0.7
    jerk_scale: float | None = None
    gripper_scale: float = 1.0
    blend_knots: float = 4.0
    stop_tail_knots: float = 3.0
    max_staleness_s: float = 1.0
    max_state_age_s: float = 0.1
    reject_jump_m: float = 0.25
    reject_jump_rad: float = 1.2
    bounds_factor: float = 1.5
    workspace_margin_m: float = 0.001
    ik_damping: float = 0.02
    ik_iterations: int = 3
    ik_max_position_error_m: float = 0.3
    ik_max_rotation_error_rad: float = 1.2
    nullspace_gain_hz: float = 0.5
    settle_timeout_s: float = 5.0
    rest_velocity: float = 1e-3
    reseed: str = "measured"

    def __post_init__(self) -> None:
        problems = []
        values = dataclasses.asdict(self)
        for name in _SCALES:
            if not (values[name] is None and name == "jerk_scale") and not 0 < values[name] <= 1:
                problems.append(explain(f"{name} must lie in (0, 1]", given=values[name], mend="limits are not raised"))
        for name in _POSITIVE:
            if not values[name] > 0:
                problems.append(explain(f"{name} must be positive", given=values[name]))
        for name in _NON_NEGATIVE:
            if not (values[name] >= 0 and math.isfinite(values[name])):
                problems.append(explain(f"{name} must be finite and not negative", given=values[name]))
        if not self.bounds_factor >= 1:
            problems.append(explain("bounds_factor must be at least 1", given=self.bounds_factor))
        if self.ik_iterations < 1:
            problems.append(explain("ik_iterations must be at least 1", given=self.ik_iterations))
        if self.reseed not in RESEED:
            problems.append(explain("unknown reseed", given=self.reseed, allowed=RESEED))
        if problems:
            raise ConfigError(problems)
