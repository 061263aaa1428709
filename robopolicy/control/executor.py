"""The only maker of setpoints: the same code in simulation on a virtual clock and on the robot on the real one.

::

    submit(chunk, now)                    tick(state, now), every tick_s
        |                                      |
    ChunkSchedule.merge --> reference at now + tick_s --> IK on the commanded joints --> SafetyLimiter --> Setpoint
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.between import delay_steps
from robopolicy.control.clearance import ClearanceConfig
from robopolicy.control.config import ControlConfig
from robopolicy.control.limiter import SafetyLimiter
from robopolicy.control.native import MOST_CHANNELS, native
from robopolicy.control.schedule import ChunkSchedule, MergeReport
from robopolicy.control.verdict import Limit, Verdict
from robopolicy.embodiment import Embodiment
from robopolicy.types import ActionChunk, RobotState, Setpoint

__all__ = ["MODES", "ControlConfig", "Counters", "Executor", "MergeReport", "Tick"]

MODES = ("tracking", "stopping", "holding", "fault")


class Tick(NamedTuple):
    """Everything that one tick decided.

    Attributes:
        setpoint: To be sent now, reached one tick later.
        verdict: What the limiter changed.
        mode: ``tracking`` a scheduled reference; ``stopping`` on the way to rest; ``holding`` at rest; ``fault``
            latched.
        reference: [A] reference at the setpoint's time in action channels, or None when braking or holding.
        seam: A new chunk took over in this tick.
    """

    setpoint: Setpoint
    verdict: Verdict
    mode: str
    reference: NDArray[np.floating] | None
    seam: bool


@dataclass
class Counters:
    """Since the executor was made.

    Attributes:
        ticks: Calls of ``tick``.
        tracking_ticks: Of these in mode ``tracking``.
        late_ticks: Ticks that came more than half a tick late.
        clipped_ticks: Ticks in which the limiter changed the request.
        accepted: Chunks taken.
        refused: Chunks refused, by reason.
        seams: Ticks in which a new chunk took over.
        max_seam_velocity_step: Largest change of commanded arm velocity in such a tick, as a multiple of what the
            acceleration limit in force allows in one tick.
    """

    ticks: int = 0
    tracking_ticks: int = 0
    late_ticks: int = 0
    clipped_ticks: int = 0
    accepted: int = 0
    refused: dict[str, int] | None = None
    seams: int = 0
    max_seam_velocity_step: float = 0.0


class Executor:
    """Turns chunks into setpoints at the setpoint rate.

    Starts faultless at the card's home posture; call :meth:`reset` with the measured state before the first tick.

    Args:
        embodiment: Card of the robot.
        config: Tunables.
        tick_s: Seconds between two ticks; the card's by default.
        clearance: See :class:`~robopolicy.control.limiter.SafetyLimiter`.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        config: ControlConfig | None = None,
        tick_s: float | None = None,
        clearance: Mapping[str, ClearanceConfig] | None = None,
    ) -> None:
        self.embodiment = embodiment
        self.config = config or ControlConfig()
        self.limiter = SafetyLimiter(embodiment, self.config, tick_s, clearance)
        self.kinematics = self.limiter.kinematics
        self.schedule = ChunkSchedule(embodiment, self.config)
        self.tick_s = self.limiter.tick_s
        self._tick_ns = round(self.tick_s * 1e9)
        self._pull = self.config.nullspace_gain_hz * self.tick_s
        self._layout, self._width = self.schedule.layout, len(embodiment.action)
        self._cartesian = embodiment.action_space == "ee_pose"
        self._follower = self._make_follower() if native and self._cartesian else None
        self._compiled = native is not None and len(embodiment.joints) <= MOST_CHANNELS
        self._counters = Counters()
        self._fresh = True
        self._last_ns: int | None = None
        self._committed_ns: int | None = None
        self._stopped = False
        self._begin(0)

    @property
    def fault(self) -> str | None:
        """Reason of the latched fault, or None."""
        return self.limiter.fault

    @property
    def stopped(self) -> bool:
        """A stop was requested; chunks are refused until :meth:`resume` or :meth:`reset`."""
        return self._stopped

    @property
    def command(self) -> NDArray[np.floating]:
        """[J] last setpoint."""
        return self.limiter.command

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters."""
        values = dict(vars(self._counters))
        values.update(accepted=self.schedule.accepted, refused=dict(self.schedule.refused))
        return Counters(**values)

    def reset(self, state: RobotState) -> None:
        """Clear schedule, stop and fault, and begin at rest at the measured position.

        With ``reseed="command"`` the position is the last command (once there was one): arms under impedance control
        sag when seeded from the measurement.

        Raises:
            SafetyFaultError: the measured position is not finite or has the wrong width.
        """
        use_command = self.config.reseed == "command" and not self._fresh
        self.limiter.reset(self.limiter.command if use_command else state.position)
        self._fresh = False
        self._begin(state.time_ns)

    def resume(self) -> None:
        """Take chunks again after :meth:`request_stop`. A latched fault stays; only :meth:`reset` clears it."""
        if self._stopped:
            self._stopped, self._frozen = False, True

    def request_stop(self) -> None:
        """Forget the schedule, brake within the limits, then hold; chunks are refused until resumed or reset."""
        self._stopped, self._frozen = True, True

    def remaining_s(self, now_ns: int) -> float:
        """Scheduled future left."""
        return 0.0 if self._stopped or self.fault else self.schedule.remaining_s(now_ns)

    def standing(self, now_ns: int) -> bool:
        """Whether a chunk that comes now would be followed from its beginning: nothing is scheduled any more."""
        return self._frozen or self.schedule.empty or self.schedule.settled(now_ns)

    def scheduled(self, t0_ns: int, delay_ns: int = 0) -> ActionChunk | None:
        """What is going to be executed after an observation, at the control steps counted from it.

        The values are those of the path itself, so after a splice they are the blend of two chunks. Beyond the last
        knot, as far as ``delay_ns`` reaches, they are the path's way to rest.

        Args:
            t0_ns: Time of the observation.
            delay_ns: Expected time until the chunk made from it is there.

        Returns:
            Values [H, A] of the card that is driven; ``horizon`` = ceil(delay / dt) of them will have been executed by
            then. None when the arm will have come to rest by then, or already has: the next chunk is then followed
            from its own beginning and has nothing to agree with.
        """
        curve, dt_s = self.schedule.curve, self.embodiment.control_dt_s
        if self._frozen or self.fault is not None or self.schedule.empty or t0_ns + delay_ns >= curve.rest_ns:
            return None
        fixed = delay_steps(delay_ns, dt_s)
        known = int((curve.end_ns - t0_ns) * 1e-9 / dt_s + 1e-6)
        count = max(known, fixed)
        if count < 1:
            return None
        values = np.array([curve.at(t0_ns + round(k * dt_s * 1e9)) for k in range(1, count + 1)])
        return ActionChunk(values, t0_ns, dt_s, self.embodiment.hash, horizon=fixed)

    def submit(self, chunk: ActionChunk, now_ns: int) -> MergeReport:
        """Merge a chunk by absolute time, or refuse it and keep what is scheduled.

        Args:
            chunk: In physical units, of this embodiment.
            now_ns: Time of arrival on the executor's clock.
        """
        if self.fault is not None:
            return self.schedule.refuse("fault")
        if self._stopped:
            return self.schedule.refuse("stopped")
        if self._frozen:
            # A stop, or a target out of reach, left the reference; the path has to begin where the arm is.
            self.schedule.anchor(self._where(), now_ns)
        report = self.schedule.merge(chunk, now_ns, self._committed_ns)
        if report.accepted:
            self._seam, self._frozen = True, False
        return report

    def tick(self, state: RobotState, now_ns: int) -> Tick:
        """Make the setpoint for ``now_ns + tick_s``.

        A late call samples the reference once at the time it is; nothing is caught up in a burst.

        Args:
            state: Newest measured state.
            now_ns: Time on the executor's clock; must grow from call to call.
        """
        last_ns, self._last_ns = self._last_ns, now_ns
        if last_ns is not None and now_ns - last_ns != self._tick_ns:
            self._irregular(now_ns - last_ns)
        target_ns = self._committed_ns = now_ns + self._tick_ns
        limiter, curve, counters = self.limiter, self.schedule.curve, self._counters
        reference: NDArray[np.floating] | None = None
        if self._frozen or limiter.fault is not None:
            command, verdict = limiter.brake(state, self.tick_s, now_ns)
        elif self._compiled:
            reference = np.empty(self._width)
            pull = 0.0 if target_ns >= curve.rest_ns else self._pull
            command, verdict = limiter.apply_path(curve.path, self._follower, target_ns, pull, reference, state, now_ns)
        else:
            reference = curve.at(target_ns)
            command, verdict = limiter.apply(self._joints(reference, target_ns), state, self.tick_s, now_ns)
        if target_ns <= curve.end_ns and not self._frozen and limiter.fault is None:
            mode = "tracking"
            counters.tracking_ticks += 1
        else:
            mode = self._mode(target_ns)
        counters.ticks += 1
        if verdict.bits:
            counters.clipped_ticks += 1
        seam = self._seam
        if seam:
            self._seam = False
            counters.seams += 1
            counters.max_seam_velocity_step = max(counters.max_seam_velocity_step, self.limiter.effort)
        return Tick(Setpoint(target_ns, command), verdict, mode, reference, seam)

    def _begin(self, now_ns: int) -> None:
        self._stopped = self._seam = False
        self._frozen = True
        self._last_ns = self._committed_ns = None
        self.schedule.reset(self._where(), now_ns)

    def _where(self) -> NDArray[np.floating]:
        """[A] action that would keep the commanded joints where they are."""
        command = self.limiter.command
        return self.kinematics.only.tcp_state(command) if self._cartesian else command

    def _irregular(self, gap_ns: int) -> None:
        """A tick that did not come one tick after the last."""
        if gap_ns <= 0:
            self.limiter.trip(f"the clock went back by {-gap_ns} ns", Limit.STALENESS)
        elif gap_ns > 1.5 * self._tick_ns:
            self._counters.late_ticks += 1

    def _joints(self, reference: NDArray[np.floating], target_ns: int) -> NDArray[np.floating]:
        """[J] request for a reference [A]."""
        if not self._cartesian:
            return reference
        config, command, arm = self.config, self.limiter.command, self.kinematics.only
        # Once the reference stands still the posture may not keep drifting, or the arm would never come to rest.
        pull = 0.0 if self.schedule.settled(target_ns) else self._pull
        rotation = _matrix(reference[self._layout.rotation].tolist())
        solution = arm.solve(
            command[arm.arm],
            reference[self._layout.position],
            rotation,
            iterations=config.ik_iterations,
            damping=config.ik_damping,
            max_position_error_m=config.ik_max_position_error_m,
            max_rotation_error_rad=config.ik_max_rotation_error_rad,
            nullspace=pull,
        )
        command[arm.arm] = solution.q_arm
        command[arm.end] = reference[self._layout.gripper]
        return command

    def _make_follower(self) -> Any:
        """:meth:`_joints` compiled."""
        arm, layout, config = self.kinematics.only, self._layout, self.config
        return native.Follower(
            arm.chain,
            len(self.embodiment.action),
            len(self.embodiment.joints),
            layout.position.tolist(),
            layout.rotation.tolist(),
            layout.gripper.tolist(),
            arm.arm.tolist(),
            arm.end.tolist(),
            config.ik_iterations,
            config.ik_damping,
            config.ik_max_position_error_m,
            config.ik_max_rotation_error_rad,
        )

    def _mode(self, target_ns: int) -> str:
        """Of a tick that does not track the schedule any more."""
        if self.limiter.fault is not None:
            return "fault"
        if not self._frozen:
            curve = self.schedule.curve
            # Repeating inverse kinematics on a reference that is out of reach would creep for ever.
            waited_s, settled = (target_ns - curve.end_ns) * 1e-9, target_ns >= curve.rest_ns
            self._frozen = settled and (self.limiter.at_rest or waited_s > self.config.settle_timeout_s)
        return "holding" if self._frozen and self.limiter.at_rest else "stopping"


def _matrix(columns: list[float]) -> NDArray[np.floating]:
    """Rotation matrix of its first two columns, in scalars: this runs at every tick."""
    a, b, c, d, e, f = columns
    return np.array(((a, d, b * f - c * e), (b, e, c * d - a * f), (c, f, a * e - b * d)))
