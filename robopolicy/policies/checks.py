"""Takes what a policy reads from observations, and refuses those that do not fit its spec, before any network does."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from robopolicy.errors import EmbodimentMismatchError, NonFiniteError, ShapeError, explain
from robopolicy.goals import positions
from robopolicy.protocols import PolicySpec
from robopolicy.types import Observation

__all__ = ["check_observation", "selected"]


def selected(observation: Observation, spec: PolicySpec) -> Observation:
    """With the entries of ``environment_state`` and ``goal`` that the spec names, in its order.

    What has no names is left as it is, and so is everything for a spec that names nothing.

    Raises:
        ShapeError: an entry that the observation does not have; all of them and what it has are named.
    """
    changes: dict[str, Any] = {}
    for name, label in (("environment_state", "environment_names"), ("goal", "goal_names")):
        wanted, have, values = getattr(spec, label), getattr(observation, label), getattr(observation, name)
        if not wanted or not have or values is None or have == wanted:
            continue
        columns = positions(wanted, have, f"{name} of the observation", ShapeError)
        changes |= {name: np.asarray(values)[..., columns], label: wanted}
    return dataclasses.replace(observation, **changes) if changes else observation


def check_observation(observation: Observation, spec: PolicySpec) -> None:
    """Pass silently, or raise.

    Raises:
        EmbodimentMismatchError: observed on another embodiment.
        ShapeError: a stream or camera is missing, or has the wrong shape or dtype.
        NonFiniteError: NaN or infinity in a low-dimensional stream.
    """
    if observation.embodiment != spec.embodiment.hash:
        raise EmbodimentMismatchError(
            explain(
                f"the policy is for '{spec.embodiment.name}' ({spec.embodiment.hash})",
                given=observation.embodiment,
                mend="run the policy on the embodiment it was trained on",
            )
        )
    steps = spec.observation_horizon
    times = np.asarray(observation.time_ns)
    if times.shape != (steps,) or (np.diff(times) <= 0).any():
        raise ShapeError(
            explain("time_ns must be strictly increasing [To]", given=times.tolist(), allowed=f"{steps} times")
        )
    if spec.state:
        _low_dim("state", observation.state, (steps, len(spec.embodiment.state)))
    if spec.environment_state:
        _low_dim("environment_state", observation.environment_state, (steps, spec.environment_state))
    if spec.goal:
        _low_dim("goal", observation.goal, (spec.goal,))
    for name in spec.cameras:
        _image(name, observation, spec)
    for name in spec.goal_cameras:
        _goal_image(name, observation, spec)


_AXES = {1: "[width]", 2: "[To, width]"}


def _low_dim(name: str, values: object, shape: tuple[int, ...]) -> None:
    if values is None:
        raise ShapeError(
            explain(
                f"the policy reads '{name}', the observation has none",
                allowed=f"f32 {list(shape)}",
                mend="provide it" + (", or train an image recipe without privileged state" if len(shape) == 2 else ""),
            )
        )
    array = np.asarray(values)
    if array.shape != shape:
        raise ShapeError(
            explain(f"'{name}' has the wrong shape", given=array.shape, allowed=f"{shape} = {_AXES[len(shape)]}")
        )
    if not np.isfinite(array).all():
        bad = sorted(set(np.nonzero(~np.isfinite(array))[-1].tolist()))
        raise NonFiniteError(
            explain(f"'{name}' of the observation is not finite", given=f"channels {bad}", mend="check the sensor")
        )


def _image(name: str, observation: Observation, spec: PolicySpec) -> None:
    if name not in observation.image:
        raise ShapeError(
            explain(
                f"the policy reads camera '{name}'",
                given=sorted(observation.image),
                allowed=spec.cameras,
                mend="start the environment or driver with that camera",
            )
        )
    image = np.asarray(observation.image[name])
    camera = spec.embodiment.camera(name)
    shape = (spec.observation_horizon, camera.height, camera.width, 3)
    if image.shape != shape or image.dtype != np.uint8:
        raise ShapeError(
            explain(f"image of camera '{name}'", given=(image.dtype, image.shape), allowed=f"uint8 {shape}")
        )


def _goal_image(name: str, observation: Observation, spec: PolicySpec) -> None:
    if name not in observation.goal_image:
        raise ShapeError(
            explain(
                f"the policy reads a picture of the goal from camera '{name}'",
                given=sorted(observation.goal_image),
                allowed=spec.goal_cameras,
                mend="put one into goal_image of the observation; in simulation: run a task with a picture of its goal",
            )
        )
    image = np.asarray(observation.goal_image[name])
    camera = spec.embodiment.camera(name)
    shape = (camera.height, camera.width, 3)
    if image.shape != shape or image.dtype != np.uint8:
        raise ShapeError(
            explain(
                f"picture of the goal from camera '{name}'", given=(image.dtype, image.shape), allowed=f"uint8 {shape}"
            )
        )
