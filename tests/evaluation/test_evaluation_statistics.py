"""Intervals and tests against published values, exact coverage, and controls that must fail."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robopolicy.errors import DataError
from robopolicy.evaluation.statistics import (
    clopper_pearson,
    mcnemar_exact,
    paired_conditional,
    paired_newcombe,
    percentile,
    rate,
    summary,
    wilson,
)

counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
cells = st.tuples(*[st.integers(0, 40)] * 4)


def wald(successes, n, confidence=0.95):
    """The naive interval p -+ 1.96 sqrt(p(1-p)/n): the control."""
    p = successes / n
    half = stats.norm.ppf((1 + confidence) / 2) * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def coverage(interval, n, p):
    """Exact probability that the interval of Binomial(n, p) holds p."""
    ends = np.array([interval(k, n) for k in range(n + 1)])
    return float(stats.binom.pmf(np.arange(n + 1), n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum())


# Newcombe 1998, Stat. Med. 17:857, table I, methods 3 and 5; the last four at two digits are common display values.
@pytest.mark.parametrize(
    ("k", "n", "score", "exact", "digits"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676), 4),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617), 4),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684), 4),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776), 4),
        (8, 10, (0.49, 0.94), (0.44, 0.97), 2),
        (40, 50, (0.67, 0.89), (0.66, 0.90), 2),
        (160, 200, (0.74, 0.85), (0.74, 0.85), 2),
        (400, 500, (0.76, 0.83), (0.76, 0.83), 2),
    ],
)
def test_published_intervals(k, n, score, exact, digits):
    assert tuple(round(x, digits) for x in wilson(k, n)) == score
    assert tuple(round(x, digits) for x in clopper_pearson(k, n)) == exact
    assert tuple(round(x, digits) for x in wald(k, n)) != score  # control


def test_wilson_covers_near_one_where_wald_fails():
    grid = np.linspace(0.90, 0.99, 19)
    for n in (20, 50, 100):
        assert np.mean([coverage(wilson, n, p) for p in grid]) > 0.94
        assert min(coverage(wilson, n, p) for p in grid) > 0.85
        assert min(coverage(wald, n, p) for p in grid) < 0.75  # control: the naive interval
        assert np.mean([coverage(wald, n, p) for p in grid]) < 0.90


def test_clopper_pearson_never_covers_less():
    for n in (1, 7, 30, 100):
        grid = np.linspace(0.003, 0.997, 61)
        assert min(coverage(clopper_pearson, n, p) for p in grid) >= 0.95
    assert min(coverage(wilson, 30, p) for p in grid) < 0.95  # control: Wilson does dip below


@settings(max_examples=150, deadline=None)
@given(counts, st.floats(0.5, 0.999))
def test_intervals_are_ordered_contain_the_rate_and_mirror(pair, confidence):
    k, n = pair
    for interval in (wilson, clopper_pearson):
        low, high = interval(k, n, confidence)
        assert 0 <= low < high <= 1
        if n:
            assert low <= k / n <= high
        mirrored = interval(n - k, n, confidence)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
        wider = interval(k, n, (1 + confidence) / 2)
        assert wider[0] <= low + 1e-12
        assert wider[1] >= high - 1e-12


@settings(max_examples=60, deadline=None)
@given(counts.filter(lambda pair: pair[1] > 0))
def test_clopper_pearson_inverts_the_binomial_tails(pair):
    k, n = pair
    low, high = clopper_pearson(k, n)
    if k > 0:
        assert stats.binom.sf(k - 1, n, low) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert stats.binom.cdf(k, n, high) == pytest.approx(0.025, rel=1e-6)


def test_no_trials_means_nothing_known():
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
    assert rate(0, 0)["rate"] is None
    assert paired_newcombe(0, 0, 0, 0) == paired_conditional(0, 0, 0, 0) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize("arguments", [(11, 10), (-1, 10), (0, -1), (1.5, 10), (math.nan, 10), (True, 2), ("1", 2)])
def test_bad_counts_are_refused(interval, arguments):
    with pytest.raises(DataError):
        interval(*arguments)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_bad_levels_are_refused(confidence):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(DataError, match="confidence"):
            interval(5, 10, confidence)


def test_numpy_integers_do_not_overflow():
    small = [np.int8(n) for n in (100, 10, 20, 100)]
    assert paired_newcombe(*small) == paired_newcombe(100, 10, 20, 100)
    assert wilson(np.int8(100), np.int8(120)) == wilson(100, 120)


def test_mcnemar_published():
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)  # Fagerland et al. 2014, airway data
    assert mcnemar_exact(150, 86) == pytest.approx(3.716e-05, rel=1e-3)  # Agresti, approval ratings
    assert mcnemar_exact(0, 0) == mcnemar_exact(5, 5) == 1.0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial_test(a, b):
    p = mcnemar_exact(a, b)
    assert p == mcnemar_exact(b, a)
    if a + b:
        assert p == pytest.approx(stats.binomtest(a, a + b, 0.5).pvalue, rel=1e-9)


def test_mcnemar_holds_its_level_where_the_chi_square_form_does_not():
    """Exact size over all discordant tables; the uncorrected chi-square, 0.057 at 14 pairs, is the control."""
    for n in (6, 20, 45, 14):
        k = np.arange(n + 1)
        weight = stats.binom.pmf(k, n, 0.5)
        exact = np.array([mcnemar_exact(i, n - i) for i in k.tolist()]) < 0.05
        assert weight[exact].sum() <= 0.05
    chi = stats.chi2.sf((2 * k - n) ** 2 / n, 1) < 0.05
    assert weight[chi].sum() > 0.05


@pytest.mark.parametrize(
    ("table", "difference", "low", "high"),
    [((1, 1, 7, 12), -0.286, -0.507, -0.026), ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046)],
)
def test_newcombe_published(table, difference, low, high):
    """Fagerland, Lydersen and Laake 2014: airway data (Bentur 2009) and complete response (Cavo 2012)."""
    digits = 3 if table[0] == 1 else 4
    assert tuple(round(x, digits) for x in paired_newcombe(*table)) == (difference, low, high)


@settings(max_examples=150, deadline=None)
@given(cells)
def test_paired_intervals_hold_the_difference_and_mirror(table):
    both, a, b, neither = table
    for method in (paired_newcombe, paired_conditional):
        difference, low, high = method(*table)
        assert -1 <= low <= difference + 1e-12
        assert difference - 1e-12 <= high <= 1
        assert method(both, b, a, neither) == pytest.approx((-difference, -high, -low), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(cells)
def test_conditional_interval_and_exact_test_never_disagree(table):
    _, low, high = paired_conditional(*table)
    p = mcnemar_exact(table[1], table[2])
    if abs(p - 0.05) > 1e-9:
        assert (low > 0 or high < 0) == (p < 0.05)


def paired_coverage(method, n, probabilities):
    """Exact coverage over every table of n pairs."""
    truth = probabilities[1] - probabilities[2]
    law = stats.multinomial(n, probabilities)
    total = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            for c in range(n + 1 - a - b):
                table = (a, b, c, n - a - b - c)
                _, low, high = method(*table)
                total += law.pmf(table) if low - 1e-12 <= truth <= high + 1e-12 else 0.0
    return total


def test_newcombe_covers_correlated_pairs_where_wald_fails():
    def paired_wald(both, a, b, neither):
        n = both + a + b + neither
        half = 1.96 * math.sqrt(max(a + b - (a - b) ** 2 / n, 0)) / n
        return (a - b) / n, (a - b) / n - half, (a - b) / n + half

    law = (0.85, 0.10, 0.02, 0.03)
    assert paired_coverage(paired_newcombe, 14, law) > 0.94
    assert paired_coverage(paired_wald, 14, law) < 0.90  # control


def test_percentile_is_an_observed_value_at_its_rank():
    values = list(range(1, 21))
    assert percentile(values, 50) == 10
    assert percentile(values, 95) == 19
    assert percentile(values[:19], 95) == 19  # below n = 20 a p95 is the maximum
    assert percentile([3.0], 0) == percentile([3.0], 100) == 3.0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.integers(0, 100))
def test_percentile_definition(values, q):
    found = percentile(values, q)
    assert found in values
    assert sum(v <= found for v in values) >= q / 100 * len(values) - 1e-9
    assert sum(v < found for v in values) <= q / 100 * len(values) + 1e-9


def test_summary_counts_and_refuses_what_is_not_finite():
    assert summary([2, 1, 3]) == {"n": 3, "mean": 2.0, "min": 1.0, "p50": 2.0, "p95": 3.0, "max": 3.0}
    assert summary([]) == {"n": 0, "mean": None, "min": None, "p50": None, "p95": None, "max": None}
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError):
            summary([1.0, bad])
    with pytest.raises(DataError):
        percentile([], 50)
    with pytest.raises(DataError):
        percentile([1.0], 101)
