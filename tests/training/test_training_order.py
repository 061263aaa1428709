"""The order of samples and the learning rate are pure functions of the step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.errors import DataError
from robopolicy.training.optim import learning_rate
from robopolicy.training.order import epoch_order, step_indices
from robopolicy.training.recipe import OptimizerConfig


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 40), st.integers(1, 20), st.integers(1, 30), st.data())
def test_any_piece_is_a_piece_of_the_same_sequence(n, seed, first, steps, batch, data):
    whole = step_indices(n, seed, 0, first + steps, batch)
    assert (step_indices(n, seed, first, steps, batch) == whole[first:]).all()
    epoch = data.draw(st.integers(0, whole.size // n))
    flat = whole.reshape(-1)[epoch * n : (epoch + 1) * n]
    if len(flat) == n:  # every epoch shows every sample once
        assert (np.sort(flat) == np.arange(n)).all()


def test_epochs_and_seeds_differ():
    assert (epoch_order(100, 0, 0) == epoch_order(100, 0, 0)).all()
    assert (epoch_order(100, 0, 0) != epoch_order(100, 0, 1)).any()
    assert (epoch_order(100, 0, 0) != epoch_order(100, 1, 0)).any()
    with pytest.raises(DataError, match="no training samples"):
        step_indices(0, 0, 0, 1, 1)


def test_learning_rate():
    config = OptimizerConfig(lr=2.0, warmup_steps=10)
    rates = [learning_rate(config, k, 110) for k in range(110)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 5)
    np.testing.assert_allclose(rates[60], 1.0)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 1e-3
    assert learning_rate(OptimizerConfig(lr=2.0, warmup_steps=10, schedule="constant"), 109, 110) == 2.0
    assert learning_rate(config, 3, 4) == pytest.approx(
        2.0
    )  # a run shorter than its warm-up still warms up to the peak
