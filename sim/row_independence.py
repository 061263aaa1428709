"""Whether a row of a policy's batch is what it would be anywhere else in it, tried on made-up observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.between import Prefix
from robopolicy.errors import RobopolicyError
from robopolicy.protocols import BatchPolicy, Policy, PolicySpec
from robopolicy.types import Observation

__all__ = ["row_independent"]


def row_independent(
    policy: Policy, like: Observation, rows: int, seed: int = 0, *, like_prefix: Prefix | None = None
) -> bool:
    """Whether a row of a batch comes out the same, bit for bit, at every place and beside any neighbour.

    Tried with made-up observations, so that it does not depend on which request happens to be the first.

    Args:
        policy: A :class:`~robopolicy.protocols.BatchPolicy`.
        like: Shapes of an observation.
        rows: Size of the batch.
        seed: Of the made-up observations.
        like_prefix: Also make up what is still scheduled, to be followed as this one is.
    """
    assert isinstance(policy, BatchPolicy)
    draw = np.random.default_rng(seed)
    made = [_made_up(like, draw) for _ in range(3)]
    ahead = [] if like_prefix is None else [_made_up_prefix(policy.spec, one, draw, like_prefix) for one in made]
    reference: NDArray[Any] | None = None
    try:
        for place in range(rows):
            chosen = [1 + int(draw.integers(2)) for _ in range(rows)]
            chosen[place] = 0
            told = ([ahead[i] for i in chosen],) if ahead else ()
            values = np.asarray(policy.act_batch([made[i] for i in chosen], list(chosen), *told)[place].values)
            if reference is None:
                reference = values
            elif not np.array_equal(values, reference):
                return False
    except RobopolicyError:  # it refuses what was made up, so nothing is known: one by one is always right
        return False
    return True


def _made_up(like: Observation, draw: np.random.Generator) -> Observation:
    """An observation of the same shapes; times and words stay."""

    def other(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: other(name, item) for key, item in value.items()}
        if not isinstance(value, np.ndarray) or name == "time_ns":
            return value
        if np.issubdtype(value.dtype, np.floating):
            return np.asarray(draw.uniform(0, 1, value.shape), value.dtype)
        if value.dtype == bool:
            return draw.integers(0, 2, value.shape).astype(bool)
        return draw.integers(0, 256, value.shape).astype(value.dtype)

    return Observation(**{f.name: other(f.name, getattr(like, f.name)) for f in dataclasses.fields(like)})


def _made_up_prefix(spec: PolicySpec, seen: Observation, draw: np.random.Generator, like: Prefix) -> Prefix:
    """Any values within the card's range, half a chunk of them."""
    card, rows = spec.embodiment, max(1, spec.prediction_horizon // 2)
    values = draw.uniform(card.action.lower, card.action.upper, (rows, len(card.action)))
    t0_ns, fixed = int(seen.time_ns[-1]), int(draw.integers(rows + 1))
    return Prefix(
        values,
        t0_ns,
        card.control_dt_s,
        card.hash,
        horizon=fixed,
        strongest=like.strongest,
        jacobian=like.jacobian,
    )
