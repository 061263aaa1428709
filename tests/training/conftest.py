"""Fixtures over the toy store."""

import copy

import pytest
from training_toy import RECIPE, write_store


@pytest.fixture(scope="session")
def reach(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("reach") / "reach.zarr")


@pytest.fixture
def recipe():
    def make(**changes):
        made = copy.deepcopy(RECIPE)
        for key, value in changes.items():
            owner = made if key in ("seed", "keep_last", "mixed_precision", "workers") else made["stages"]["policy"]
            owner[key] = {**owner[key], **value} if isinstance(owner.get(key), dict) else value
        return made

    return make
