"""How long a chunk takes from observation to arrival, as a distribution that is sampled with a seeded generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robopolicy.errors import ConfigError, explain, suggest

__all__ = ["KINDS", "LatencyModel"]

KINDS = ("constant", "normal", "empirical")


@dataclass(frozen=True)
class LatencyModel:
    """Delay between the capture of an observation and the arrival of the chunk made from it.

    Attributes:
        kind: One of :data:`KINDS`. ``normal`` is clipped at 0; ``empirical`` draws from ``samples_ms`` with equal
            chance.
        mean_ms: Mean of ``constant`` and ``normal``; of ``empirical`` it is derived.
        std_ms: Standard deviation of ``normal`` before clipping.
        samples_ms: Measured delays of ``empirical``.
    """

    kind: str = "constant"
    mean_ms: float = 0.0
    std_ms: float = 0.0
    samples_ms: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                explain("unknown latency kind", given=self.kind, allowed=KINDS, mend=suggest(str(self.kind), KINDS))
            )
        if self.kind == "empirical":
            object.__setattr__(self, "samples_ms", tuple(float(x) for x in self.samples_ms))
            if not self.samples_ms:
                raise ConfigError(explain("empirical latency needs samples_ms", given="none"))
            object.__setattr__(self, "mean_ms", float(np.mean(self.samples_ms)))
        numbers = (self.mean_ms, self.std_ms, *self.samples_ms)
        if not (np.isfinite(numbers).all() and min(numbers) >= 0):
            raise ConfigError(explain("latencies must be finite and not negative", given=numbers, allowed=">= 0 ms"))

    @property
    def expected_ns(self) -> int:
        """What to expect before one has been measured: the mean and two deviations, or the longest sample."""
        return round(1e6 * max(self.mean_ms + 2 * self.std_ms * (self.kind == "normal"), *self.samples_ms, 0.0))

    def sample_ns(self, rng: np.random.Generator) -> int:
        """One delay in nanoseconds; ``constant`` draws nothing from ``rng``."""
        if self.kind == "constant":
            value_ms = self.mean_ms
        elif self.kind == "normal":
            value_ms = max(0.0, float(rng.normal(self.mean_ms, self.std_ms)))
        else:
            value_ms = self.samples_ms[int(rng.integers(len(self.samples_ms)))]
        return round(value_ms * 1e6)

    def to_config(self) -> float | dict[str, Any] | list[float]:
        """What :meth:`from_config` takes to build this model again."""
        if self.kind == "constant":
            return self.mean_ms
        if self.kind == "normal":
            return {"kind": "normal", "mean_ms": self.mean_ms, "std_ms": self.std_ms}
        return list(self.samples_ms)

    @classmethod
    def from_config(cls, config: LatencyModel | float | Mapping[str, Any] | Sequence[float]) -> LatencyModel:
        """Build from a number of milliseconds, a list of measured ones, or a mapping of the fields.

        Raises:
            ConfigError: anything else, unknown keys, negative or non-finite numbers.
        """
        if isinstance(config, LatencyModel):
            return config
        if isinstance(config, bool) or config is None:
            raise ConfigError(explain("not a latency", given=config, allowed="number of ms, list of ms, or mapping"))
        if isinstance(config, (int, float, np.number)):
            return cls("constant", float(config))
        if isinstance(config, Mapping):
            known = ("kind", "mean_ms", "std_ms", "samples_ms")
            unknown = [str(k) for k in config if k not in known]
            if unknown:
                raise ConfigError(
                    explain("unknown latency key", given=unknown, allowed=known, mend=suggest(unknown[0], known))
                )
            fields: dict[str, Any] = dict(config)
            if "samples_ms" in fields:
                fields["samples_ms"] = tuple(float(x) for x in fields["samples_ms"])
            return cls(**fields)
        if isinstance(config, Sequence) and not isinstance(config, str):
            return cls("empirical", samples_ms=tuple(float(x) for x in config))
        raise ConfigError(explain("not a latency", given=repr(config), allowed="number of ms, list of ms, or mapping"))
