"""Configuration: YAML composed by Hydra, ``key=value`` overrides, then one frozen dataclass.

::

    configs/train.yaml + recipe=pick_place/diffusion + out=runs/a  -> compose -> build -> TrainConfig

An override is either a choice (``recipe=pick_place/diffusion``: another file of that group) or a value
(``recipe.policy.horizon=8``, ``cameras=[front]``, ``+extra.key=1`` to add, ``~key`` to remove), in Hydra's grammar.
Hydra chooses and merges the files. The overrides are applied here, so that every faulty one can be named at once and
in one voice. Hydra is imported on the first call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.registry import config_roots, registry
from robopolicy.schema import build, build_collecting, fields_of, setting, to_dict

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["build", "compose", "load", "setting", "to_dict"]

T = TypeVar("T")


def compose(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose ``configs/<name>.yaml`` with overrides into plain containers, interpolations resolved.

    Args:
        name: Root configuration without suffix, for example ``train``.
        overrides: ``key=value`` in Hydra's grammar.

    Raises:
        ConfigError: every faulty override, and any YAML that cannot be composed.
    """
    mapping, problems = _compose(name, overrides, None)
    if problems:
        raise ConfigError(problems)
    return mapping


def load(cls: type[T], name: str, overrides: Sequence[str] = ()) -> T:
    """Compose and build in one step; faulty overrides and faulty values are reported together.

    Raises:
        ConfigError: all that is wrong with the configuration.
    """
    mapping, problems = _compose(name, overrides, cls)
    built, more = build_collecting(cls, mapping)
    # A key whose override was refused would be reported a second time as missing.
    refused = {p.split(":", 1)[0] for p in problems}
    problems += [p for p in more if p.split(":", 1)[0] not in refused]
    if problems:
        raise ConfigError(problems)
    return typing.cast(T, built)


def _compose(name: str, overrides: Sequence[str], cls: type | None) -> tuple[dict[str, Any], list[str]]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    problems: list[str] = []
    parsed = [p for p in (_parse(text, problems) for text in overrides) if p is not None]
    chosen: list[str] = []
    config, choices = _hydra(name, chosen)
    # A chosen recipe may bring groups of its own into reach, so choices are settled in rounds.
    waiting = list(parsed)
    while ready := [p for p in waiting if p.get_key_element() in choices and not isinstance(p.value(), dict)]:
        waiting = [p for p in waiting if p not in ready]
        chosen += [p.input_line for p in ready if _option_exists(p, problems)]
        config, choices = _hydra(name, chosen)
    OmegaConf.set_struct(config, False)
    for override in waiting:
        try:
            _apply(config, override, cls, choices, problems)
        except OmegaConfBaseException as error:
            problems.append(
                f"{override.key_or_group}: " + explain("cannot be set", given=override.input_line, mend=_line(error))
            )
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)), problems
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", "") or name
        problems.append(f"{where}: " + explain("interpolation cannot be resolved", given=_line(error)))
        raise ConfigError(problems) from error


def _parse(text: str, problems: list[str]) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key = text.split("=", 1)[0].lstrip("+~")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        mend = f"write {key}=VALUE" if "=" not in text else "quote special characters, for example key='\"a, b\"'"
        detail = f"cannot be read ({_line(error)})" if "=" in text else "is not key=value"
        problems.append(f"{key}: " + explain(f"override {detail}", given=text, mend=mend))
        return None
    if override.is_sweep_override():
        problems.append(f"{key}: " + explain("one value expected", given=text, mend=f"for a list write {key}=[a,b]"))
        return None
    return override


def _hydra(name: str, chosen: list[str]) -> tuple[DictConfig, Mapping[str, str]]:
    """Compose with choices only. Returns the config and the groups that can be chosen in it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    roots = _roots()
    if not any((root / f"{name}.yaml").is_file() for root in roots):
        known = sorted({p.stem for root in roots for p in root.glob("*.yaml")})
        raise ConfigError(explain("no such configuration", given=name, allowed=known, mend=suggest(name, known)))
    try:
        with (
            warnings.catch_warnings(),
            _primary(name, roots) as first,
            initialize_config_dir(first, version_base="1.3"),
        ):
            extra = ", ".join("'" + str(root).replace("'", "\\'") + "'" for root in roots if str(root) != first)
            warnings.simplefilter("ignore")
            searched = [f"hydra.searchpath=[{extra}]"] if extra else []
            config = hydra_compose(name, overrides=[*searched, *chosen], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        mend = "check the defaults list and the syntax of that YAML"
        raise ConfigError(explain(f"{name}.yaml cannot be composed", given=_line(error), mend=mend)) from error
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    for folder in name.split("/")[:-1]:  # Hydra puts a configuration from a folder below the folder's name
        config = config.get(folder, config)
    return config, {k: v for k, v in choices.items() if not k.startswith("hydra/")}


@contextlib.contextmanager
def _primary(name: str, roots: Sequence[Path]) -> Iterator[str]:
    """The folder that Hydra starts from. Hydra wants the root configuration in the very first folder that it searches;
    where a user's own folder has none of that name, a copy is put before it, so that the own folder still comes before
    the packaged one in everything else.
    """
    if (roots[0] / f"{name}.yaml").is_file():
        yield str(roots[0])
        return
    found = next(path for root in roots if (path := root / f"{name}.yaml").is_file())
    with tempfile.TemporaryDirectory(prefix="robopolicy-config-") as folder:
        copy = Path(folder) / f"{name}.yaml"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(found.read_bytes())
        yield folder


def _roots() -> list[Path]:
    roots = [root.absolute() for root in config_roots()]
    for root in roots:
        if not root.is_dir():
            mend = "create it, or correct ROBOPOLICY_CONFIG_PATH"
            raise ConfigError(explain("configuration folder not found", given=root, mend=mend))
    return roots


def _option_exists(override: Any, problems: list[str]) -> bool:
    group, option = override.key_or_group, override.value()
    known = registry(group).names()
    if isinstance(option, str) and option in known:
        return True
    text = explain(f"no {group} of that name", given=option, allowed=known, mend=suggest(str(option), known))
    problems.append(f"{override.get_key_element()}: {text}")
    return False


def _apply(config: DictConfig, override: Any, cls: type | None, choices: Iterable[str], problems: list[str]) -> None:
    from omegaconf import OmegaConf

    key = override.key_or_group
    if not (override.is_add() or override.is_force_add() or _exists(config, cls, key)):
        known = _siblings(config, cls, key, choices)
        mend = suggest(key, known) or f"write +{key}=... if the key is meant to be new"
        problems.append(f"{key}: " + explain("unknown key", given=override.input_line, allowed=known, mend=mend))
        return
    if override.is_delete():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        node.pop(last, None)
        return
    OmegaConf.update(config, key, override.value(), merge=not isinstance(override.value(), dict), force_add=True)


def _exists(config: DictConfig, cls: type | None, key: str) -> bool:
    """Whether ``key`` stands in the YAML or is known to the dataclass that will be built."""
    from omegaconf import OmegaConf

    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
    # `in` would answer no for a key that is still "???".
    if OmegaConf.is_dict(node) and last in node.keys():  # noqa: SIM118
        return True
    names, is_open = _schema_names(cls, parent)
    return is_open or last in names


def _siblings(config: DictConfig, cls: type | None, key: str, choices: Iterable[str]) -> list[str]:
    from omegaconf import OmegaConf

    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent, throw_on_missing=False) if parent else config
    prefix = f"{parent}." if parent else ""
    names = {*(map(str, node) if OmegaConf.is_dict(node) else ()), *_schema_names(cls, parent)[0]}
    return sorted({*(prefix + n for n in names), *(() if parent else choices)})


def _schema_names(cls: type | None, parent: str) -> tuple[list[str], bool]:
    """Fields of the dataclass at the dotted path, and whether any key may be added there (a mapping of anything)."""
    hint: Any = cls
    for part in filter(None, parent.split(".")):
        inner = [hint, *typing.get_args(hint)] if typing.get_origin(hint) not in (dict, Mapping) else [hint]
        classes = [t for t in inner if dataclasses.is_dataclass(t) and isinstance(t, type)]
        if classes:
            hint = fields_of(classes[0]).get(part, (None, None))[1]
        elif typing.get_origin(hint) in (dict, Mapping):
            hint = typing.get_args(hint)[1]
        elif hint is not Any:
            return [], False
    if hint is Any or hint is dict or typing.get_args(hint)[1:] == (Any,):
        return [], hint is not None
    inner = [hint, *typing.get_args(hint)] if typing.get_origin(hint) not in (dict, Mapping) else []
    classes = [t for t in inner if dataclasses.is_dataclass(t) and isinstance(t, type)]
    return (list(fields_of(classes[0])) if classes else []), False


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
