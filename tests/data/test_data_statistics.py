"""Streamed statistics equal those of the whole, however the rows were grouped."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.data.statistics import (
    SAMPLE_ROWS,
    RowSample,
    RunningMoments,
    Statistics,
    row_keys,
    sampled_rows,
)
from robopolicy.errors import DataError


def streamed(rows: np.ndarray, cuts: list[int]) -> tuple[RunningMoments, RowSample]:
    moments = RunningMoments.empty(rows.shape[1])
    sample = RowSample(row_keys(0, 0), {"x": rows[:0]})
    edges = [0, *sorted({c for c in cuts if 0 < c < len(rows)}), len(rows)]
    for start, stop in itertools.pairwise(edges):
        moments = moments.merge(RunningMoments.of(rows[start:stop]))
        sample = sample.extended(start, {"x": rows[start:stop]})
    return moments, sample


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 300),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    cuts=st.lists(st.integers(1, 299), max_size=12),
)
def test_any_grouping_gives_numpys_statistics(seed: int, length: int, offset: float, cuts: list[int]) -> None:
    rows = (offset + np.random.default_rng(seed).normal(size=(length, 3))).astype(np.float32)
    moments, sample = streamed(rows, cuts)
    result = moments.statistics(sample.rows["x"])
    exact = rows.astype(np.float64)
    assert result.count == length
    np.testing.assert_array_equal(result.min, exact.min(axis=0))
    np.testing.assert_array_equal(result.max, exact.max(axis=0))
    np.testing.assert_allclose(result.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.std, exact.std(axis=0), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.q01, np.quantile(exact, 0.01, axis=0))
    np.testing.assert_allclose(result.q99, np.quantile(exact, 0.99, axis=0))


def test_the_textbook_formula_would_fail() -> None:
    """Control: E[x^2] - E[x]^2 in float32 loses the deviation that the parallel update keeps."""
    rows = (1e4 + np.random.default_rng(0).normal(size=(2000, 1))).astype(np.float32)
    exact = rows.astype(np.float64).std(axis=0)
    naive = np.sqrt(np.abs((rows**2).mean(axis=0) - rows.mean(axis=0) ** 2))
    assert abs(naive / exact - 1)[0] > 0.1
    moments, sample = streamed(rows, list(range(0, 2000, 7)))
    np.testing.assert_allclose(moments.statistics(sample.rows["x"]).std, exact, rtol=1e-9)


def test_large_streams_have_the_stated_accuracy_and_no_memory_of_the_grouping() -> None:
    rows = np.random.default_rng(1).normal(size=(120_000, 2)).astype(np.float32)
    moments, sample = streamed(rows, [1, 999, 20_000, 20_001, 90_000])
    _, other = streamed(rows, list(range(0, 120_000, 7_001)))
    assert len(sample.keys) == SAMPLE_ROWS
    assert set(sample.keys.tolist()) == set(other.keys.tolist())
    kept = sampled_rows(len(rows))
    assert set(row_keys(0, len(rows))[kept].tolist()) == set(sample.keys.tolist())
    np.testing.assert_array_equal(np.sort(rows[kept], axis=0), np.sort(sample.rows["x"], axis=0))
    result = moments.statistics(sample.rows["x"])
    for column in range(2):
        for value, wanted in ((result.q01[column], 0.01), (result.q99[column], 0.99)):
            assert abs((rows[:, column] <= value).mean() - wanted) < 4 * 0.0008


def test_the_sample_is_uniform_over_time() -> None:
    """Not the first rows, not the last: each tenth of the stream holds a tenth of the sample."""
    share = np.histogram(sampled_rows(200_000), bins=10, range=(0, 200_000))[0] / SAMPLE_ROWS
    assert np.abs(share - 0.1).max() < 0.012


def test_json_keeps_every_bit() -> None:
    moments, sample = streamed(np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32), [13])
    result = moments.statistics(sample.rows["x"])
    back = Statistics.from_dict(json.loads(json.dumps(result.to_dict())))
    for name in ("min", "max", "mean", "std", "q01", "q99"):
        np.testing.assert_array_equal(getattr(back, name), getattr(result, name))
    entry = result.to_dict()
    entry.pop("q99")
    with pytest.raises(DataError, match="incomplete"):
        Statistics.from_dict(entry)
    with pytest.raises(DataError, match="unequal widths"):
        Statistics.from_dict({**result.to_dict(), "mean": [1.0]})
