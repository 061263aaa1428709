"""Embodiments of the control tests."""

from __future__ import annotations

import numpy as np
import pytest
from control_panda import panda_card

from robopolicy.embodiment import Embodiment


@pytest.fixture(scope="session")
def panda() -> Embodiment:
    return Embodiment.from_dict(panda_card())


@pytest.fixture(scope="session")
def joint_panda() -> Embodiment:
    return Embodiment.from_dict(panda_card("joint_position"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)
