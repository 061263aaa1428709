"""What the rooms of the project expect of each other, as Protocols. Imports neither torch nor mujoco."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.types import ActionChunk, Batch, Losses, Observation, RobotState, Setpoint

__all__ = [
    "BatchPolicy",
    "ForceSensing",
    "Guarded",
    "Policy",
    "PolicySpec",
    "RobotDriver",
    "SpeedScaled",
    "StopChannel",
    "TrainablePolicy",
]


@dataclass(frozen=True)
class PolicySpec:
    """What a policy needs to be fed and what it gives back.

    Attributes:
        embodiment: Card whose action channels it emits.
        observation_horizon: ``To``.
        action_horizon: ``Ta``, values executed before re-planning.
        prediction_horizon: ``Tp``.
        state: Whether it reads proprioception.
        environment_state: Width E of the privileged state it reads, 0 for none.
        cameras: Names of the cameras it reads.
        depth: Cameras whose depth it reads.
        sensors: Sensor histories that it reads (``wrench``, ``touch``).
        point_cloud: Points per observation that it reads, 0 for none.
        goal: Width G of the goal vector that it reads, 0 for none.
        environment_names: Entries of the privileged state that it reads, by name; () takes all as they are.
        goal_names: [G] entries of the goal that it reads, likewise.
        goal_cameras: Cameras whose picture of the goal it reads.
        continues: Whether a new chunk follows the ``prefix`` that :meth:`Policy.act` gets, which real-time chunking
            needs; others ignore it.
    """

    embodiment: Embodiment
    observation_horizon: int
    action_horizon: int
    prediction_horizon: int
    state: bool = True
    environment_state: int = 0
    cameras: tuple[str, ...] = ()
    depth: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    point_cloud: int = 0
    goal: int = 0
    environment_names: tuple[str, ...] = ()
    goal_names: tuple[str, ...] = ()
    continues: bool = False
    goal_cameras: tuple[str, ...] = ()


@runtime_checkable
class Policy(Protocol):
    """Anything that turns an observation into an action chunk. Stateless: no queue, no hidden history."""

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        ...

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """Predict a chunk.

        Args:
            observation: Last To control steps.
            rng: Seed or generator; the only source of randomness.
            prefix: What is still scheduled and will be executed while this call runs.
            goal: For goal-conditioned policies.

        Returns:
            values [Tp-To+1, A] in physical units, ``t0_ns = observation.time_ns[-1]``.
        """
        ...


@runtime_checkable
class BatchPolicy(Policy, Protocol):
    """A policy that can answer several observations in one pass."""

    def act_batch(
        self,
        observations: Sequence[Observation],
        rngs: Sequence[int | np.random.Generator],
        prefixes: Sequence[ActionChunk | None] = (),
    ) -> list[ActionChunk]:
        """One chunk per observation, each from its own randomness; of a batch of one the same as :meth:`act`.

        Args:
            observations: B of them, each the last To control steps of some robot.
            rngs: B seeds or generators; row b draws from ``rngs[b]`` alone.
            prefixes: B of them, or none at all; see :meth:`Policy.act`.
        """
        ...


@runtime_checkable
class TrainablePolicy(Policy, Protocol):
    """A policy that the trainer can train; also a ``torch.nn.Module``."""

    def loss(self, batch: Batch, *, rng: Any = None) -> Losses:
        """Training loss of one batch; ``rng`` is a ``torch.Generator`` on the batch's device, None for the global."""
        ...


@runtime_checkable
class RobotDriver(Protocol):
    """The only write path to a robot; built as ``Class(card, tick_s=, timeout_s=, **options)`` without connecting.

    A context manager: leaving it stops softly and holds; torque is never just dropped. What some robots can do besides
    are the protocols below it.

    Attributes:
        buffered: Setpoints carry their time and are kept by the robot until then. False: each is carried out at once.
    """

    buffered: bool

    def connect(self) -> None:
        """Reach the robot; may block for 10 s. Sends nothing that moves or powers. Afterwards :meth:`read` works.

        Raises:
            DeployError: it cannot be reached, or is another robot; says what to look at.
        """
        ...

    def enable(self) -> None:
        """Power on under the present pose and arm the vendor's own watchdog; may block for 3 s.

        Raises:
            DeployError: the controller refuses.
        """
        ...

    @property
    def embodiment(self) -> Embodiment:
        """Card of the robot behind it."""
        ...

    def read(self) -> RobotState:
        """Newest measured state, within a tick. Its time is when the controller's own clock was last seen to advance.

        Raises:
            DeployError: the controller no longer answers or its time stamp stopped advancing.
        """
        ...

    def command(self, setpoint: Setpoint, t_ns: int) -> None:
        """Send one limited setpoint; ``t_ns`` is now on the driver's clock."""
        ...

    def hold(self) -> None:
        """Keep the last commanded position, powered."""
        ...

    def stop(self) -> None:
        """Controlled stop by the robot's own means, then hold."""
        ...

    def close(self) -> None:
        """Stop, hold and let go of the connection; motors stay powered. More than once does no harm."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@runtime_checkable
class SpeedScaled(Protocol):
    """A robot whose controller can slow everything down by itself."""

    @property
    def speed_scale(self) -> float:
        """Share of full speed at which it carries setpoints out now, 0..1."""
        ...


@runtime_checkable
class ForceSensing(Protocol):
    """A robot that feels forces at its tool."""

    def wrench(self) -> NDArray[np.float64]:
        """[6] force (N) and torque (N m) at the tool, of the last :meth:`RobotDriver.read`."""
        ...


@runtime_checkable
class StopChannel(Protocol):
    """A way to stop a robot that does not need the process which drives it."""

    def stop(self) -> None:
        """Stop the robot now.

        Raises:
            DeployError: it could not be reached.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """A driver class whose robot has such a way; called in another process, without building the driver."""

    @staticmethod
    def stop_channel(card: Embodiment, options: dict[str, Any]) -> StopChannel:
        """Open it; ``options`` are the driver's."""
        ...
