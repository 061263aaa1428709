"""The five words behind ``import robopolicy as rp``; each imports what it needs when it is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robopolicy.data.store import EpisodeStore
    from robopolicy.embodiment import Embodiment
    from robopolicy.protocols import Policy
    from robopolicy.sim.env import Env

__all__ = ["compare", "evaluate", "load_policy", "make_env", "open_dataset"]


def open_dataset(path: str | os.PathLike[str]) -> EpisodeStore:
    """Open an episode store for reading.

    Args:
        path: Folder of the store, for example ``runs/pick.zarr``.

    Raises:
        StoreNotFoundError: there is none.
        DataError: broken, or of a newer schema.
    """
    from robopolicy.data.store import EpisodeStore

    return EpisodeStore.open(Path(path))


def load_policy(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    weights: str = "ema",
    embodiment: str | Embodiment | None = None,
    like: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Policy:
    """Rebuild a trained policy from a run or checkpoint directory, ready for ``act``.

    Args:
        path: For example ``runs/pick``.
        device: ``auto`` or a torch device.
        weights: ``ema`` (the averaged ones, to be run) or ``raw``.
        embodiment: Which robot, for a policy of several; name, content hash or card.
        like: Which of its robots lends its ranges to one that it was not trained for.
        overrides: Parameters to be changed that no weight depends on: ``{"sampler": {"kind": "heun", "steps": 5}}``.

    Raises:
        ConfigError: an override of a parameter that weights depend on.
        EmbodimentMismatchError: not trained for that robot, or for several and none is named.
        CheckpointError: none there, incomplete, cut or altered.
    """
    from robopolicy.policies.loading import load_policy as load

    return load(Path(path), device=device, weights=weights, embodiment=embodiment, like=like, overrides=overrides)


def make_env(task: str, embodiment: str | Embodiment, **settings: Any) -> Env:
    """A Gymnasium environment: one task on one robot.

    Args:
        task: Registry name, for example ``pick_place``.
        embodiment: Registry name, for example ``panda``, or a card.
        **settings: Keyword arguments of :class:`robopolicy.sim.env.Env`, for example ``cameras=("front",)``.

    Raises:
        UnknownNameError: no such task or embodiment.
    """
    from robopolicy.sim.env import make_env as make

    return make(task, embodiment, **settings)


def evaluate(
    policy: Policy | str | os.PathLike[str],
    task: str | None = None,
    *,
    episodes: Iterable[int] = range(100),
    **settings: Any,
) -> dict[str, Any]:
    """Roll a policy out on unseen episodes.

    Args:
        policy: A policy, a run directory, or a baseline (``expert``, ``null``, ``random``).
        task: Registry name; a run directory knows its own.
        episodes: Indices of the split ``test``.
        **settings: Keyword arguments of :func:`robopolicy.assess.evaluate`, for example ``out=``, ``workers=``.

    Returns:
        The content of report.json: ``success_rate``, ``wilson_95``, ``episodes`` ...
    """
    from robopolicy.assess import evaluate as assess

    return assess(os.fspath(policy) if isinstance(policy, os.PathLike) else policy, task, episodes=episodes, **settings)


def compare(
    dir_a: str | os.PathLike[str], dir_b: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Compare two evaluations on the same episodes with an exact paired test.

    Args:
        dir_a: Folder of the first report.
        dir_b: Folder of the second.
        out: Folder for compare.json and compare.html.

    Raises:
        DataError: the reports share no episode, or theirs began from different states.
    """
    from robopolicy.evaluation.compare import compare as run

    return run(dir_a, dir_b, out=out)
