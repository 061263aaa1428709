"""Composition and building of configurations: every fault at once, in one voice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.config import build, compose, load, setting, to_dict
from robopolicy.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    width: int = setting("width", ge=1)
    mode: Literal["fast", "slow"] = "fast"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate_hz: float = setting("rate", gt=0)
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None
    latency_ms: float | tuple[float, ...] = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    out: Path = Path("runs")
    task: str | None = setting("task", default=None, registry="task")


GOOD: dict[str, Any] = {"inner": {"width": 3}, "rate_hz": 20}


def problems_of(mapping: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(Outer, mapping)
    return caught.value.problems


def test_build_fills_nested_frozen_dataclasses() -> None:
    built = build(Outer, {**GOOD, "names": ["a", "b"], "latency_ms": [0, 50], "out": "x/y", "extra": {"k": [1]}})
    assert built.inner == Inner(3)
    assert built.rate_hz == 20.0
    assert isinstance(built.rate_hz, float)
    assert (built.names, built.latency_ms, built.out) == (("a", "b"), (0.0, 50.0), Path("x/y"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.rate_hz = 1.0  # type: ignore[misc]


def test_all_problems_are_reported_together() -> None:
    found = problems_of({"inner": {"widht": 3}, "rate_hz": "fast", "limit": "x", "names": "abc", "rat": 1})
    text = "\n".join(found)
    for part in ("inner.widht: unknown key", "did you mean 'width'?", "inner.width: missing", "rate_hz: wrong type"):
        assert part in text
    for part in ("limit: wrong type", "names: wrong type", "rat: unknown key"):
        assert part in text
    assert len(found) == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inner": {"width": 0}}, "inner.width: out of bounds; given: 0; allowed: at least 1"),
        ({"inner": {"width": 1.5}}, "inner.width: wrong type"),
        ({"inner": {"width": True}}, "inner.width: wrong type"),
        ({"inner": {"width": "???"}}, "inner.width: missing"),
        ({"inner": {"width": 1, "mode": "fats"}}, "did you mean 'fast'?"),
        ({"inner": 3}, "inner: wrong type"),
        ({"rate_hz": 0}, "rate_hz: out of bounds"),
        ({"rate_hz": float("nan")}, "rate_hz: out of bounds"),
        ({"pair": [1, 2, 3]}, "pair: wrong length"),
        ({"pair": [1, "x"]}, "pair[1]: wrong type"),
        ({"names": ["a", 3]}, "names[1]: wrong type"),
        ({"extra": [1]}, "extra: wrong type"),
        ({"task": "pick_plaec"}, "did you mean 'pick_place'?"),
    ],
)
def test_each_fault_names_its_dotted_path(change: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems_of({**GOOD, **change}))


def test_scalars_are_not_converted_across_kinds() -> None:
    assert build(Outer, {**GOOD, "limit": 1e3}).limit == 1000
    assert type(build(Outer, {**GOOD, "latency_ms": 3}).latency_ms) is float
    for wrong in ("3", 3.5, True, float("inf"), float("nan")):
        assert "limit: wrong type" in "\n".join(problems_of({**GOOD, "limit": wrong}))


def test_faults_of_the_dataclass_itself_join_the_others() -> None:
    @dataclass(frozen=True)
    class Checked:
        low: int
        high: int

        def __post_init__(self) -> None:
            if self.low >= self.high:
                raise ConfigError(["low must be below high"])

    globals()["Checked"] = Checked
    with pytest.raises(ConfigError, match="span: low must be below high"):
        build(Checked, {"low": 3, "high": 1}, where="span")


@given(
    width=st.integers(1, 1000),
    rate_hz=st.floats(1e-3, 1e6),
    names=st.lists(st.text(max_size=5), max_size=4),
    limit=st.none() | st.integers(-10, 10),
)
def test_to_dict_is_the_inverse_of_build(width: int, rate_hz: float, names: list[str], limit: int | None) -> None:
    built = build(Outer, {"inner": {"width": width}, "rate_hz": rate_hz, "names": names, "limit": limit})
    assert build(Outer, to_dict(built)) == built


@pytest.fixture
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "it's mine"
    (root / "recipe" / "mine").mkdir(parents=True)
    (root / "recipe" / "mine" / "a.yaml").write_text("width: 3\nname: a\n")
    (root / "recipe" / "mine" / "b.yaml").write_text("defaults: [{flavour: plain}]\nwidth: 4\nname: b\n")
    (root / "recipe" / "flavour").mkdir()
    (root / "recipe" / "flavour" / "plain.yaml").write_text("salt: 0\n")
    (root / "recipe" / "flavour" / "salty.yaml").write_text("salt: 1\n")
    (root / "job.yaml").write_text(
        "defaults: [{recipe: mine/a}, _self_]\nout: ???\ndouble: ${recipe.width}\nlist: [1, 2]\ntask: pick_place\n"
    )
    monkeypatch.setenv("ROBOPOLICY_CONFIG_PATH", str(root))
    return root


def test_compose_chooses_files_and_sets_values(own_root: Path) -> None:
    found = compose("job", ["recipe=mine/b", "recipe.width=7", "out=x", "list=[a,'b c']", "+new.key=1", "task=other"])
    assert found["recipe"]["name"] == "b"
    assert found["double"] == 7
    assert (found["out"], found["list"], found["new"], found["task"]) == ("x", ["a", "b c"], {"key": 1}, "other")


def test_a_group_that_the_chosen_file_brings_can_be_chosen_too(own_root: Path) -> None:
    assert compose("job", ["recipe=mine/b"])["recipe"]["flavour"] == {"salt": 0}
    assert compose("job", ["recipe/flavour=salty", "recipe=mine/b"])["recipe"]["flavour"] == {"salt": 1}
    with pytest.raises(ConfigError, match="did you mean 'salty'"):
        compose("job", ["recipe=mine/b", "recipe/flavour=salti"])
    with pytest.raises(ConfigError, match="recipe/flavour: unknown key"):
        compose("job", ["recipe=mine/a", "recipe/flavour=salty"])


def test_several_bad_overrides_are_reported_together(own_root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compose("job", ["recipe=mine/c", "recipe.widht=3", "oout=1", "list=a,b", "alone", "x=[1"])
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for part in ("no recipe of that name", "did you mean 'recipe.width'?", "did you mean 'out'?"):
        assert part in text
    for part in ("for a list write list=[a,b]", "alone: override is not key=value", "x: override cannot be read"):
        assert part in text
    assert "hydra" not in text.lower()


def test_bad_overrides_and_bad_values_are_reported_together(own_root: Path) -> None:
    @dataclass(frozen=True)
    class Recipe:
        width: int
        name: str
        depth: int = 2

    @dataclass(frozen=True)
    class Job:
        recipe: Recipe
        out: str
        double: int
        list: tuple[int, ...]
        task: str

    globals().update(Recipe=Recipe, Job=Job)
    good = load(Job, "job", ["out=x", "recipe.depth=5"])
    assert good.recipe.depth == 5, "a field of the dataclass that the YAML leaves out can be set"
    with pytest.raises(ConfigError) as caught:
        load(Job, "job", ["recipe.dept=3", "recipe.width=wide"])
    assert [p.split(":")[0] for p in caught.value.problems] == ["recipe.dept", "recipe.width", "out", "double"]


def test_removing_and_replacing(own_root: Path) -> None:
    found = compose("job", ["~double", "recipe={width: 9}"])
    assert "double" not in found
    assert found["recipe"] == {"width": 9}


def test_broken_interpolation_and_broken_yaml_are_our_errors(own_root: Path) -> None:
    with pytest.raises(ConfigError, match="interpolation"):
        compose("job", ["out=${nowhere}"])
    (own_root / "recipe" / "mine" / "a.yaml").write_text("width: [1\n")
    with pytest.raises(ConfigError, match=r"job\.yaml cannot be composed"):
        compose("job")


def test_unknown_root_and_missing_folder(own_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'collect'"):
        compose("colect")
    monkeypatch.setenv("ROBOPOLICY_CONFIG_PATH", str(own_root / "gone"))
    with pytest.raises(ConfigError, match="ROBOPOLICY_CONFIG_PATH"):
        compose("collect")


@dataclass(frozen=True)
class Stage:
    steps: int
    batch_size: int = 4
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    stages: dict[str, Stage]


def test_keys_below_a_mapping_of_stages(own_root: Path) -> None:
    (own_root / "plan.yaml").write_text("stages: {policy: {steps: 3}}\n")
    plan = load(Plan, "plan", ["stages.policy.batch_size=8", "stages.policy.parameters.net.down=[1,2]"])
    assert plan.stages["policy"] == Stage(3, 8, {"net": {"down": [1, 2]}})
    with pytest.raises(ConfigError, match=r"did you mean 'stages.policy.batch_size'"):
        load(Plan, "plan", ["stages.policy.batchsize=8"])
