"""A policy that is somewhere else: asks a policy server, and believes nothing that comes back before it is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.array_errors import shown
from robopolicy.deploy.client import PolicyClient
from robopolicy.deploy.client_config import RemoteConfig
from robopolicy.deploy.client_errors import ReplyError
from robopolicy.deploy.client_mapping import ServerMapping, require_mapping
from robopolicy.deploy.policy_messages import EMBODIMENT, OBS_ID, pack_observation, read_metadata, restore_rng
from robopolicy.embodiment import Embodiment
from robopolicy.errors import explain
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["RANGE_FACTOR", "RemotePolicy"]

RANGE_FACTOR = 1.5
"""An action may lie outside its channel's range by a quarter of it on each side; the limiter brings it back. Beyond
that it is no action of this robot (another unit, another normalisation, garbage) and the chunk is refused."""


class RemotePolicy:
    """Satisfies :class:`~robopolicy.protocols.Policy`; connects when it is built.

    Args:
        embodiment: Card of the robot; a server that serves another robot's policy is refused.
        url: ``ws://127.0.0.1:8000`` or ``wss://server:8000``.
        remote: Token, deadlines, mapping.
        max_steps: Longest chunk that is taken.

    Raises:
        PolicyServerError: no usable server within ``connect_timeout_s``.
        EmbodimentMismatchError: its policy is for another robot.
        DeployError: its metadata contradict themselves, or it is not ours and there is no mapping.
    """

    def __init__(
        self, embodiment: Embodiment, url: str, remote: RemoteConfig | None = None, *, max_steps: int = 64
    ) -> None:
        self._card, self._max_steps = embodiment, max_steps
        self._mapping: ServerMapping | None = None
        config = remote or RemoteConfig()
        self.client = PolicyClient(url, config.client)
        try:
            spec = read_metadata(self.client.connect(), embodiment)
            if spec is None:
                self._mapping = require_mapping(config.mapping).check(embodiment)
                spec = self._mapping.spec(embodiment)
        except BaseException:
            self.client.close()
            raise
        self._spec = spec

    @property
    def spec(self) -> PolicySpec:
        """What the policy behind the server reads and gives."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """Ask the server; within ``deadline_s`` there is a checked chunk or an error.

        A generator is sent with its state and takes the server's state afterwards, so that the chunk and all later
        draws are those of the same policy in this process. A server that is not ours knows no randomness or prefix.

        Raises:
            PolicyServerError: no chunk in time, or one that must not become motion.
        """
        if isinstance(goal, Mapping):
            observation = dataclasses.replace(observation, goal_image=dict(goal))
        elif goal is not None:
            observation = dataclasses.replace(observation, goal=np.asarray(goal, np.float32))
        if self._mapping is not None:
            return self._ask_foreign(self._mapping, observation)
        # the number that the client puts in is the one that counts
        message = pack_observation(observation, self._spec, obs_id=0, rng=rng, prefix=prefix)
        reply = self.client.infer(message)
        chunk = self._checked(reply, observation)
        packed = reply.get("robopolicy/rng")
        if isinstance(rng, np.random.Generator) and isinstance(packed, np.ndarray):
            restore_rng(packed, rng)
        return chunk

    def close(self) -> None:
        """Let go of the server."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, reply: Mapping[str, Any], observation: Observation) -> ActionChunk:
        card, t0_ns = self._card, int(observation.time_ns[-1])
        expected = {OBS_ID: reply.get(OBS_ID), EMBODIMENT: card.hash, "robopolicy/t0_ns": t0_ns}
        if expected[OBS_ID] is None:
            raise ReplyError(explain(f"a reply without {OBS_ID}"))
        for key, value in expected.items():
            if reply.get(key) != value or type(reply.get(key)) is not type(value):
                raise ReplyError(explain(f"{key} of the reply", given=shown(reply.get(key)), allowed=value))
        dt_s, valid, horizon = (reply.get(f"robopolicy/{key}") for key in ("dt_s", "valid", "horizon"))
        if not isinstance(dt_s, float) or not abs(dt_s - card.control_dt_s) <= 1e-9:
            raise ReplyError(explain("dt_s of the reply", given=shown(dt_s), allowed=card.control_dt_s))
        values = self._values(reply.get("actions"))
        if not isinstance(valid, np.ndarray) or valid.dtype != bool or valid.shape != values.shape[:1]:
            raise ReplyError(explain("'valid' of the reply", given=shown(valid), allowed=f"bool [{len(values)}]"))
        if horizon is not None and (type(horizon) is not int or not 1 <= horizon <= len(values)):
            raise ReplyError(explain("'horizon' of the reply", given=shown(horizon), allowed=f"1 to {len(values)}"))
        return ActionChunk(values, t0_ns, card.control_dt_s, card.hash, valid, horizon)

    def _ask_foreign(self, mapping: ServerMapping, observation: Observation) -> ActionChunk:
        card = self._card
        reply = self.client.infer(mapping.observation(observation, card))
        values = self._values(mapping.actions_of(reply, card))
        horizon = min(mapping.action_horizon, len(values))
        return ActionChunk(values, int(observation.time_ns[-1]), card.control_dt_s, card.hash, horizon=horizon)

    def _values(self, given: Any) -> NDArray[Any]:
        """Actions that this robot could be meant by."""
        group, most = self._card.action, self._max_steps
        if not isinstance(given, np.ndarray) or given.dtype.kind != "f" or given.ndim != 2:
            told = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            raise ReplyError(explain("the reply has no chunk of actions", given=told, allowed="floats [H, A]"))
        if given.shape[1] != len(group) or not 1 <= len(given) <= most:
            raise ReplyError(
                explain("the chunk has the wrong shape", given=given.shape, allowed=f"[1..{most}, {len(group)}]")
            )
        middle, half = (group.upper + group.lower) / 2, (group.upper - group.lower) / 2
        excess = np.abs(given - middle) / half
        if not (excess <= RANGE_FACTOR).all():  # so that a NaN is refused, too
            row, column = np.unravel_index(int(np.argmax(np.nan_to_num(excess, nan=np.inf))), excess.shape)
            channel = group.channels[column]
            raise ReplyError(
                explain(
                    f"action {row} is no position of this robot",
                    given=f"{channel.name} = {given[row, column]:.4g}",
                    allowed=f"{RANGE_FACTOR} x the range {channel.lower:.4g} to {channel.upper:.4g} {channel.unit}",
                    mend="check unit and normalisation on the server's side",
                )
            )
        return given
