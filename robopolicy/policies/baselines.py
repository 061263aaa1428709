"""Policies that learn nothing: hold still, and move at random. Numpy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.config import build as build_config
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.policies.checks import check_observation
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = [
    "JOINT_REACH_RAD",
    "BaselineConfig",
    "NoAction",
    "NullPolicy",
    "RandomAction",
    "RandomPolicy",
    "build_null",
    "build_random",
]

JOINT_REACH_RAD = 0.6
"""Half of what the executor takes for a jump (``reject_jump_rad``): its reference may be as far ahead of the joints."""


@dataclass(frozen=True)
class BaselineConfig:
    """Parameters of both baselines.

    Attributes:
        action_horizon: Ta, length of a chunk.
    """

    action_horizon: int = 8

    def __post_init__(self) -> None:
        if self.action_horizon < 1:
            raise ConfigError(explain("action_horizon must be at least 1", given=self.action_horizon))


class _HeldTarget(ABC):
    """Answers with one target, held for a whole chunk."""

    def __init__(self, spec: PolicySpec):
        self._spec = spec

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The target, Ta times. values [Ta, A].

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: an observation that does not fit the spec, where the
                policy reads it.
        """
        card, horizon = self._spec.embodiment, self._spec.action_horizon
        values = np.repeat(np.asarray(self._target(observation, rng), float)[None], horizon, axis=0)
        return ActionChunk(values, int(observation.time_ns[-1]), card.control_dt_s, card.hash, horizon=horizon)

    @abstractmethod
    def _target(self, observation: Observation, rng: int | np.random.Generator) -> NDArray[Any]:
        """[A], physical units."""


class NullPolicy(_HeldTarget):
    """Holds the current measured pose and gripper opening; reads one row of proprioception."""

    def __init__(self, config: BaselineConfig, embodiment: Embodiment):
        if embodiment.action.names != embodiment.state.names:
            raise ConfigError(
                explain(
                    "baselines need an action space that equals the measured state",
                    given=embodiment.action_space,
                    allowed="ee_pose",
                )
            )
        super().__init__(PolicySpec(embodiment, 1, config.action_horizon, config.action_horizon))

    def _target(self, observation: Observation, rng: int | np.random.Generator) -> NDArray[Any]:
        check_observation(observation, self._spec)
        return np.asarray(observation.state[-1], float)


class RandomPolicy(NullPolicy):
    """One uniform position in the workspace and one gripper opening per chunk; the orientation stays as measured.

    A robot that is driven by its joints is given a uniform position of each, brought within :data:`JOINT_REACH_RAD` of
    the measured one: the executor refuses chunks that begin further away, and a robot whose chunks are refused stands
    still.
    """

    def _target(self, observation: Observation, rng: int | np.random.Generator) -> NDArray[Any]:
        here = super()._target(observation, rng)
        channels = self._spec.embodiment.action
        drawn = np.random.default_rng(rng).uniform(channels.lower, channels.upper)
        if self._spec.embodiment.action_space != "ee_pose":
            return np.clip(drawn, here - JOINT_REACH_RAD, here + JOINT_REACH_RAD)
        moved = np.concatenate([channels.select("ee_position"), channels.select(self._spec.embodiment.gripper)])
        target = here.copy()
        target[moved] = drawn[moved]
        return target


class _ActionBaseline(_HeldTarget):
    """Of a robot whose actions are not states: a benchmark's, in its own normalised form. Reads nothing."""

    def __init__(self, config: BaselineConfig, embodiment: Embodiment):
        super().__init__(PolicySpec(embodiment, 1, config.action_horizon, config.action_horizon, state=False))


class NoAction(_ActionBaseline):
    """Zero in every channel, or the nearest to it that the channel allows."""

    def _target(self, observation: Observation, rng: int | np.random.Generator) -> NDArray[Any]:
        channels = self._spec.embodiment.action
        return np.clip(0.0, channels.lower, channels.upper)


class RandomAction(_ActionBaseline):
    """One uniform action per chunk."""

    def _target(self, observation: Observation, rng: int | np.random.Generator) -> NDArray[Any]:
        channels = self._spec.embodiment.action
        return np.random.default_rng(rng).uniform(channels.lower, channels.upper)


def _own_actions(embodiment: Embodiment) -> bool:
    """Whether the card's actions are a benchmark's own and not targets of an arm."""
    return embodiment.action_space == "custom" and not embodiment.arms


def build_null(parameters: Mapping[str, Any], *, embodiment: Embodiment, **_: Any) -> NullPolicy | NoAction:
    """The registry's entry ``null``; normaliser and widths are not needed."""
    if _own_actions(embodiment) and embodiment.action.names != embodiment.state.names:
        return NoAction(build_config(BaselineConfig, parameters, where="policy"), embodiment)
    return NullPolicy(build_config(BaselineConfig, parameters, where="policy"), embodiment)


def build_random(parameters: Mapping[str, Any], *, embodiment: Embodiment, **_: Any) -> RandomPolicy | RandomAction:
    """The registry's entry ``random``; normaliser and widths are not needed."""
    if _own_actions(embodiment):
        return RandomAction(build_config(BaselineConfig, parameters, where="policy"), embodiment)
    return RandomPolicy(build_config(BaselineConfig, parameters, where="policy"), embodiment)
