"""What an adapter of a benchmark has to offer, and the helpers that adapters share. Standard library and numpy only."""

from __future__ import annotations

import abc
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Adapter", "Moment", "Spec", "forget_warnings", "package_versions", "require_stable", "seed_everything"]


@dataclass(frozen=True)
class Spec:
    """What one task looks like from outside.

    Attributes:
        state: [S] names of proprioception.
        environment_state: [E] names of object and goal state.
        action_lower: [A] lowest action.
        action_upper: [A] highest action.
        rest: [A] action of a channel that leaves the robot as it is; None keeps the last one sent.
        control_hz: Actions per second of simulated time.
        horizon: Steps after which the benchmark cuts an episode.
        instruction: One sentence.
        cameras: Names that :meth:`Adapter.render` knows.
        expert: Whether :meth:`Adapter.expert` answers.
    """

    state: tuple[str, ...]
    environment_state: tuple[str, ...]
    action_lower: tuple[float, ...]
    action_upper: tuple[float, ...]
    rest: tuple[float | None, ...]
    control_hz: float
    horizon: int
    instruction: str
    cameras: tuple[str, ...] = ()
    expert: bool = False


@dataclass(frozen=True)
class Moment:
    """What the benchmark shows after a reset or a step.

    Attributes:
        state: [S] proprioception.
        environment_state: [E] objects and goal.
        reward: Of the step, 0 after a reset.
        terminated: The benchmark ended the episode.
        truncated: It cut the episode.
        success: Its own verdict on this instant.
        initial_state: After a reset: what the episode began from, by name.
        rest: After a reset: [A] action that keeps the robot where it is.
        metrics: Further numbers of the benchmark.
    """

    state: np.ndarray
    environment_state: np.ndarray
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    initial_state: dict[str, float] = field(default_factory=dict)
    rest: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


class Adapter(abc.ABC):
    """One benchmark. An episode must be a function of (task, split, index, seed) and of nothing that ran before."""

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Name -> version of everything that decides a result."""
        ...

    @abc.abstractmethod
    def tasks(self) -> list[str]:
        """All task names."""
        ...

    @abc.abstractmethod
    def make(self, task: str, render_profile: str) -> Spec:
        """Build ``task``; a second call replaces the first.

        Raises:
            LookupError: no such task.
        """
        ...

    @abc.abstractmethod
    def reset(self, split: str, index: int, seed: int) -> Moment:
        """Start an episode.

        Args:
            split: ``train``, ``val`` or ``test``.
            index: Number inside the split.
            seed: Differs between any two episodes of any splits; below 2**31.
        """
        ...

    @abc.abstractmethod
    def step(self, action: np.ndarray) -> Moment:
        """Carry out one action, f64 [A].

        Raises:
            FloatingPointError: the physics diverged, which is the end of the episode and no fault of the process.
        """
        ...

    def expert(self) -> np.ndarray:
        """[A] what the benchmark's own expert does now.

        Raises:
            LookupError: the benchmark has none for this task.
        """
        raise LookupError("this benchmark has no expert for the task")

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """uint8 [H, W, 3], row 0 at the top.

        Raises:
            LookupError: no such camera.
        """
        raise LookupError(f"no camera '{camera}'")

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what is held."""
        ...


def forget_warnings(data: Any) -> None:
    """Before an episode in a MuJoCo simulation: none of its warnings is of this episode."""
    for warning in data.warning:
        warning.number = 0


def require_stable(data: Any) -> None:
    """Refuse a MuJoCo simulation that diverged: it resets itself then, and goes on as if nothing had been.

    Raises:
        FloatingPointError: a position, velocity or acceleration was not finite or huge since :func:`forget_warnings`.
    """
    import mujoco

    kinds = mujoco.mjtWarning
    for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC):
        if data.warning[int(kind)].number:
            raise FloatingPointError(f"the simulation diverged ({kind.name})")


def seed_everything(seed: int) -> None:
    """The generators that a benchmark may use behind its own back."""
    random.seed(seed)
    np.random.seed(seed % 2**32)


def package_versions(*names: str) -> dict[str, str]:
    """Versions of installed packages; those that are not installed are left out."""
    from importlib import metadata

    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
