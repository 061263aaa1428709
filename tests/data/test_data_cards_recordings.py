"""Cards against recordings of the real robots: channels, ranges, and where the kinematics put the hands."""

from __future__ import annotations

import json

import numpy as np
import pytest
from recordings import recordings

from robopolicy.data.convert.forward_kinematics import tcp_poses
from robopolicy.embodiment import load_embodiment


@pytest.fixture(scope="module")
def g1() -> np.ndarray:
    """[T, 26] measured joints of three episodes."""
    import pyarrow.parquet as parquet

    root = recordings("lerobot_v21_unitree_g1")
    names = json.loads((root / "meta/info.json").read_text())["features"]["observation.state"]["names"][0]
    plain = [n.replace(".", "").replace("_", "") for n in load_embodiment("unitree_g1_inspire").state.names]
    assert [name.removeprefix("k").lower() for name in names] == plain
    tables = [parquet.read_table(path) for path in sorted(root.glob("data/chunk-000/*.parquet"))]
    return np.concatenate([np.array(t["observation.state"].to_pylist()) for t in tables])


def test_g1_moves_within_the_ranges_of_its_card(g1: np.ndarray) -> None:
    card = load_embodiment("unitree_g1_inspire")
    assert (g1 >= card.state.lower - 1e-3).all()
    assert (g1 <= card.state.upper + 1e-3).all()
    assert (np.rad2deg(g1[:, :14]) > card.state.upper[:14]).any(), "control: degrees would leave the ranges"


def test_g1_hands_are_before_the_chest(g1: np.ndarray) -> None:
    card = load_embodiment("unitree_g1_inspire")
    for side, sign in (("left", 1), ("right", -1)):
        position, rotation = tcp_poses(card, side, g1)
        lower, upper = np.array(card.arm(side).workspace)
        assert ((position > lower) & (position < upper)).all()
        assert (position[:, 0] > 0.1).all(), "in front of the torso"
        assert (sign * position[:, 1]).mean() > 0, "each on its own side"
        np.testing.assert_allclose(
            rotation @ np.swapaxes(rotation, 1, 2), np.eye(3)[None].repeat(len(g1), 0), atol=1e-9
        )
