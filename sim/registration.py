"""Gymnasium ids ``robopolicy/<task>-<embodiment>``, one for every pair of registered task and embodiment."""

from __future__ import annotations

import gymnasium

from robopolicy.registry import registry

__all__ = ["environment_id", "register_environments"]


def environment_id(task: str, embodiment: str) -> str:
    """The Gymnasium id of a pair: ``robopolicy/pick_place-panda``."""
    return f"robopolicy/{task}-{embodiment}"


def register_environments() -> list[str]:
    """Register every pair that Gymnasium does not know yet; ``gymnasium.make`` imports the code behind an id."""
    ids = []
    for task in registry("task").names():
        for embodiment in registry("embodiment").names():
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
