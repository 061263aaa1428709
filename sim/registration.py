"""Gymnasium ids ``robopolicy/<task>-<embodiment>``, one for every task and every embodiment that it is offered on."""

from __future__ import annotations

import gymnasium

from robopolicy.errors import UnknownNameError
from robopolicy.registry import registry

__all__ = ["environment_id", "offered_embodiments", "register_environments", "simulated_embodiments"]


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


def offered_embodiments(task: str) -> list[str]:
    """Embodiments in a task's YAML, or all that can be simulated when it names none."""
    try:
        offered = registry("task").config(task).get("embodiments")
    except UnknownNameError:
        offered = None  # an entry point of another package, which need not have a YAML
    return list(offered) if offered is not None else simulated_embodiments()


def environment_id(task: str, embodiment: str) -> str:
    """The Gymnasium id of a pair: ``robopolicy/pick_place-panda``."""
    return f"robopolicy/{task}-{embodiment}"


def register_environments() -> list[str]:
    """Register every pair that Gymnasium does not know yet; ``gymnasium.make`` imports the code behind an id."""
    ids = []
    simulated = set(simulated_embodiments())
    for task in registry("task").names():
        for embodiment in offered_embodiments(task):
            if embodiment not in simulated:
                continue
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
