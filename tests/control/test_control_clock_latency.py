"""Clocks move forward; latency models sample what they are told."""

from __future__ import annotations

import time

import numpy as np
import pytest

from robopolicy.control import clock as clock_module
from robopolicy.control.clock import Clock, MonotonicClock, VirtualClock
from robopolicy.control.latency import LatencyModel
from robopolicy.errors import ConfigError


@pytest.mark.parametrize("native", [True, False])
def test_monotonic_clock_never_wakes_early(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(clock_module, "_find_nanosleep", lambda: None)
    clock = MonotonicClock()
    if not native:
        assert not clock.absolute
    for _ in range(5):
        until = clock.now_ns() + 2_000_000
        clock.sleep_until_ns(until)
        assert clock.now_ns() >= until
    clock.sleep_until_ns(clock.now_ns() - 10**9)
    clock.sleep_until_ns(-5)
    assert isinstance(clock, Clock)


def test_monotonic_clock_is_the_systems() -> None:
    before, now, after = time.monotonic_ns(), MonotonicClock().now_ns(), time.monotonic_ns()
    assert before <= now <= after


def test_virtual_clock_moves_only_when_told() -> None:
    clock = VirtualClock(5)
    assert clock.now_ns() == clock.now_ns() == 5
    clock.sleep_until_ns(100)
    clock.sleep_until_ns(50)
    assert clock.now_ns() == 100
    clock.advance_ns(7)
    assert clock.now_ns() == 107
    with pytest.raises(ConfigError, match="forward"):
        clock.advance_ns(-1)
    assert isinstance(clock, Clock)


def test_constant_latency_draws_nothing(rng: np.random.Generator) -> None:
    before = rng.bit_generator.state
    assert LatencyModel.from_config(50).sample_ns(rng) == 50_000_000
    assert LatencyModel.from_config(0).sample_ns(rng) == 0
    assert rng.bit_generator.state == before


def test_normal_latency_has_its_moments_and_is_never_negative(rng: np.random.Generator) -> None:
    model = LatencyModel.from_config({"kind": "normal", "mean_ms": 100, "std_ms": 10})
    samples = np.array([model.sample_ns(rng) for _ in range(2000)]) * 1e-6
    assert samples.mean() == pytest.approx(100, abs=1)
    assert samples.std() == pytest.approx(10, abs=1)
    wide = LatencyModel.from_config({"kind": "normal", "mean_ms": 1, "std_ms": 50})
    samples = np.array([wide.sample_ns(rng) for _ in range(200)])
    assert samples.min() == 0
    assert samples.max() > 0


def test_empirical_latency_draws_from_the_list(rng: np.random.Generator) -> None:
    model = LatencyModel.from_config([10, 20, 60])
    samples = [model.sample_ns(rng) for _ in range(300)]
    assert set(samples) == {10_000_000, 20_000_000, 60_000_000}
    assert model.mean_ms == pytest.approx(30)


@pytest.mark.parametrize("config", [0, 12.5, {"kind": "normal", "mean_ms": 3.0, "std_ms": 1.0}, [1.0, 2.0]])
def test_config_round_trip(config: object) -> None:
    model = LatencyModel.from_config(config)  # type: ignore[arg-type]
    assert LatencyModel.from_config(model.to_config()) == model
    assert LatencyModel.from_config(model) is model


@pytest.mark.parametrize(
    "config",
    [-1, float("nan"), [], [-1.0], {"kind": "gauss"}, {"mean": 3}, {"kind": "normal", "std_ms": -1}, "50", None, True],
)
def test_bad_latency_is_refused(config: object) -> None:
    with pytest.raises(ConfigError):
        LatencyModel.from_config(config)  # type: ignore[arg-type]
