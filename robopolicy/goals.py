"""What the goal of a goal-conditioned policy consists of, and where training takes it from.

A goal means the same in training and in execution because its entries are taken by name in both::

    training    hindsight   entries ``names`` of environment_state at a later row of the same episode
                            frames of ``cameras`` at that row
                recorded    entries ``names`` of the recorded stream ``goal``
                            pictures of ``cameras`` in the metadata of the episode
    execution               entries ``names`` of the observation's goal (in simulation: of the task's ``goal_names``)
                            pictures of ``cameras`` (in simulation: the scene as it is when the goal is reached)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robopolicy.errors import ConfigError, explain, suggest

__all__ = ["GoalConfig", "goal_cameras", "goal_names", "goal_width", "positions"]


@dataclass(frozen=True)
class GoalConfig:
    """Parameter ``goal`` of a policy.

    Attributes:
        names: [G] entries that make up the goal, in this order.
        cameras: Cameras whose picture of the goal is read, in this order; beside the entries, or instead of them.
        source: ``hindsight``: what was reached later in the same episode (Andrychowicz et al. 2017, arXiv 1707.01495;
            for play data Lynch et al. 2019, arXiv 1903.01973); ``recorded``: what the store says was wanted.
        future: Least and most steps ahead of a hindsight goal; near the end of an episode what is left of them.
        draws: Hindsight goals per window: the data set has that many times the windows.
        difference: The policy also sees by how much each entry differs from the last observation. What has to change is
            a comparison, and most networks see the goal through one linear layer, which cannot compare. Entries must be
            named in ``environment_names`` too.
    """

    names: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    source: Literal["hindsight", "recorded"] = "hindsight"
    future: tuple[int, int] = (1, 100)
    draws: int = 1
    difference: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not (self.names or self.cameras):
            problems.append(
                explain(
                    "a goal needs at least one entry in goal.names or one camera in goal.cameras",
                    mend="name channels of environment_state that are in the task's goal too, or a camera, "
                    "or set goal=0",
                )
            )
        for key, named in (("names", self.names), ("cameras", self.cameras)):
            if len(set(named)) != len(named):
                problems.append(explain(f"goal.{key} names each once", given=list(named)))
        if not 1 <= self.future[0] <= self.future[1]:
            problems.append(explain("goal.future needs 1 <= least <= most", given=list(self.future)))
        if self.draws < 1 or (self.draws > 1 and self.source == "recorded"):
            problems.append(
                explain(
                    "goal.draws counts hindsight goals per window",
                    given=f"draws={self.draws} source={self.source}",
                    allowed="1 or more; 1 for recorded goals",
                )
            )
        if problems:
            raise ConfigError(problems)

    @property
    def width(self) -> int:
        """G."""
        return len(self.names)


def goal_width(goal: int | GoalConfig) -> int:
    """G of a policy's parameter ``goal``: a plain number is the width of a recorded goal that is taken as it is."""
    return goal if isinstance(goal, int) else goal.width


def goal_names(goal: int | GoalConfig) -> tuple[str, ...]:
    """Names of its entries, () where it is taken as it is."""
    return () if isinstance(goal, int) else goal.names


def goal_cameras(goal: int | GoalConfig) -> tuple[str, ...]:
    """Cameras whose picture of the goal is read, () for none."""
    return () if isinstance(goal, int) else goal.cameras


def positions(wanted: Sequence[str], have: Sequence[str], where: str, error: type[Exception]) -> list[int]:
    """Where the entries ``wanted`` are among those that there are.

    Args:
        wanted: Names.
        have: Names of all entries.
        where: What holds them, for the message.
        error: What is raised where one is absent; all that are, are named.
    """
    absent = [name for name in wanted if name not in have]
    if absent:
        mend = suggest(absent[0], have) or "name entries that it has, or use data or a task that have these"
        raise error(explain(f"{where} has no entries {absent}", allowed=list(have), mend=mend))
    return [list(have).index(name) for name in wanted]
