"""Tables of names of LeRobot recordings: complete, and numbers come out in the card's units."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from robopolicy.data.convert.lerobot_features import Feature
from robopolicy.data.convert.lerobot_names import FOLDER, known_names, map_channels
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import EmbodimentError
from robopolicy.registry import config_roots

TABLES = sorted(p.stem for root in config_roots() for p in Path(root, FOLDER).glob("*.yaml"))


def feature(names: list[str]) -> Feature:
    fields = {f.name: None for f in dataclasses.fields(Feature)}
    shape = (len(names),)
    return Feature(**{**fields, "key": "observation.state", "kind": "number", "shape": shape, "names": tuple(names)})


@pytest.mark.parametrize("card", TABLES)
def test_a_table_leads_to_every_channel_of_its_card(card: str) -> None:
    table = known_names(card)
    found = map_channels(load_embodiment(card), "state", feature(list(table)), {})
    assert sorted(found.order) == list(range(len(table)))
    with pytest.raises(EmbodimentError, match="no name leads to"):
        map_channels(load_embodiment(card), "state", feature(list(table)[1:]), {})


def test_degrees_and_percent_become_radians_and_shares() -> None:
    names = list(known_names("so101"))[::-1]
    found = map_channels(load_embodiment("so101"), "state", feature(names), {})
    out = found.apply(np.array([[50.0, 90.0, 0.0, 0.0, 0.0, -180.0]], np.float32), "deg")
    np.testing.assert_allclose(out, [[-np.pi, 0, 0, 0, np.pi / 2, 0.5]], atol=1e-6)


@pytest.mark.parametrize("wrong", [{"scale": 2.0}, 3, {"channel": "gripper", "scale": "much"}])
def test_an_entry_that_leads_nowhere_is_told(wrong: object) -> None:
    with pytest.raises(EmbodimentError, match=r"'gripper\.pos' leads nowhere"):
        map_channels(load_embodiment("so101"), "state", feature(list(known_names("so101"))), {"gripper.pos": wrong})
