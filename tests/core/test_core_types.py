"""Chunks in absolute time, seeds, errors, registries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy import errors
from robopolicy.errors import ConfigError, NonFiniteError, RobopolicyError, ShapeError, UnknownNameError
from robopolicy.registry import GROUPS, load_target, registry
from robopolicy.seeding import generator
from robopolicy.types import ActionChunk

DT = 0.05


def counter_chunk(n: int = 6, t0_ns: int = 1_000_000_000) -> ActionChunk:
    return ActionChunk(np.arange(n, dtype=float)[:, None], t0_ns, DT, "hash", horizon=4)


def test_first_value_is_reached_one_step_after_the_observation():
    chunk = counter_chunk()
    assert chunk.time_ns[0] - chunk.t0_ns == 50_000_000
    assert chunk.at(chunk.t0_ns + 50_000_000)[0] == 0.0
    assert chunk.at(chunk.t0_ns + 125_000_000)[0] == pytest.approx(1.5)


def test_at_holds_both_ends():
    chunk = counter_chunk()
    assert chunk.at(0)[0] == 0.0
    assert chunk.at(10**12)[0] == 5.0


@given(st.integers(0, 400_000_000))
def test_after_keeps_absolute_times(offset):
    chunk = counter_chunk()
    now = chunk.t0_ns + offset
    rest = chunk.after(now)
    expected = chunk.time_ns[chunk.time_ns > now]
    if rest is None:
        assert len(expected) == 0
    else:
        np.testing.assert_array_equal(rest.time_ns, expected)
        np.testing.assert_array_equal(rest.values[:, 0], np.arange(6)[chunk.time_ns > now])
        assert rest.horizon == max(0, 4 - (6 - len(expected)))


def test_chunk_refuses_bad_shapes_and_nan():
    with pytest.raises(ShapeError):
        ActionChunk(np.zeros(3), 0, DT, "h")
    with pytest.raises(ShapeError):
        ActionChunk(np.zeros((0, 3)), 0, DT, "h")
    with pytest.raises(ShapeError):
        ActionChunk(np.zeros((2, 3)), 0, 0.0, "h")
    with pytest.raises(ShapeError):
        ActionChunk(np.zeros((2, 3)), 0, DT, "h", valid=np.ones(3, bool))
    with pytest.raises(NonFiniteError):
        ActionChunk(np.full((2, 3), np.nan), 0, DT, "h").at(0)


def test_generators_depend_on_their_words_only():
    a = generator("task", "panda", 3).random(4)
    generator("other").random(100)
    np.testing.assert_array_equal(a, generator("task", "panda", 3).random(4))
    for other in (generator("task", "panda", 4), generator("panda", "task", 3), generator("task", "panda", 3 + 2**32)):
        assert not np.array_equal(a, other.random(4))
    with pytest.raises(ValueError, match="non-negative"):
        generator(-1)


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error")])
def test_every_error_has_the_root(name):
    assert issubclass(getattr(errors, name), RobopolicyError)


def test_config_error_lists_all_problems():
    error = ConfigError(["first", "second"])
    assert "2 problems" in str(error)
    assert "first" in str(error)
    assert "second" in str(error)


@pytest.mark.parametrize("group", GROUPS)
def test_unknown_name_lists_what_there_is(group):
    with pytest.raises(UnknownNameError, match=group):
        registry(group).path("no_such_entry")


def test_targets_are_checked():
    assert load_target("robopolicy.seeding:generator") is generator
    with pytest.raises(ConfigError, match="without attribute"):
        load_target("robopolicy.seeding")
    with pytest.raises(ConfigError, match="not found"):
        load_target("robopolicy.nothing:x")
    with pytest.raises(ConfigError, match="not found"):
        load_target("robopolicy.seeding:nothing")


def test_own_folder_of_yaml_adds_entries(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("target: robopolicy.seeding:generator\n")
    monkeypatch.setenv("ROBOPOLICY_CONFIG_PATH", str(tmp_path))
    assert "mine" in registry("task").names()
    assert registry("task").load("mine") is generator
