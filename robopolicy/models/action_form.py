"""What a chunk is while it is being denoised: absolute targets, or increments from the measured pose.

``absolute`` is the published form. With ``b`` the newest measured state and ``s_k`` that of step ``k``, the others::

                increment           delta
    k < To      a_k - b             a_k - s_k       the actions up to the present one, seen from where the arm is (was)
    k >= To     a_k - a_{k-1}       a_k - b         later targets

Both are undone by adding, so what leaves the policy is absolute. Of increments an error that is white from step to
step is integrated instead of executed: at the same loss the path is several times smoother. ``delta`` is for networks
that answer each step of a sequence from what they have seen up to it. Channels that are not measured under the same
name, and grippers, stay absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.normalize import NEAR_CONSTANT, Normalizer

__all__ = ["FORMS", "INCREMENT_STREAM", "ActionForm", "increment_range"]

FORMS = ("absolute", "increment", "delta")
INCREMENT_STREAM = "action_increment"
"""Stream of the normaliser that holds the ranges of increments or deltas, [Tp * A]."""


class _Layout:
    """Which action channels are seen from which state channels; by name, grippers left out."""

    def __init__(self, embodiment: Embodiment):
        grippers = {arm.gripper for arm in embodiment.arms}
        shared = [n for n in embodiment.action.names if n in embodiment.state.names and n not in grippers]
        if not shared:
            raise ConfigError(
                explain(
                    "increments need action channels that are measured too",
                    given=embodiment.action.names,
                    allowed=embodiment.state.names,
                    mend="use action_form=absolute",
                )
            )
        self.action = [embodiment.action.index(n) for n in shared]
        self.state = [embodiment.state.index(n) for n in shared]


class ActionForm(nn.Module):
    """Physical chunk [B, Tp, A] <-> what the network denoises [B, Tp, A], in about [-1, 1].

    Args:
        form: One of :data:`FORMS`.
        embodiment: Names the channels.
        normalizer: Must hold ``action``, and :data:`INCREMENT_STREAM` for increments.
        observation_horizon: To.
        prediction_horizon: Tp.

    Raises:
        ConfigError: unknown form, or nothing that increments could be counted from.
        DataError: a range is missing or has the wrong width.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        form: str,
        embodiment: Embodiment,
        normalizer: Normalizer,
        observation_horizon: int,
        prediction_horizon: int,
    ):
        super().__init__()
        if form not in FORMS:
            raise ConfigError(explain("unknown action_form", given=form, allowed=FORMS))
        self.width = len(embodiment.action)
        self.horizon = observation_horizon
        self.form = form
        self.layout = None if form == "absolute" else _Layout(embodiment)
        stream = normalizer.require_width("action", self.width)
        shape: tuple[int, ...] = (self.width,)
        if self.layout is not None:
            stream = normalizer.require_width(INCREMENT_STREAM, prediction_horizon * self.width)
            shape = (prediction_horizon, self.width)
        for name in ("scale", "offset"):
            values = torch.tensor(getattr(stream, name), dtype=torch.float64).reshape(shape)
            self.register_buffer(name, values, persistent=False)

    def encode(self, action: Tensor, state: Tensor) -> Tensor:
        """Physical [B, Tp, A] and measured state [B, To, S] -> f32 [B, Tp, A]."""
        if self.layout is not None:
            action = _seen_from_state(action, state, self.layout, self.horizon, self.form)
        return action * self.scale.to(action.dtype) + self.offset.to(action.dtype)

    def decode(self, values: Tensor, state: Tensor) -> Tensor:
        """Inverse of :meth:`encode`, in the precision of ``values``."""
        physical = (values - self.offset.to(values.dtype)) / self.scale.to(values.dtype)
        if self.layout is None:
            return physical
        columns = self.layout.action
        path = physical[..., columns].clone()
        if self.form == "increment":
            path[:, self.horizon - 1 :] = path[:, self.horizon - 1 :].cumsum(1)
        result = physical.clone()
        result[..., columns] = path + _anchors(state, self.layout, path.shape[1], self.form).to(values.dtype)
        return result


def increment_range(
    windows: Mapping[str, NDArray[Any]], embodiment: Embodiment, observation_horizon: int, form: str = "increment"
) -> dict[str, NDArray[np.float64]]:
    """Ranges of the increments or deltas over windows, for :meth:`Normalizer.from_statistics`.

    The indices up to the present share one range per channel, and so do all later ones, so that the scale does not
    depend on where in a chunk a motion happens to be.

    Args:
        windows: ``state`` [n, To, S], ``action`` and ``action_mask`` [n, Tp, A].
        embodiment: Names the channels.
        observation_horizon: To.
        form: ``increment`` or ``delta``.

    Returns:
        ``min`` and ``max``, f64 [Tp * A].
    """
    state, action = (torch.as_tensor(np.asarray(windows[name], np.float64)) for name in ("state", "action"))
    values = _seen_from_state(action, state, _Layout(embodiment), observation_horizon, form).numpy()
    values = np.where(np.asarray(windows["action_mask"], bool), values, np.nan)
    low, high = np.empty(values.shape[1:]), np.empty(values.shape[1:])
    for part in (slice(None, observation_horizon), slice(observation_horizon, None)):
        if values[:, part].size:
            low[part] = np.nanmin(values[:, part], axis=(0, 1))
            high[part] = np.nanmax(values[:, part], axis=(0, 1))
    # Both ends must be representable when a channel hardly moves: widen instead of letting it be shifted only.
    middle, half = (low + high) / 2, np.maximum((high - low) / 2, NEAR_CONSTANT)
    return {"min": (middle - half).reshape(-1), "max": (middle + half).reshape(-1)}


def _anchors(state: Tensor, layout: _Layout, steps: int, form: str) -> Tensor:
    """What each index is seen from, [B, Tp or 1, channels]."""
    measured = state[..., layout.state]
    newest = measured[:, -1:]
    if form == "increment":
        return newest
    return torch.cat([measured, newest.expand(-1, steps - measured.shape[1], -1)], dim=1)


def _seen_from_state(action: Tensor, state: Tensor, layout: _Layout, horizon: int, form: str) -> Tensor:
    path = action[..., layout.action] - _anchors(state, layout, action.shape[1], form).to(action.dtype)
    if form == "increment":
        path = torch.cat([path[:, :horizon], path[:, horizon:] - path[:, horizon - 1 : -1]], dim=1)
    result = action.clone()
    result[..., layout.action] = path
    return result
