"""What a scripted expert reads and answers, on a robot with one arm that takes ``ee_pose`` actions."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.reference_motion import MotionLimits, MotionReference
from robopolicy.types import ActionChunk, Observation

__all__ = ["Decision", "Seen", "TcpCommand", "TcpExpert", "pointing_down"]

Array = NDArray[np.floating]
Decision = tuple[Array, float, float]
"""Move of the TCP, or a waypoint for it, [3] m; yaw still to turn in rad; gripper command 0..1."""


@dataclass(frozen=True)
class Seen:
    """One observation by name, base frame.

    Attributes:
        time_ns: Its time.
        tcp: [3] m.
        yaw: Direction of the TCP's x axis in the plane, rad.
        gripper: Opening 0..1.
        named: Channels of the task's privileged state.
        sensor: [K, C] of each sensor that the expert reads, oldest sample first.
    """

    time_ns: int
    tcp: Array
    yaw: float
    gripper: float
    named: dict[str, float]
    sensor: dict[str, Array] = field(default_factory=dict)

    def vector(self, name: str, axes: str = "xyz") -> Array:
        """[len(axes)] the channels ``<name>.<axis>``."""
        return np.array([self.named[f"{name}.{axis}"] for axis in axes])


class TcpCommand:
    """Turns decisions (move, turn, gripper) into chunks along a smooth reference, the hand pointing straight down.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions and have one arm.
        environment_state_names: [E] channel names of the task's privileged state.
        limits: Speeds and accelerations.
        sensors: Sensors that are read, too.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        limits: MotionLimits,
        sensors: tuple[str, ...] = (),
    ):
        self._names, self._dt_s = environment_state_names, embodiment.control_dt_s
        self._position = embodiment.state.select("ee_position")
        self._rotation = embodiment.state.select("ee_rotation")
        self._gripper = embodiment.state.index(embodiment.gripper)
        self._action_position = embodiment.action.select("ee_position")
        self._action_rotation = embodiment.action.select("ee_rotation")
        self._action_gripper = embodiment.action.index(embodiment.gripper)
        self._reference = MotionReference(limits, embodiment.control_dt_s)
        self.spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=1,
            action_horizon=1,
            prediction_horizon=2,
            environment_state=len(environment_state_names),
            sensors=sensors,
        )

    def read(self, observation: Observation) -> Seen:
        """The newest frame of an observation."""
        assert observation.environment_state is not None
        state = np.asarray(observation.state[-1], float)
        x_axis = state[self._rotation]
        return Seen(
            time_ns=int(observation.time_ns[-1]),
            tcp=state[self._position],
            yaw=math.atan2(x_axis[1], x_axis[0]),
            gripper=float(state[self._gripper]),
            named=dict(zip(self._names, map(float, observation.environment_state[-1]), strict=True)),
            sensor={name: observation.sensor[name][-1] for name in self.spec.sensors},
        )

    def asked(self, seen: Seen) -> Array:
        """[3] where the TCP was asked to be by now; where it is, when that is not known."""
        asked = self._reference.asked(seen.time_ns)
        return seen.tcp if asked is None else asked

    def chunk(self, seen: Seen, move_m: Array, turn_rad: float, gripper: float) -> ActionChunk:
        """The target of the next control step, and a look ahead.

        Args:
            seen: What :meth:`read` returned.
            move_m: [3] from the measured TCP to where it shall go.
            turn_rad: From the measured yaw to the one it shall have.
            gripper: Opening to command, 0..1.
        """
        positions, yaws = self._reference.planar(seen.time_ns, seen.tcp, seen.yaw, move_m, turn_rad)
        values = np.empty((2, len(self.spec.embodiment.action)))
        for row, position, yaw in zip(values, positions, yaws, strict=True):
            row[self._action_position], row[self._action_rotation] = position, pointing_down(yaw)
        values[:, self._action_gripper] = gripper
        return ActionChunk(values, seen.time_ns, self._dt_s, self.spec.embodiment.hash, horizon=1)


class TcpExpert(abc.ABC):
    """Policy protocol of an expert that decides anew at every control step, from what is seen then.

    Args:
        command: Reads observations and makes the chunks.
    """

    def __init__(self, command: TcpCommand):
        self._command = command

    @property
    def spec(self) -> PolicySpec:
        """One observation in; one action and the one expected after it out."""
        return self._command.spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The TCP target of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        seen = self._command.read(observation)
        return self._command.chunk(seen, *self._move(seen))

    @abc.abstractmethod
    def _move(self, seen: Seen) -> Decision:
        """-> (move [3] m from the measured TCP, yaw still to turn in rad, gripper command)."""


def pointing_down(yaw_rad: float) -> tuple[float, ...]:
    """Rotation 6-D of Rz(yaw) diag(1, -1, -1): z axis of the TCP down, turned about the vertical."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return (c, s, 0.0, s, -c, 0.0)
