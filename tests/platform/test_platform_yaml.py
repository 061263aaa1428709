"""Every YAML of the project parses, begins with a command that exists, and composes or builds where it is used."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from robopolicy.cli.main import verbs
from robopolicy.config import compose, load
from robopolicy.embodiment import load_embodiment
from robopolicy.errors import ConfigError
from robopolicy.registry import registry
from robopolicy.schema import UNSET, fields_of
from robopolicy.training.recipe import Recipe

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
ROOT_FILES = sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def header_problem(text: str) -> str | None:
    first = text.partition("\n")[0]
    found = re.match(r"# robopolicy (\S+)", first)
    if found is None:
        return "the first line has to be '# robopolicy <command> ...'"
    return None if found.group(1) in verbs() else f"no such command: {found.group(1)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_yaml_parses_and_begins_with_the_command_that_runs_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    assert header_problem(text) is None


def test_the_header_check_catches_a_breach() -> None:
    assert header_problem("a: 1\n")
    assert header_problem("# robopolicy fly\na: 1\n")
    assert header_problem("# robopolicy list tasks\n") is None


def config_class(name: str) -> Any:
    return getattr(importlib.import_module(f"robopolicy.cli.{name}"), "CONFIG", None)


def required(cls: type, config: dict[str, Any]) -> list[str]:
    return [f"{key}=x" for key in fields_of(cls) if config.get(key) == UNSET]


@pytest.mark.parametrize("name", ROOT_FILES)
def test_root_file_builds_and_has_exactly_the_keys_of_its_command(name: str) -> None:
    cls = config_class(name)
    assert cls is not None, f"robopolicy/cli/{name}.py needs CONFIG, the dataclass of configs/{name}.yaml"
    config = compose(name)
    assert set(config) == set(fields_of(cls)), "the YAML holds every default, the dataclass every key"
    assert dataclasses.is_dataclass(load(cls, name, required(cls, config)))
    undocumented = [key for key, (field, _) in fields_of(cls).items() if not field.metadata.get("help")]
    assert not undocumented, f"made without setting(help): {undocumented}"


@pytest.mark.parametrize("name", registry("recipe").names())
def test_recipe_builds(name: str) -> None:
    recipe = load(config_class("train"), "train", [f"recipe={name}", "data=x", "out=y"]).recipe
    assert isinstance(recipe, Recipe)
    assert recipe.description
    with pytest.raises(ConfigError, match="did you mean"):
        load(config_class("train"), "train", [f"recipe={name}", "data=x", "out=y", "recipe.seeed=1"])


@pytest.mark.parametrize("name", registry("embodiment").names())
def test_embodiment_card_is_valid(name: str) -> None:
    assert load_embodiment(name).name == name


@pytest.mark.parametrize("group", ["policy", "task", "robot", "format"])
def test_targets_exist(group: str) -> None:
    for name in registry(group).names():
        found = registry(group).load(name)
        assert callable(found) or callable(getattr(found, "open", None)), f"{group} {name}"
