"""An episode is a function of its index: of no worker, no order, and of nothing that happened in another episode."""

import random

import pytest
from sim_independence import autoreset, carried_over, depends_on_others, fingerprint, ours

EPISODES = range(3)


@pytest.mark.parametrize("policy", ["expert", pytest.param("random", marks=pytest.mark.slow)])
def test_reports_are_the_same_bit_for_bit_for_any_workers_and_order(policy):
    plan = dict.fromkeys(EPISODES, policy)
    steps = 100 if policy == "expert" else 20
    shuffled = random.Random(1).sample(EPISODES, len(EPISODES))
    assert shuffled != list(EPISODES)
    prints = {
        fingerprint(list(ours(plan, workers=workers, order=order, max_steps=steps).values()), policy)
        for workers, order in ((1, None), (2, shuffled), (3, shuffled[::-1]))
    }
    assert len(prints) == 1
    other = fingerprint(list(ours(dict.fromkeys(range(1, 3), policy), max_steps=steps).values()), policy)
    assert other not in prints  # control: the fingerprint sees other episodes


def test_an_episode_does_not_depend_on_the_outcomes_of_others():
    assert depends_on_others(ours, watched=[1, 3], others=[0, 2]) == []


@pytest.mark.parametrize("wrong", [autoreset, carried_over])
def test_the_check_catches_runners_that_let_episodes_touch(wrong):
    assert depends_on_others(wrong, watched=[1, 3], others=[0, 2])
