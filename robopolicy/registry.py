"""Registries: a name finds its code through one YAML file, without importing anything else.

A registry is a group of YAML files (``configs/<group>/**.yaml``), each with a ``target: module:attr`` line.
Adding an entry is one Python file and one YAML; no list is edited. Other people's packages add entries with
an entry point in the group ``robopolicy.<group>`` whose value is the same ``module:attr``, or with a folder of YAML
named in ``ROBOPOLICY_CONFIG_PATH`` (separated by ``os.pathsep``).
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml

from robopolicy.errors import ConfigError, UnknownNameError, explain, suggest

__all__ = ["GROUPS", "Registry", "benchmark_task", "config_roots", "load_target", "registry"]

GROUPS = ("policy", "task", "benchmark", "embodiment", "controller", "variant", "robot", "format", "recipe")
"""Config groups that are listed by ``robopolicy list``."""


def config_roots() -> list[Path]:
    """Folders searched for YAML, the user's own (``ROBOPOLICY_CONFIG_PATH``) before the packaged one."""
    own = [Path(p) for p in os.environ.get("ROBOPOLICY_CONFIG_PATH", "").split(os.pathsep) if p]
    return [*own, Path(str(resources.files("robopolicy.configs")))]


def load_target(target: str) -> Any:
    """Import ``module:attr``.

    Raises:
        ConfigError: the module or the attribute does not exist.
    """
    module, _, attribute = target.partition(":")
    if not attribute:
        raise ConfigError(explain("target without attribute", given=target, allowed="package.module:attribute"))
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise
        raise ConfigError(explain("target module not found", given=target, mend="check the YAML's target")) from error
    except AttributeError as error:
        raise ConfigError(explain("target attribute not found", given=target, mend=f"define it in {module}")) from error


@dataclass(frozen=True)
class Registry:
    """Named things of one group.

    Attributes:
        group: Folder below each config root, and suffix of the entry-point group.
    """

    group: str

    def names(self) -> list[str]:
        """All known names, sorted; a file ``a/b.yaml`` is named ``a/b``."""
        found = set(self._entry_points())
        for root in config_roots():
            folder = root / self.group
            found.update(str(p.relative_to(folder).with_suffix("").as_posix()) for p in folder.rglob("*.yaml"))
        return sorted(found)

    def path(self, name: str) -> Path:
        """The YAML file of ``name``.

        Raises:
            UnknownNameError: no such entry; the message lists what there is.
        """
        for root in config_roots():
            candidate = root / self.group / f"{name}.yaml"
            if candidate.is_file():
                return candidate
        known = self.names()
        raise UnknownNameError(
            explain(f"no {self.group} of that name", given=repr(name), allowed=known, mend=suggest(name, known))
        )

    def config(self, name: str) -> dict[str, Any]:
        """The YAML of ``name`` as a plain dict."""
        loaded = yaml.safe_load(self.path(name).read_text())
        if not isinstance(loaded, dict):
            raise ConfigError(explain(f"{self.path(name)} is not a mapping", given=type(loaded).__name__))
        return loaded

    def load(self, name: str) -> Any:
        """Import the code behind ``name``.

        Raises:
            UnknownNameError: no such entry.
            ConfigError: its YAML has no usable ``target``.
        """
        entry = self._entry_points().get(name)
        if entry is not None:
            return entry.load()
        target = self.config(name).get("target")
        if not isinstance(target, str):
            raise ConfigError(explain(f"{self.path(name)} has no target", allowed="target: package.module:attribute"))
        return load_target(target)

    def _entry_points(self) -> dict[str, metadata.EntryPoint]:
        return {e.name: e for e in metadata.entry_points(group=f"robopolicy.{self.group}")}


@cache
def registry(group: str) -> Registry:
    """The registry of one group (``policy``, ``task``, ...)."""
    return Registry(group)


def benchmark_task(task: str) -> tuple[str, str] | None:
    """``metaworld/reach-v3`` as (benchmark, its own name of the task); None for a task of this project.

    Raises:
        UnknownNameError: neither a task nor ``<benchmark>/<task>``.
    """
    names = registry("task").names()
    benchmark, slash, inner = task.partition("/")
    if task in names:
        return None
    known = registry("benchmark").names()
    if slash and inner and benchmark in known:
        return benchmark, inner
    allowed = [*names, *(f"{name}/<task>" for name in known)]
    raise UnknownNameError(
        explain("no task of that name", given=repr(task), allowed=allowed, mend=suggest(task, names))
    )
