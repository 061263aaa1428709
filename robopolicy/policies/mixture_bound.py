"""A policy of many robots, as the policy of one: its card, its units, its rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from robopolicy.embodiment_view import EmbodimentView
from robopolicy.errors import NonFiniteError, explain
from robopolicy.policies.checks import check_observation
from robopolicy.protocols import PolicySpec
from robopolicy.resampling import blend_of, places
from robopolicy.types import ActionChunk, Observation

if TYPE_CHECKING:
    from robopolicy.policies.mixture import MixturePolicy

__all__ = ["BoundPolicy"]


class BoundPolicy:
    """A :class:`~robopolicy.protocols.Policy` for one embodiment of a mixture; stateless.

    Where the robot runs at another rate than the mixture, its observations are read at the mixture's steps and the
    chunk at the robot's, by the rule of :mod:`robopolicy.resampling`.

    Args:
        mixture: The weights, in evaluation mode.
        index: Of the robot's view, or of the robot whose masks it uses.
        view: Of a robot that is not in the mixture, see :func:`robopolicy.borrowed_view.borrow_view`.

    Raises:
        ShapeError: the mixture was trained without some of the robot's action channels.
    """

    def __init__(self, mixture: MixturePolicy, index: int, view: EmbodimentView | None = None):
        self.mixture, self.index = mixture, index
        self.view: EmbodimentView = view or mixture.views[index]
        card, inner = self.view.embodiment, mixture.spec
        self.view.backward_action(np.zeros((inner.prediction_horizon, mixture.action_mask.shape[1])), self._rest())
        self._rate_hz = inner.embodiment.control_hz
        self._ratio = card.control_hz / self._rate_hz
        self._same = abs(self._ratio - 1) < 1e-6
        seen = inner.observation_horizon if self._same else math.ceil((inner.observation_horizon - 1) * self._ratio) + 1
        ahead = inner.prediction_horizon - inner.observation_horizon + 1
        steps = ahead if self._same else max(1, math.floor(ahead * self._ratio + 1e-6))
        self._steps = steps
        self._spec = PolicySpec(
            embodiment=card,
            observation_horizon=seen,
            action_horizon=min(steps, max(1, round(inner.action_horizon * self._ratio))),
            prediction_horizon=steps + seen - 1,
            state=True,
            environment_state=len(self.view.environment_names) if inner.environment_state else 0,
            cameras=tuple(dict.fromkeys(self.view.cameras[r] for r in mixture.roles if r in self.view.cameras)),
        )

    @property
    def spec(self) -> PolicySpec:
        """Its needs, on this robot."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """Sample a chunk; the same observation and seed give the same chunk. ``prefix`` and ``goal`` are not used.

        Returns:
            values f64 [H, A] in physical units, in steps of the robot.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: an observation that does not fit the spec.
            NonFiniteError: the network's output is not finite.
        """
        check_observation(observation, self._spec)
        view, spec = self.view, self._spec
        state, environment, images = self._at_mixture_rate(observation)
        slots = view.forward_state(state)
        surroundings = view.forward_environment(environment, (len(state),))
        frames = {r: view.forward_images(images, r) for r in self.mixture.roles if r in view.cameras}
        with torch.inference_mode():
            rng = np.random.default_rng(rng)
            chunk = self.mixture.sample(self.index, slots, surroundings, frames, rng, observation.language)
        values = view.backward_action(chunk, state[-1])
        values = self._at_robot_rate(values)
        if not np.isfinite(values).all():
            raise NonFiniteError(
                explain("the policy's output is not finite", mend="the weights are damaged: load another checkpoint")
            )
        return ActionChunk(
            values=values,
            t0_ns=int(observation.time_ns[-1]),
            dt_s=spec.embodiment.control_dt_s,
            embodiment=spec.embodiment.hash,
            horizon=spec.action_horizon,
        )

    def _at_mixture_rate(self, observation: Observation) -> tuple[NDArray[Any], NDArray[Any] | None, dict[str, Any]]:
        """State [To, S], environment state [To, E] or None, images {camera: [To, ...]}, at the mixture's steps."""
        state = np.asarray(observation.state, np.float64)
        environment = observation.environment_state if self._spec.environment_state else None
        images = {c: np.asarray(observation.image[c]) for c in self._spec.cameras}
        if self._same:
            return state, environment, images
        time_ns = np.asarray(observation.time_ns, np.int64)
        back = np.arange(self.mixture.spec.observation_horizon - 1, -1, -1)
        row, share = places(time_ns, time_ns[-1] - np.round(back * 1e9 / self._rate_hz).astype(np.int64))
        after = np.minimum(row + (share > 0), len(time_ns) - 1)
        card = self.view.embodiment
        if environment is not None:
            held = np.asarray(environment, np.float64)
            environment = held[row] + share[:, None] * (held[after] - held[row])
        moved = blend_of(card.state, card).rows(state[row], state[after], share)
        return moved, environment, {name: frames[row] for name, frames in images.items()}

    def _at_robot_rate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of a chunk [Tp, A] from the newest observation on, at the robot's steps [H, A]."""
        first = self.mixture.spec.observation_horizon - 1
        if self._same:
            return values[first:]
        # Index k is reached (k - first + 1) steps after the newest observation; one earlier row is the path before it.
        source_ns = np.round((np.arange(len(values)) - first + 1) * 1e9 / self._rate_hz).astype(np.int64)
        card = self.view.embodiment
        wanted_ns = np.round(np.arange(1, self._steps + 1) * 1e9 / card.control_hz).astype(np.int64)
        row, share = places(source_ns, wanted_ns)
        after = np.minimum(row + (share > 0), len(values) - 1)
        return blend_of(card.action, card).rows(values[row], values[after], share)

    def _rest(self) -> NDArray[np.float64]:
        """Some state that is valid, to try the way back: the middle of the ranges, rotations not turned."""
        card = self.view.embodiment
        state = (card.state.lower + card.state.upper) / 2
        for prefix in ("", *(arm.prefix for arm in card.arms)):
            for i, value in enumerate((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)):
                name = f"{prefix}ee_rotation.{i}"
                if name in card.state.names:
                    state[card.state.index(name)] = value
        return state
