"""What is evaluated or run: a checkpoint, a baseline or a policy object, as a recipe that a worker can carry out."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.errors import ConfigError, EmbodimentMismatchError, explain, suggest
from robopolicy.registry import registry

if TYPE_CHECKING:
    from robopolicy.embodiment import Embodiment
    from robopolicy.embodiment_view import EmbodimentView
    from robopolicy.protocols import Policy
    from robopolicy.sim.env import Env

__all__ = ["EXPERT", "BaselinePolicy", "CheckpointPolicy", "PolicyObject", "Subject", "find_subject"]

EXPERT = "expert"
"""Name of the task's own scripted expert, beside the registered policies."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """Picklable recipe for a trained policy, carried out inside a worker.

    Attributes:
        path: Checkpoint directory.
        device: ``auto`` or a torch device.
        weights: ``ema`` or ``raw``.
        several: Whether it serves several robots, so that it has to be told which.
        like: Robot that lends its ranges to one that it was not trained for.
        overrides: Parameters that are otherwise than they were trained, see :mod:`robopolicy.policies.changes`.
    """

    path: str
    device: str = "auto"
    weights: str = "ema"
    several: bool = False
    like: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, env: Env) -> Policy:
        """Load it; the environment's embodiment is compared by whoever runs the episode."""
        from robopolicy.policies.loading import load_policy

        card = env.embodiment if self.several else None
        return load_policy(
            self.path,
            device=self.device,
            weights=self.weights,
            embodiment=card,
            like=self.like,
            overrides=self.overrides,
        )

    def on_gpu(self) -> bool:
        """Whether it will run on a CUDA device, where one process that holds it serves many simulators."""
        if not self.device.startswith(("auto", "cuda")):
            return False
        try:
            ctypes.CDLL("libcuda.so.1")  # without a driver there is no reason to load torch in this process
        except OSError:
            return False
        import torch

        return torch.cuda.is_available()


@dataclass(frozen=True)
class BaselinePolicy:
    """Picklable recipe for a policy without weights: the expert, or a registered one.

    Attributes:
        name: ``expert`` or a registry name.
    """

    name: str

    def __call__(self, env: Env) -> Policy:
        """Build it for the environment's task and robot."""
        if self.name == EXPERT:
            return env.task.expert(env)
        parameters = registry("policy").config(self.name).get("parameters", {})
        width = len(env.task.environment_state_names)
        builder = registry("policy").load(self.name)
        policy: Policy = builder(parameters, embodiment=env.embodiment, normalizer=None, environment_state=width)
        return policy


@dataclass(frozen=True)
class PolicyObject:
    """A policy that exists already; it is run in this process only.

    Attributes:
        policy: The object.
    """

    policy: Policy

    def __call__(self, env: Env) -> Policy:
        """The object itself, whatever the environment."""
        return self.policy


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: Policy family or baseline.
        factory: Builds the policy for an environment.
        embodiment: Card it was made for, None for a baseline, which fits any, and for a policy of several robots.
        task: Task it was trained on, None if unknown.
        checkpoint: Folder of the weights, None for a baseline.
        checkpoint_hash: Content hash of the checkpoint.
        seeds: Named seeds of its training.
        choice: How the checkpoint was chosen: ``last``, ``best`` (by validation loss) or ``named``; or None.
        views: Of a policy of several robots.
    """

    name: str
    factory: Callable[[Env], Policy]
    embodiment: Embodiment | None = None
    task: str | None = None
    checkpoint: str | None = None
    checkpoint_hash: str | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    choice: str | None = None
    views: tuple[EmbodimentView, ...] = ()

    def of(self, embodiment: str | Embodiment | None, like: str | None = None) -> Subject:
        """Itself, or, of a policy of several robots, what it is for the robot named.

        Args:
            embodiment: Name, content hash or card.
            like: Its robot that lends its ranges to one that is not among them.

        Raises:
            EmbodimentMismatchError: not among its robots, or none is named; those that are, are named. With ``like``:
                a robot that cannot borrow, or nothing that could lend.
        """
        if like is not None:
            return self._lent(embodiment, like)
        if not self.views:
            return self
        from robopolicy.embodiment_view import find_view

        view = self.views[find_view(self.views, embodiment, where=f"the policy {self.checkpoint or self.name}")]
        return replace(self, embodiment=view.embodiment, task=view.task or None, views=())

    def _lent(self, embodiment: str | Embodiment | None, like: str) -> Subject:
        from robopolicy.borrowed_view import borrow_view

        where, factory = f"the policy {self.checkpoint or self.name}", self.factory
        if not self.views or embodiment is None or not isinstance(factory, CheckpointPolicy):
            what = (
                "names no robot to lend to" if embodiment is None else "is not one of several robots: nothing to lend"
            )
            mend = "give embodiment=NAME, and a policy trained on a mixture"
            raise EmbodimentMismatchError(explain(f"{where} {what}", given=f"like={like}", mend=mend))
        _, view = borrow_view(self.views, embodiment, like, where=where)
        factory = replace(factory, like=like)
        return replace(self, factory=factory, embodiment=view.embodiment, task=view.task or None, views=())


def find_subject(
    policy: str | Path | Policy | None,
    *,
    device: str = "auto",
    weights: str = "ema",
    which: str = "last",
    overrides: Mapping[str, Any] | None = None,
) -> Subject:
    """What a user named: a run or checkpoint folder, a baseline, or a policy object.

    Args:
        policy: Folder, ``expert``, a registered name (None is ``null``), or an object with ``spec`` and ``act``.
        device: For a checkpoint.
        weights: For a checkpoint.
        which: ``last`` or ``best`` checkpoint of a run folder; ``runs/pick@best`` is another way to write it.
        overrides: Parameters of a checkpoint that shall be otherwise than they were trained; they become part of the
            subject's name, ``beso[guidance=1.5 sampler.kind=heun]``.

    Raises:
        ConfigError: neither a folder nor a known name; overrides of what is no checkpoint, or that its weights depend
            on.
        CheckpointError: a folder without a usable checkpoint.
    """
    if policy is None:
        policy = "null"
    found = _find(policy, device, weights, which)
    return _changed(found, overrides) if overrides else found


def _find(policy: str | Path | Policy, device: str, weights: str, which: str) -> Subject:
    if not isinstance(policy, (str, Path)):
        return Subject(type(policy).__name__, PolicyObject(policy), embodiment=policy.spec.embodiment)
    folder, at, chosen = str(policy).rpartition("@")
    if at and chosen in ("last", "best") and Path(folder).is_dir():
        return _checkpoint_subject(Path(folder), device, weights, chosen)
    if Path(policy).is_dir():
        return _checkpoint_subject(Path(policy), device, weights, which)
    known = [EXPERT, *registry("policy").names()]
    if str(policy) not in known:
        mend = suggest(str(policy), known) or "check the path of the run"
        raise ConfigError(explain("no such run, and no baseline of that name", given=policy, allowed=known, mend=mend))
    return Subject(str(policy), BaselinePolicy(str(policy)))


def _changed(subject: Subject, overrides: Mapping[str, Any]) -> Subject:
    """With other parameters; refused here, before any worker is started, if the policy does not bear them."""
    from robopolicy.policies.loading import check_overrides

    factory = subject.factory
    if not isinstance(factory, CheckpointPolicy):
        what = f"'{subject.name}' has no parameters that could be changed"
        raise ConfigError(explain(what, given=dict(overrides), allowed="a run or checkpoint folder"))
    check_overrides(factory.path, overrides)
    changed = " ".join(f"{name}={value}" for name, value in sorted(_leaves(overrides)))
    return replace(subject, name=f"{subject.name}[{changed}]", factory=replace(factory, overrides=dict(overrides)))


def _leaves(nested: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of everything in nested mappings."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def _checkpoint_subject(path: Path, device: str, weights: str, which: str) -> Subject:
    from robopolicy import checkpoint
    from robopolicy.embodiment import Embodiment
    from robopolicy.embodiment_view import stored_views

    found = checkpoint.find(path, which)
    stored = checkpoint.load(found)
    views = stored_views(stored.document("policy"))
    recipe, trainer = stored.documents.get("recipe", {}), stored.documents.get("trainer", {})
    stage = recipe.get("stages", {}).get(trainer.get("stage"), {})
    digest = hashlib.sha256((stored.path / checkpoint.MANIFEST).read_bytes()).hexdigest()[:16]
    return Subject(
        name=stage.get("policy", "policy"),
        factory=CheckpointPolicy(str(stored.path), device, weights, several=views is not None),
        embodiment=Embodiment.from_dict(stored.document("embodiment")) if views is None else None,
        task=stored.documents.get("data", {}).get("task") or None,
        checkpoint=str(stored.path),
        checkpoint_hash=digest,
        seeds={"train": recipe["seed"]} if "seed" in recipe else {},
        choice="named" if found == path else which,
        views=tuple(views or ()),
    )
