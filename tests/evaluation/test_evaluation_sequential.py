"""The sequential test keeps its level under continuous peeking, where p-values do not, and stops early."""

import numpy as np
import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.sequential import (
    DIFFERENCES,
    OUTCOMES,
    StopRule,
    confidence_sequence,
    log_evidence,
    verdict,
)
from robopolicy.evaluation.statistics import mcnemar_exact

RUNS, LENGTH = 600, 250


def cumulative(values, probabilities, seed):
    """Counts [RUNS, LENGTH, K] of the first n outcomes of many runs."""
    drawn = np.random.default_rng(seed).choice(len(values), (RUNS, LENGTH), p=probabilities)
    return (drawn[..., None] == np.arange(len(values))).cumsum(1)


def ever(values, counts, null, alpha=0.05):
    """Shares of the runs in which the evidence (above, below) reaches 2 / alpha at some look."""
    return [float((side >= np.log(2 / alpha)).any(1).mean()) for side in log_evidence(values, counts, null)]


@pytest.mark.parametrize("discordant", [0.1, 0.4, 1.0])
def test_peeking_after_every_episode_keeps_the_level(discordant):
    counts = cumulative(DIFFERENCES, [discordant / 2, 1 - discordant, discordant / 2], seed=1)
    assert sum(ever(DIFFERENCES, counts, 0.0)) <= 0.05
    # the same looks at a p-value: far above the level (control)
    if discordant == 0.4:
        peeked = [any(mcnemar_exact(int(a), int(b)) < 0.05 for b, _, a in run[20::5]) for run in counts[:300]]
        assert np.mean(peeked) > 0.10


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.98])
def test_a_rate_is_rarely_told_from_itself(rate):
    counts = cumulative(OUTCOMES, [1 - rate, rate], seed=2)
    assert sum(ever(OUTCOMES, counts, rate)) <= 0.05
    # control: told from another one, in the right direction
    other = rate - 0.2 if rate > 0.5 else rate + 0.2
    right, wrong = ever(OUTCOMES, counts, other)[:: 1 if rate > other else -1]
    assert right > 0.9
    assert wrong < 0.025


def test_the_interval_covers_at_all_looks_together():
    counts = cumulative(DIFFERENCES, [0.1, 0.6, 0.3], seed=3)[:60]
    missed = 0
    for run in counts:
        looks = [confidence_sequence(DIFFERENCES, run[n], 0.05) for n in range(0, LENGTH, 25)]
        missed += any(not low <= 0.2 <= high for low, high in looks)
    assert missed <= 6  # 60 runs at 5 %: more than 6 has probability 0.03
    low, high = confidence_sequence(DIFFERENCES, counts[0][-1], 0.05)
    assert -1 < low < high < 1
    assert high - low < 0.35


def test_a_real_difference_ends_early():
    counts = cumulative(DIFFERENCES, [0.05, 0.7, 0.25], seed=4)  # 20 points
    evidence = log_evidence(DIFFERENCES, counts, 0.0)[0] >= np.log(2 / 0.05)
    decided = np.where(evidence.any(1), evidence.argmax(1) + 1, LENGTH)
    assert evidence.any(1).mean() > 0.98
    assert np.median(decided) < 130


def test_interval_and_decision_agree_and_are_ordered():
    draw = np.random.default_rng(5)
    for _ in range(100):
        counts = draw.multinomial(int(draw.integers(1, 200)), draw.dirichlet([1, 1, 1])).tolist()
        found = verdict(DIFFERENCES, counts, 0.0)
        low, high = found["interval"]
        assert low <= found["estimate"] <= high
        assert (found["decision"] == "above") == (low > 0)
        assert (found["decision"] == "below") == (high < 0)
        swapped = verdict(DIFFERENCES, counts[::-1], 0.0)
        assert swapped["e_above"] == pytest.approx(found["e_below"])
        assert swapped["interval"] == pytest.approx([-high, -low], abs=1e-9)
    assert confidence_sequence(OUTCOMES, [0, 0]) == (0.0, 1.0)
    low, high = confidence_sequence(OUTCOMES, [0, 50])
    assert low > 0.85
    assert high == 1.0


def test_equality_within_a_margin_can_be_shown():
    assert verdict(DIFFERENCES, [2, 996, 2], 0.0, margin=0.05)["decision"] == "equal"
    assert verdict(DIFFERENCES, [2, 996, 2], 0.0)["decision"] is None
    assert verdict(DIFFERENCES, [1, 8, 1], 0.0, margin=0.05)["decision"] is None  # control: too few


def test_rule_pairs_by_key_and_refuses_strangers(outcomes):
    ours, theirs = outcomes("1" * 30), outcomes("0" * 30)
    rule = StopRule(against={e.key: e for e in theirs})
    first = next(n for n in range(1, 31) if rule(ours[:n]))
    assert 4 < first < 15
    assert rule.state(ours[:first])["decision"] == "above"
    assert not rule(ours[: first - 1])
    with pytest.raises(DataError, match="lacks episodes"):
        rule(outcomes("1", start=99))
    with pytest.raises(DataError, match="another state"):
        rule(outcomes("1", initial_state=[0.5]))
    assert StopRule(target=0.5)(ours)
    assert not StopRule(target=0.97)(ours)
    for wrong in ({}, {"target": 0.5, "against": {}}, {"target": 1.5}, {"target": 0.5, "alpha": 0.0}):
        with pytest.raises(ConfigError):
            StopRule(**wrong)
