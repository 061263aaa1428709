"""What a task of the simulator is, and how one is built from its YAML."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.registry import registry

if TYPE_CHECKING:
    from robopolicy.protocols import Policy
    from robopolicy.sim.env import Env

__all__ = ["Task", "load_task"]


@runtime_checkable
class Task(Protocol):
    """Objects, initial states, success and expert of one task. Knows no particular robot.

    Attributes:
        name: Registry name.
        instruction: One sentence, for language-conditioned policies.
        horizon: Control steps after which an episode is cut off.
        hold_s: How long :meth:`success` has to stay true.
        environment_state_names: [E] names of the channels of :meth:`observe`.
    """

    name: str
    instruction: str
    horizon: int
    hold_s: float
    environment_state_names: tuple[str, ...]

    def model(self) -> mujoco.MjSpec:
        """The world without a robot: table top at z = 0, robot base frame at the world's origin."""
        ...

    def bind(self, model: mujoco.MjModel, embodiment: Embodiment) -> None:
        """Look up the ids that the other methods need, once per compiled model."""
        ...

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Put the objects at a random start and return it by name. Draws from ``rng`` only."""
        ...

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Privileged state, f32 [E]."""
        ...

    def success(self, data: mujoco.MjData) -> bool:
        """The condition at this instant; the environment watches that it lasts ``hold_s``."""
        ...

    def expert(self, env: Env) -> Policy:
        """A scripted policy for this task on the robot of ``env``."""
        ...


def load_task(name: str, **overrides: Any) -> Task:
    """Build a task from ``configs/task/<name>.yaml``, with parameters replaced by ``overrides``.

    Raises:
        UnknownNameError: no such task.
        ConfigError: a parameter that the task does not have.
    """
    factory = registry("task").load(name)
    config = {k: v for k, v in registry("task").config(name).items() if k != "target"} | overrides
    known = [p for p in inspect.signature(factory).parameters if p != "name"]
    problems = [
        explain(f"task '{name}' has no parameter '{key}'", allowed=known, mend=suggest(key, known))
        for key in config
        if key not in known
    ]
    if problems:
        raise ConfigError(problems)
    task: Task = factory(**config)
    return task
