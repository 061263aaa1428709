"""Gymnasium ids ``robopolicy/<task>-<embodiment>``, one for every task and every embodiment that can be simulated."""

from __future__ import annotations

import gymnasium

from robopolicy.errors import UnknownNameError
from robopolicy.registry import registry

__all__ = ["environment_id", "register_environments", "simulated_embodiments"]


def simulated_embodiments() -> list[str]:
    """Names of the cards with a ``simulation`` entry, read as text: this runs whenever the package is imported."""
    found = []
    for name in registry("embodiment").names():
        try:
            text = registry("embodiment").path(name).read_text(encoding="utf-8")
        except UnknownNameError:
            continue  # an entry point of another package, which need not have a YAML
        if any(line.startswith("simulation:") for line in text.splitlines()):
            found.append(name)
    return found


def environment_id(task: str, embodiment: str) -> str:
    """The Gymnasium id of a pair: ``robopolicy/pick_place-panda``."""
    return f"robopolicy/{task}-{embodiment}"


def register_environments() -> list[str]:
    """Register every pair that Gymnasium does not know yet; ``gymnasium.make`` imports the code behind an id."""
    ids = []
    for task in registry("task").names():
        for embodiment in simulated_embodiments():
            name = environment_id(task, embodiment)
            if name not in gymnasium.registry:
                gymnasium.register(
                    name,
                    entry_point="robopolicy.sim.env:Env",
                    kwargs={"task": task, "embodiment": embodiment},
                    order_enforce=True,
                )
            ids.append(name)
    return ids
