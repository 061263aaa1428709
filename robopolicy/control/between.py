"""What happens between two chunks, as a choice of whoever runs a policy: the policy itself stays without state.

::

    naive      ask every Ta steps; a new chunk takes the place of the old one by absolute time
    ensemble   ask every step; each time gets the weighted mean of all chunks that speak of it (Zhao et al. 2023)
    rtc        ask every s steps and hand the policy what is still scheduled; it answers a chunk that begins with what
               will have been executed by then and goes on from it (Black et al. 2025, arXiv 2506.07339)

In all three the chunk goes through the same schedule, splice and limiter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from numpy.typing import ArrayLike

from robopolicy.control.ensemble import Ensemble
from robopolicy.errors import ConfigError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.schema import setting
from robopolicy.types import ActionChunk

__all__ = ["JACOBIAN", "KINDS", "STRONGEST", "Between", "BetweenConfig", "Prefix", "delay_steps"]

KINDS = ("naive", "ensemble", "rtc")
JACOBIAN: Literal["network", "identity"] = "identity"
STRONGEST = 20.0
"""Of real-time chunking where nothing else is said, see :class:`BetweenConfig`."""

Scheduled = Callable[[int, int], ActionChunk | None]
"""(time of the observation, expected delay), both ns -> what is still scheduled after it."""


@dataclass(frozen=True)
class BetweenConfig:
    """How one chunk follows another.

    Defaults are those of the sources but for ``jacobian``: the published one costs a backward pass per step
    and leaves larger seams (tests/claims/policies/delay_seams.py measures both).
    """

    kind: Literal["naive", "ensemble", "rtc"] = setting("one of naive, ensemble, rtc", default="naive")
    every: int | None = setting("control steps between two requests; null: Ta, of ensemble 1", default=None, ge=1)
    strongest: float = setting(
        "rtc: bound of the guidance, beta; 0 switches it off; published 5", default=STRONGEST, ge=0
    )
    mask: Literal["soft", "hard"] = setting(
        "rtc: soft also follows the rest of the old chunk, less and less; hard only what will be executed",
        default="soft",
    )
    jacobian: Literal["network", "identity"] = setting(
        "rtc: network, as published, costs a backward pass per step; identity none, and holds more firmly",
        default=JACOBIAN,
    )
    recent: int = setting("rtc: the delay expected is the longest of this many", default=10, ge=1)
    decay: float = setting("ensemble: m of the weights exp(-m i)", default=0.01, ge=0)
    oldest_first: bool = setting("ensemble: i = 0 is the oldest chunk, as in ACT; false: the newest", default=True)


@dataclass(frozen=True, init=False)
class Prefix(ActionChunk):
    """What is still scheduled, from the newest observation on, as :meth:`robopolicy.protocols.Policy.act` takes it.

    ``horizon`` says how many of its values will have been executed before the answer is there; the hard mask is a
    prefix of no more than those.

    Attributes:
        strongest: Bound of the guidance, beta of the paper.
        jacobian: See :class:`robopolicy.diffusion.guidance.Inpainting`.
    """

    strongest: float = STRONGEST
    jacobian: str = JACOBIAN

    def __init__(
        self,
        values: ArrayLike,
        t0_ns: int,
        dt_s: float,
        embodiment: str,
        valid: ArrayLike | None = None,
        horizon: int | None = None,
        strongest: float = STRONGEST,
        jacobian: str = JACOBIAN,
    ) -> None:
        super().__init__(values, t0_ns, dt_s, embodiment, valid, horizon)
        vars(self).update(strongest=float(strongest), jacobian=jacobian)


class Between:
    """The runner's part of one episode: when to ask, with what prefix, and what becomes of the answer.

    Args:
        config: Which way.
        spec: Of the policy.
        expected_ns: Delay from observation to chunk that is expected before one has been measured.

    Raises:
        ConfigError: ``rtc`` with a policy that does not continue a chunk: it would be ``naive`` by another name.
    """

    def __init__(self, config: BetweenConfig, spec: PolicySpec, expected_ns: int = 0):
        if config.kind == "rtc" and not spec.continues:
            raise ConfigError(
                explain(
                    "this policy does not continue the chunk that is being executed, so it cannot be run as rtc",
                    given="between.kind=rtc",
                    allowed=("naive", "ensemble"),
                    mend="train a policy that denoises (diffusion, flow, beso), or choose another way",
                )
            )
        self.config, self._spec, self._card = config, spec, spec.embodiment
        self._dt_ns = round(self._card.control_dt_s * 1e9)
        self._delays: deque[int] = deque([max(0, int(expected_ns))], maxlen=config.recent)
        self._own = config.every or (1 if config.kind == "ensemble" else spec.action_horizon)
        self._ahead = spec.prediction_horizon - spec.observation_horizon + 1
        self._ensemble = None
        if config.kind == "ensemble":
            self._ensemble = Ensemble(self._card, config.decay, oldest_first=config.oldest_first)
        self._moving_since_ns = 0

    @property
    def expected_ns(self) -> int:
        """The longest of the recent delays, as in algorithm 1 of the paper."""
        return max(self._delays)

    @property
    def interval(self) -> int:
        """Control steps from one observation that is asked about to the next.

        Of ``rtc`` ``s = max(d, min(every, H - d))``: never before the last answer is expected, and early enough for
        the old chunk to last until the new one is there.
        """
        if self.config.kind != "rtc":
            return self._own
        delay = delay_steps(self.expected_ns, self._card.control_dt_s)
        return max(delay, min(self._own, self._ahead - delay), 1)

    @property
    def earliest(self) -> int:
        """The shortest :attr:`interval` that any delay could lead to."""
        return max(1, min(self._own, (self._ahead + 1) // 2)) if self.config.kind == "rtc" else self._own

    def due(self, since: int, waiting: bool) -> bool:
        """Whether to ask now.

        Args:
            since: Control steps since the last observation that was asked about.
            waiting: An answer is still under way; only an ensemble asks in between.
        """
        return since >= self.interval and (self._ensemble is not None or not waiting)

    def prefix(self, scheduled: Scheduled, t0_ns: int) -> Prefix | None:
        """What to hand the policy with the observation of ``t0_ns``; None unless this is ``rtc`` and the arm moves."""
        if self.config.kind != "rtc":
            return None
        ahead = scheduled(t0_ns, self.expected_ns)
        if ahead is None:
            return None
        fixed = min(ahead.horizon or 0, len(ahead.values))
        count = len(ahead.values) if self.config.mask == "soft" else fixed
        if not count:
            return None
        head = ahead.values[:count], ahead.t0_ns, ahead.dt_s, ahead.embodiment
        return Prefix(*head, horizon=fixed, strongest=self.config.strongest, jacobian=self.config.jacobian)

    def expect(self, delay_ns: int) -> None:
        """Expect this delay, until more have been measured."""
        self._delays.clear()
        self._delays.append(max(0, int(delay_ns)))

    def measured(self, delay_ns: int) -> None:
        """An answer took this long."""
        self._delays.append(max(0, int(delay_ns)))

    def arrived(self, chunk: ActionChunk, now_ns: int, *, standing: bool) -> ActionChunk | None:
        """What is to be scheduled now that a chunk is there.

        Args:
            chunk: The policy's.
            now_ns: Time of arrival.
            standing: The arm has nothing scheduled and stands; a chunk is then followed from its beginning, later.

        Returns:
            The chunk itself; of an ensemble the mean, or None for a chunk from before the arm began to move.
        """
        if self._ensemble is None:
            return chunk
        if standing:
            self._ensemble.begin()
            self._moving_since_ns = max(now_ns, chunk.t0_ns)
            self._ensemble.merge(replace(chunk, t0_ns=self._moving_since_ns))
            return chunk
        return None if chunk.t0_ns < self._moving_since_ns else self._ensemble.merge(chunk)

    def begin(self) -> None:
        """Another motion begins; measured delays are kept."""
        self._moving_since_ns = 0
        if self._ensemble is not None:
            self._ensemble.begin()


def delay_steps(delay_ns: float, dt_s: float) -> int:
    """Control steps that pass until a delay is over: its share of a step counts as a whole one."""
    return math.ceil(round(float(delay_ns) * 1e-9 / dt_s, 6))
