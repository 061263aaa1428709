"""What a simulated controller moves: the Plant protocol, and an arm without physics that follows at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment

__all__ = ["KinematicPlant", "Plant", "Sensed"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Sensed:
    """One sensor frame without its time.

    Attributes:
        state: f32 [S] proprioception.
        joint_position: f32 [J].
        environment_state: f32 [E], E may be 0.
        image: u8 [H, W, 3] per camera.
        success: Whether the task's predicate holds, hold time included.
    """

    state: NDArray[np.float32]
    joint_position: NDArray[np.float32]
    environment_state: NDArray[np.float32]
    image: dict[str, NDArray[np.uint8]]
    success: bool


class Plant(Protocol):
    """A body with sensors, advanced one controller tick at a time.

    Attributes:
        horizon: Control steps after which the task gives up; 0 where there is no task.
        initial_state: What the last reset drew, physical units.
    """

    horizon: int
    initial_state: list[float]

    def reset(self, split: str, index: int) -> None:
        """Set up scene ``(split, index)``; the arm stands still afterwards."""
        ...

    def servo(self, target: Vector) -> None:
        """Advance one tick with the motors commanded to ``target`` [J]."""
        ...

    def measure(self) -> tuple[Vector, Vector]:
        """(position [J], velocity [J]) now."""
        ...

    def sense(self) -> Sensed:
        """A sensor frame of now."""
        ...

    def close(self) -> None:
        """Give all resources back."""
        ...


class KinematicPlant:
    """An arm that is where it is told to be: for tests of the daemon and for dry runs without MuJoCo.

    The environment state is the TCP position at the last reset [3]; success is a TCP that has come ``success_m`` away
    from it, so that a test can see motion as success.

    Args:
        card: The robot.
        cameras: Cameras to serve; the images are black.
        task: Ignored; every plant is built with the same arguments.
        success_m: Distance in metres, 0 for never.
        rate_hz: Calls of :meth:`servo` per second; the card's ``setpoint_hz`` by default.
    """

    def __init__(
        self,
        card: Embodiment,
        *,
        cameras: tuple[str, ...] = (),
        task: str = "",
        success_m: float = 0.0,
        rate_hz: float | None = None,
    ):
        self._tick_s = 1.0 / rate_hz if rate_hz else card.tick_s
        self.horizon, self.initial_state = 100, list(card.home_position)
        self._card, self._success_m = card, success_m
        self._kinematics = RobotKinematics(card)
        self._images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in map(card.camera, cameras)}
        self.reset("train", 0)

    def reset(self, split: str, index: int) -> None:
        """Back to the home pose."""
        self._position = self._card.home_position.copy()
        self._velocity = np.zeros_like(self._position)
        self._start = np.asarray(self._kinematics.tcp_state(self._position), np.float32)[:3]

    def servo(self, target: Vector) -> None:
        """Be at ``target``."""
        self._velocity = (target - self._position) / self._tick_s
        self._position = target.copy()

    def measure(self) -> tuple[Vector, Vector]:
        """Exact position and last velocity."""
        return self._position, self._velocity

    def sense(self) -> Sensed:
        """The frame described in the class."""
        state = np.asarray(self._kinematics.tcp_state(self._position), np.float32)
        moved = float(np.linalg.norm(state[:3] - self._start))
        return Sensed(
            state,
            self._position.astype(np.float32),
            self._start,
            self._images,
            bool(self._success_m and moved > self._success_m),
        )

    def close(self) -> None:
        """Nothing to give back."""
