"""Bootstrap, stratification, sample size and Holm's correction."""

import numpy as np
import pytest

from robopolicy.errors import DataError
from robopolicy.evaluation.paired import CELLS, cells, holm, paired_bootstrap, pairs_needed, stratified
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe


def table(*counts):
    return dict(zip(CELLS, counts, strict=True))


def test_cells():
    assert cells([True, True, False, False, True], [True, False, True, False, True]) == table(2, 1, 1, 1)


def test_bootstrap_agrees_with_the_closed_form_and_is_a_function():
    counts = table(60, 25, 10, 105)
    low, high = paired_bootstrap([counts])
    _, close_low, close_high = paired_newcombe(*counts.values())
    assert low == pytest.approx(close_low, abs=0.012)
    assert high == pytest.approx(close_high, abs=0.012)
    assert paired_bootstrap([counts]) == (low, high)
    assert paired_bootstrap([table(5, 0, 0, 5)]) == (0.0, 0.0)
    with pytest.raises(DataError, match="every task"):
        paired_bootstrap([counts, table(0, 0, 0, 0)])


def test_bootstrap_covers():
    draw, share, missed = np.random.default_rng(0), [0.4, 0.2, 0.1, 0.3], 0
    for trial in range(200):
        counts = table(*draw.multinomial(100, share))
        low, high = paired_bootstrap([counts], draws=400, seed=trial)
        missed += not low <= 0.1 <= high
    assert missed <= 20  # about 10 expected


def test_pairing_within_a_task_matters():
    """Two tasks of opposite difficulty: the strata keep their own spread, and each weighs the same."""
    strata = {"easy": table(90, 5, 0, 5), "hard": table(0, 5, 0, 15)}
    found = stratified(strata)
    assert found["difference"] == pytest.approx((0.05 + 0.25) / 2)
    assert found["mcnemar_p"] == mcnemar_exact(10, 0)
    assert found["tasks"]["hard"]["mcnemar_p"] == mcnemar_exact(5, 0)
    assert found["tasks"]["hard"]["holm_p"] == pytest.approx(2 * mcnemar_exact(5, 0))
    assert stratified({"easy": strata["easy"]})["interval_95"] == pytest.approx(paired_newcombe(90, 5, 0, 5)[1:])
    joined = found["interval_95"]
    assert joined[0] < 0.15 < joined[1]
    none = stratified({name: table(10, 0, 0, 10) for name in "ab"})
    assert none["bootstrap_95"] == [0.0, 0.0]
    assert none["interval_95"][0] < -0.05 < 0.05 < none["interval_95"][1]  # nothing seen is not nothing there
    low, high = found["bootstrap_95"]
    pooled = paired_bootstrap([table(90, 10, 0, 20)])
    assert low < 0.15 < high
    assert high - low > pooled[1] - pooled[0]  # control: thrown together they would look more certain


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}
    # family-wise error over ten true hypotheses; uncorrected it is 0.4 (control)
    draw = np.random.default_rng(1).uniform(size=(2000, 10))
    corrected = [min(holm(dict(enumerate(row))).values()) < 0.05 for row in draw]
    assert np.mean(corrected) < 0.065
    assert np.mean((draw < 0.05).any(1)) > 0.35


def test_pairs_needed_has_its_power():
    n = pairs_needed(0.1, 0.3)
    assert 230 < n < 245
    draw = np.random.default_rng(2).multinomial(n, [0.2, 0.1, 0.7], size=1500)
    shown = np.mean([mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in draw])
    assert 0.73 < shown < 0.85  # the exact test is a little weaker than the formula
    fewer = np.random.default_rng(2).multinomial(n // 3, [0.2, 0.1, 0.7], size=500)
    assert np.mean([mcnemar_exact(int(a), int(b)) < 0.05 for a, b, _ in fewer]) < 0.45
    assert pairs_needed(0.0, 0.3) is None
    assert pairs_needed(-0.1, 0.3) == n
    with pytest.raises(DataError, match="impossible"):
        pairs_needed(0.4, 0.3)
