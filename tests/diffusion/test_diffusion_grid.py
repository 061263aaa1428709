"""Time grids begin at the last training step."""

import numpy as np
import pytest
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.diffusion.grid import SPACINGS, check_grid, time_grid
from robopolicy.errors import ConfigError


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(SPACINGS))
def test_grid_covers_the_last_step(train_steps, sample_steps, spacing):
    if sample_steps > train_steps:
        with pytest.raises(ConfigError, match="sample_steps"):
            time_grid(train_steps, sample_steps, spacing)
        return
    grid = time_grid(train_steps, sample_steps, spacing)
    assert len(grid) == sample_steps
    assert grid[0] == train_steps - 1
    assert grid[-1] >= 0
    assert (np.diff(grid) < 0).all()


def test_scheduler_default_misses_the_last_step():
    """The control: what the project would get if it left the grid to the scheduler."""
    scheduler = DDIMScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 90
    with pytest.raises(ConfigError, match="not a time grid"):
        check_grid(scheduler.timesteps.numpy(), 100)


def test_known_grids():
    assert time_grid(100, 10).tolist() == [99, 89, 79, 69, 59, 49, 39, 29, 19, 9]
    assert time_grid(100, 2, "linspace").tolist() == [99, 0]
    assert time_grid(100, 100).tolist() == list(range(99, -1, -1))
    with pytest.raises(ConfigError, match="unknown spacing"):
        time_grid(100, 10, "leading")
