"""The authority on shapes, dtypes and units. Imports numpy only.

Axes: ``B`` batch, ``To`` observation horizon, ``Tp`` prediction horizon, ``Ta`` action horizon (steps executed before
re-planning), ``H`` length of a chunk, ``A`` action channels, ``S`` proprioceptive channels, ``E`` environment-state
channels, ``J`` command channels of the robot (arm joints, then gripper), ``N`` rows of a dataset.

=====================  =====================  ==============================================================
key                    dtype, shape           meaning
=====================  =====================  ==============================================================
image[cam]             uint8 [B, To, H, W, C] RGB, row 0 at the top, stored as captured, never normalised
depth[cam]             uint16 [B, To, H, W, 1] distance in mm, 0 where unknown
state                  f32 [B, To, S]         measured proprioception, physical units (m, rotation 6-D, gripper 0..1)
environment_state      f32 [B, To, E]         privileged object state (simulation only); absent on image recipes
action                 f32 [B, Tp, A]         commanded action, physical units, absolute
action_mask            bool [B, Tp, A]        True where the value counts; False for padding and absent channels
language               list[str] of B         instruction
goal                   f32 [B, G]             goal vector of goal-conditioned policies
goal_image[cam]        uint8 [B, H, W, C]     picture of what is wanted; {} for policies that read none
embodiment_index       int64 [B]              which embodiment of a mixture; None for data of one robot
state_mask             bool [B, S]            slots that the robot has; None for data of one robot
image_mask[cam]        bool [B]               False where the robot has no such camera; {} for data of one robot
embodiment             str                    content hash of the embodiment card
time_ns                int64 [B, To]          capture time of each observation row
=====================  =====================  ==============================================================

In a batch of a mixture ``state`` and ``action`` are slots (:mod:`robopolicy.slots`) in each robot's own range, 0 where
absent, and ``environment_state`` is normalised likewise; see :mod:`robopolicy.embodiment_view`.

Time alignment, one rule everywhere: ``action[t]`` is decided from ``observation[t]`` and is the target to be **reached
at the end** of control step t, that is at ``time[t] + 1 / control_hz``. A window anchored at step t holds observation
rows ``t-To+1 .. t`` and action rows ``t-To+1 .. t-To+Tp``: prediction index 0 belongs to the *oldest* observation, and
the first action still to be executed has index ``To-1``. A policy returns only the part from ``To-1`` on::

    step            t-1    t     t+1   t+2  ...
    observation     o0     o1                      (To = 2)
    action window   a0     a1    a2    a3   ...    (Tp = 16)
    ActionChunk            v0    v1    v2   ...    v_i reached at t0 + (i + 1) * dt,  t0 = time of o1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.errors import NonFiniteError, ShapeError, explain

if TYPE_CHECKING:
    import torch

__all__ = ["ActionChunk", "Batch", "Losses", "Observation", "RobotState", "Setpoint"]

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Observation:
    """What a policy sees: the last ``To`` control steps of one robot, newest last, no batch axis.

    Attributes:
        state: f32 [To, S] measured proprioception.
        time_ns: int64 [To] capture times, strictly increasing, on the clock that the executor uses.
        embodiment: Content hash of the embodiment card.
        image: uint8 [To, H, W, C] per camera.
        environment_state: f32 [To, E], or None where no privileged state exists.
        language: Instruction, may be empty.
        depth: uint16 [To, H, W, 1] mm per camera, 0 where unknown.
        segmentation: int16 [To, H, W, 1] geom ids per camera, -1 for nothing; simulation only.
        point_cloud: f32 [To, P, 6] x, y, z (m, robot base frame) and r, g, b (0..1), or None.
        sensor: Histories at a higher rate, oldest first: ``wrench`` f32 [To, K, 6 per arm] (N, N m, at the wrist, in
            its frame), ``touch`` f32 [To, K, fingers] (N).
        goal: f32 [G] goal of the episode, or None.
        environment_names: [E] names of the entries of ``environment_state``, () where they are not known.
        goal_names: [G] names of the entries of ``goal``, likewise. A policy that names what it reads takes it by name.
        goal_image: uint8 [H, W, C] per camera, a picture of what is wanted.
    """

    state: FloatArray
    time_ns: NDArray[np.int64]
    embodiment: str
    image: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    environment_state: FloatArray | None = None
    language: str = ""
    depth: dict[str, NDArray[np.uint16]] = field(default_factory=dict)
    segmentation: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    point_cloud: FloatArray | None = None
    sensor: dict[str, FloatArray] = field(default_factory=dict)
    goal: FloatArray | None = None
    environment_names: tuple[str, ...] = ()
    goal_names: tuple[str, ...] = ()
    goal_image: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True, init=False)
class ActionChunk:
    """A piece of the future in physical units, in absolute time.

    Attributes:
        values: f32 or f64 [H, A]; ``values[i]`` is to be reached at ``t0_ns + (i + 1) * dt_s``.
        t0_ns: Capture time of the newest observation that the chunk was made from.
        dt_s: Seconds between two values, ``1 / control_hz``.
        embodiment: Content hash of the embodiment card whose action channels these are.
        valid: bool [H]; False where a value must not be executed.
        horizon: How many of the values are meant to be executed before re-planning (``Ta``); the rest covers latency.
    """

    values: FloatArray
    t0_ns: int
    dt_s: float
    embodiment: str
    valid: NDArray[np.bool_] | None = None
    horizon: int | None = None

    def __init__(
        self,
        values: ArrayLike,
        t0_ns: int,
        dt_s: float,
        embodiment: str,
        valid: ArrayLike | None = None,
        horizon: int | None = None,
    ) -> None:
        values = np.asarray(values)
        if values.ndim != 2 or not len(values):
            raise ShapeError(explain("a chunk needs values [H, A], H >= 1", given=values.shape))
        if not dt_s > 0:
            raise ShapeError(explain("a chunk needs a positive dt_s", given=dt_s))
        if valid is None:
            valid = np.empty(len(values), bool)
            valid.fill(True)
        valid = np.asarray(valid, bool)
        if valid.shape != values.shape[:1]:
            raise ShapeError(explain("valid must be [H]", given=valid.shape, allowed=(len(values),)))
        # in one go: what a frozen dataclass generates takes three times as long
        fields = {"values": values, "t0_ns": int(t0_ns), "dt_s": dt_s, "embodiment": embodiment}
        vars(self).update(fields, valid=valid, horizon=horizon)

    @property
    def time_ns(self) -> NDArray[np.int64]:
        """int64 [H]: the time at which each value is to be reached."""
        # scalars: for the few rows of a chunk this takes a third of the time, and rounds alike
        return np.array([self.t0_ns + round(i * self.dt_s * 1e9) for i in range(1, len(self.values) + 1)], np.int64)

    def at(self, time_ns: int) -> FloatArray:
        """Linear interpolation between values, held at both ends. -> [A].

        Raises:
            NonFiniteError: the chunk contains a NaN or an infinity.
        """
        if not np.isfinite(self.values).all():
            raise NonFiniteError(explain("the chunk is not finite", mend="check the policy's normaliser"))
        t = (self.time_ns - self.t0_ns).astype(float)
        x = float(time_ns - self.t0_ns)
        return np.array([np.interp(x, t, column) for column in self.values.T])

    def after(self, time_ns: int) -> ActionChunk | None:
        """The part that lies strictly after ``time_ns``, or None when nothing is left. Times stay absolute."""
        first = int(np.searchsorted(self.time_ns, time_ns, side="right"))
        if first >= len(self.values):
            return None
        assert self.valid is not None
        t0 = self.t0_ns + round(first * self.dt_s * 1e9)
        left = None if self.horizon is None else max(self.horizon - first, 0)
        return ActionChunk(self.values[first:], t0, self.dt_s, self.embodiment, self.valid[first:], left)


class RobotState(NamedTuple):
    """Measured state of the robot's command channels, by the embodiment's joint order.

    A named tuple, as :class:`Setpoint`: one of each is made at every tick, thrice as fast as a frozen dataclass.

    Attributes:
        time_ns: Time of the measurement on the executor's clock.
        position: f64 [J]; arm joints in rad, gripper opening 0 (closed) to 1 (open).
        velocity: f64 [J]; rad/s and 1/s.
        fault: True when the controller reports a protective or emergency stop.
    """

    time_ns: int
    position: FloatArray
    velocity: FloatArray
    fault: bool = False


class Setpoint(NamedTuple):
    """What is sent to the robot at one tick.

    Attributes:
        time_ns: When it is to be reached.
        position: f64 [J], same order and units as :class:`RobotState`.
    """

    time_ns: int
    position: FloatArray


@dataclass
class Batch:
    """One training batch as torch tensors; see the table at the head of this module."""

    state: torch.Tensor
    action: torch.Tensor
    action_mask: torch.Tensor
    embodiment: str
    image: dict[str, torch.Tensor] = field(default_factory=dict)
    environment_state: torch.Tensor | None = None
    language: list[str] | None = None
    goal: torch.Tensor | None = None
    embodiment_index: torch.Tensor | None = None
    state_mask: torch.Tensor | None = None
    image_mask: dict[str, torch.Tensor] = field(default_factory=dict)
    depth: dict[str, torch.Tensor] = field(default_factory=dict)
    goal_image: dict[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: Any) -> Batch:
        """A copy with every tensor on ``device``."""
        return Batch(
            state=self.state.to(device),
            action=self.action.to(device),
            action_mask=self.action_mask.to(device),
            embodiment=self.embodiment,
            image={name: tensor.to(device) for name, tensor in self.image.items()},
            environment_state=None if self.environment_state is None else self.environment_state.to(device),
            language=self.language,
            goal=None if self.goal is None else self.goal.to(device),
            embodiment_index=None if self.embodiment_index is None else self.embodiment_index.to(device),
            state_mask=None if self.state_mask is None else self.state_mask.to(device),
            image_mask={name: mask.to(device) for name, mask in self.image_mask.items()},
            depth={name: tensor.to(device) for name, tensor in self.depth.items()},
            goal_image={name: tensor.to(device) for name, tensor in self.goal_image.items()},
        )


@dataclass
class Losses:
    """What ``Policy.loss`` returns.

    Attributes:
        total: Scalar tensor that is differentiated.
        parts: Named scalars for the log, detached; ``<what>/<group>`` for a part of the samples.
        per_sample: f32 [B] detached, where the loss is a mean over samples.
    """

    total: torch.Tensor
    parts: dict[str, float | torch.Tensor] = field(default_factory=dict)
    per_sample: torch.Tensor | None = None
