"""What a task of the simulator is, and how one is built from its YAML."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, SimulationError, explain, suggest
from robopolicy.registry import registry

if TYPE_CHECKING:
    from robopolicy.protocols import Policy
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["BaseTask", "Task", "load_task"]


@runtime_checkable
class Task(Protocol):
    """Objects, initial states, success and expert of one task. Knows no particular robot.

    Derive from :class:`BaseTask`, which has a default for everything that not every task needs.

    Attributes:
        name: Registry name.
        instruction: One sentence, for language-conditioned policies; see :meth:`language`.
        horizon: Control steps after which an episode is cut off.
        hold_s: How long :meth:`success` has to stay true.
        environment_state_names: [E] names of the channels of :meth:`observe`.
        goal_names: [G] names of the channels of :meth:`goal`.
        physics_dt_s: Longest step of the physics that the task's contacts bear, None for the robot's own.
    """

    name: str
    instruction: str
    horizon: int
    hold_s: float
    environment_state_names: tuple[str, ...]
    goal_names: tuple[str, ...]
    physics_dt_s: float | None

    def model(self) -> mujoco.MjSpec:
        """The world without a robot: table top at z = 0, robot base frame at the world's origin."""
        ...

    def equip(self, spec: mujoco.MjSpec) -> None:
        """Put tools into the robot's hand: the robot is in ``spec`` by now, its TCP is the body ``robot/tcp``.

        Geoms on bodies whose names begin with ``robot/`` count as the robot's.
        """
        ...

    def bind(self, scene: Scene) -> None:
        """Look up the ids that the other methods need, once per compiled model."""
        ...

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """Joints that begin elsewhere than the card's home, by name."""
        ...

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Put the objects at a random start and return it by name. Draws from ``rng`` only.

        The robot stands at its start already. Everything that the task remembers of an episode begins anew here.
        """
        ...

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Privileged state, f32 [E]."""
        ...

    def language(self) -> str:
        """Instruction of the episode that :meth:`reset` began."""
        ...

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Goal of the episode, f32 [G]."""
        ...

    def show_goal(self, data: mujoco.MjData) -> None:
        """Put the objects where they are when the goal is reached, for a picture of it."""
        ...

    def tick(self, data: mujoco.MjData) -> None:
        """Called after every setpoint tick, before :meth:`success`: for what has to be added up over time."""
        ...

    def success(self, data: mujoco.MjData) -> bool:
        """The condition at this instant; the environment watches that it lasts ``hold_s``."""
        ...

    def failure(self, data: mujoco.MjData) -> str | None:
        """One word why the episode cannot succeed any more (``dropped``, ``force``), or None."""
        ...

    def metrics(self) -> dict[str, float]:
        """Figures of the episode so far, by name with unit (``peak_force_n``)."""
        ...

    def expert(self, env: Env) -> Policy:
        """A scripted policy for this task on the robot of ``env``."""
        ...


class BaseTask:
    """Defaults of :class:`Task` for a task without goals, running sums or early ends."""

    name = ""
    instruction = ""
    horizon = 200
    hold_s = 0.5
    environment_state_names: tuple[str, ...] = ()
    goal_names: tuple[str, ...] = ()
    physics_dt_s: float | None = None

    def equip(self, spec: mujoco.MjSpec) -> None:
        """An empty hand."""

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """The card's own."""
        return {}

    def language(self) -> str:
        """The same sentence in every episode."""
        return self.instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """None: f32 [0]."""
        return np.zeros(0, np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """Refused.

        Raises:
            SimulationError: the task has no goal to show.
        """
        raise SimulationError(explain(f"task '{self.name}' has no picture of its goal", mend="use the goal vector"))

    def tick(self, data: mujoco.MjData) -> None:
        """Nothing to add up."""

    def failure(self, data: mujoco.MjData) -> str | None:
        """Never."""
        return None

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}


def load_task(name: str, embodiment: str | None = None, **overrides: Any) -> Task:
    """Build a task from ``configs/task/<name>.yaml``.

    Args:
        name: Registry name.
        embodiment: Robot; what the YAML says for it under ``embodiments`` replaces the general parameters.
        overrides: Parameters that replace both.

    Raises:
        UnknownNameError: no such task.
        ConfigError: a parameter that the task does not have, or a robot that it is not offered on.
    """
    factory = registry("task").load(name)
    config = {k: v for k, v in registry("task").config(name).items() if k != "target"}
    offered = config.pop("embodiments", None)
    if embodiment is not None and offered is not None:
        if embodiment not in offered:
            raise ConfigError(
                explain(
                    f"task '{name}' is not offered on '{embodiment}'",
                    allowed=list(offered),
                    mend=suggest(embodiment, list(offered))
                    or f"add it under 'embodiments' in configs/task/{name}.yaml",
                )
            )
        config |= offered[embodiment] or {}
    config |= overrides
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
