"""Calls of a policy before anybody waits for them: the first ones compile, allocate and are the slowest."""

from __future__ import annotations

import numpy as np

from robopolicy.protocols import Policy, PolicySpec
from robopolicy.seeding import generator
from robopolicy.types import Observation

__all__ = ["invented_observation", "warm_up"]


def warm_up(policy: Policy, calls: int) -> None:
    """Call the policy ``calls`` times on an invented observation."""
    for call in range(calls):
        policy.act(invented_observation(policy.spec), rng=generator("warm-up", call))


def invented_observation(spec: PolicySpec) -> Observation:
    """An observation that the policy takes: the middle of every range, black pictures, To steps that end at To dt."""
    card, rows = spec.embodiment, spec.observation_horizon
    dt_ns = round(card.control_dt_s * 1e9)
    middle = ((card.state.lower + card.state.upper) / 2).astype(np.float32)

    def pictures(names: tuple[str, ...], *, lead: tuple[int, ...], depth: int) -> dict[str, tuple[int, ...]]:
        return {n: (*lead, card.camera(n).height, card.camera(n).width, depth) for n in names}

    def zeros(shapes: dict[str, tuple[int, ...]], dtype: type) -> dict[str, np.ndarray]:
        return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}

    return Observation(
        state=np.repeat(middle[None], rows, axis=0),
        time_ns=np.arange(1, rows + 1, dtype=np.int64) * dt_ns,
        embodiment=card.hash,
        image=zeros(pictures(spec.cameras, lead=(rows,), depth=3), np.uint8),
        environment_state=np.zeros((rows, spec.environment_state), np.float32) if spec.environment_state else None,
        depth=zeros(pictures(spec.depth, lead=(rows,), depth=1), np.uint16),
        point_cloud=np.zeros((rows, spec.point_cloud, 6), np.float32) if spec.point_cloud else None,
        goal=np.zeros(spec.goal, np.float32) if spec.goal else None,
        environment_names=spec.environment_names,
        goal_names=spec.goal_names,
        goal_image=zeros(pictures(spec.goal_cameras, lead=(), depth=3), np.uint8),
    )
