"""What is scheduled already, as a policy that continues it sees it: the other half of real-time chunking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robopolicy.control.between import JACOBIAN, STRONGEST
from robopolicy.diffusion.guidance import Inpainting, soft_weights
from robopolicy.models.action_form import ActionForm
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["scheduled"]


def scheduled(
    spec: PolicySpec,
    form: ActionForm,
    observations: Sequence[Observation],
    prefixes: Sequence[ActionChunk | None],
    state: Tensor,
) -> Inpainting:
    """What is scheduled, in the network's form: the values that are still to come and how much each counts.

    Args:
        spec: Of the policy.
        form: Of its chunks.
        observations: B of them.
        prefixes: B; None where nothing is scheduled, whose weights are 0.
        state: f64 [B, To, S] of the observations, physical.

    Returns:
        Of B rows, on the device of ``state``. Bound and Jacobian are those that the prefixes carry.
    """
    first, horizon = spec.observation_horizon - 1, spec.prediction_horizon
    values = np.zeros((len(observations), horizon, form.width))
    weights = np.zeros((len(observations), horizon), np.float32)
    strongest = [float(getattr(prefix, "strongest", STRONGEST)) for prefix in prefixes]
    for row, (observation, prefix) in enumerate(zip(observations, prefixes, strict=True)):
        ahead = None if prefix is None else prefix.after(int(observation.time_ns[-1]))
        if ahead is None:
            continue
        count = min(len(ahead.values), horizon - first)
        fixed = min(ahead.horizon or 0, count)
        values[row, first : first + count] = ahead.values[:count]
        values[row, first + count :] = ahead.values[count - 1]
        values[row, :first] = ahead.values[0]
        weights[row, first:] = soft_weights(horizon - first, fixed, count)
    device = state.device
    encoded = form.encode(torch.as_tensor(values, device=device), state)
    ways = {getattr(prefix, "jacobian", JACOBIAN) for prefix in prefixes if prefix is not None}
    bound = torch.as_tensor(strongest, dtype=torch.float32, device=device)
    return Inpainting(
        encoded.to(torch.float32), torch.as_tensor(weights, device=device), bound, min(ways, default=JACOBIAN)
    )
