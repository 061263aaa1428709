"""Building a policy by name, and rebuilding one from a checkpoint alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robopolicy import checkpoint
from robopolicy.embodiment import Embodiment
from robopolicy.embodiment_view import find_view
from robopolicy.errors import CheckpointError, ConfigError, EmbodimentMismatchError, explain
from robopolicy.normalize import Normalizer
from robopolicy.policies.changes import change_policy
from robopolicy.policies.mixture import MixturePolicy
from robopolicy.protocols import Policy
from robopolicy.registry import load_target, registry

__all__ = [
    "build_policy",
    "check_overrides",
    "derived_ranges",
    "load_policy",
    "load_weights",
    "pick_device",
    "policy_parameters",
]


def build_policy(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    embodiment: Embodiment,
    normalizer: Normalizer | None = None,
    environment_state: int = 0,
) -> Any:
    """A fresh policy of a registered family.

    Args:
        name: Registry name (``diffusion``, ``null``, ``random``).
        parameters: Laid over the defaults of its YAML, nested mappings merged.
        embodiment: Card of the robot.
        normalizer: Needed by policies that learn.
        environment_state: Width E of the privileged state in the data, 0 for none.

    Raises:
        UnknownNameError: no such policy.
        ConfigError: faulty parameters.
    """
    builder = registry("policy").load(name)
    merged = policy_parameters(name, parameters)
    return builder(merged, embodiment=embodiment, normalizer=normalizer, environment_state=environment_state)


def derived_ranges(
    name: str,
    parameters: Mapping[str, Any] | None,
    embodiment: Embodiment,
    windows: Callable[[int, int], Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """What the policy's module asks for with a function of this name; nothing if it has none.

    Args:
        name: Registry name.
        parameters: As for :func:`build_policy`.
        embodiment: Card of the robot.
        windows: ``(To, Tp) -> {state, action, action_mask}`` over the training windows.
    """
    module = sys.modules[registry("policy").load(name).__module__]
    asked = getattr(module, "derived_ranges", None)
    return {} if asked is None else asked(policy_parameters(name, parameters), embodiment, windows)


def policy_parameters(name: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """``parameters`` laid over the defaults of the policy's YAML."""
    return _merge(registry("policy").config(name).get("parameters", {}), parameters or {})


def load_policy(
    path: str | Path,
    *,
    device: str = "auto",
    weights: str = "ema",
    which: str = "last",
    embodiment: str | Embodiment | None = None,
    like: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Policy:
    """Rebuild a trained policy from a checkpoint; nothing else is read.

    Args:
        path: A run directory or a checkpoint directory.
        device: ``auto``, or a torch device.
        weights: ``ema`` (what should be run) or ``raw``.
        which: ``last`` or ``best`` checkpoint of a run directory.
        embodiment: Name, content hash or card. A policy of several robots has to be told which one it drives.
        like: Of a policy of several robots: the one that lends its ranges to a robot that it was not trained for; see
            :mod:`robopolicy.borrowed_view`.
        overrides: Parameters that shall be otherwise than they were trained, nested as in the configuration:
            ``{"sampler": {"kind": "heun", "steps": 5}}``. Only those that no weight depends on, see
            :mod:`robopolicy.policies.changes`.

    Raises:
        ConfigError: an override of anything else.
        EmbodimentMismatchError: it was not trained for that embodiment, or serves several and none is named.
        CheckpointError: absent, incomplete, cut, altered, of a newer format, or its weights do not fit the policy.
        DataError: its normaliser does not fit the embodiment.
    """
    files = {"ema": "ema", "raw": "weights"}
    if weights not in files:
        raise ConfigError(explain("unknown kind of weights", given=weights, allowed=tuple(files)))
    stored = checkpoint.load(checkpoint.find(Path(path), which))
    policy = _rebuilt(stored)
    load_weights(policy, stored.tensors(files[weights]), stored.path / f"{files[weights]}.safetensors")
    policy = policy.to(pick_device(device)).eval().requires_grad_(False)
    change_policy(policy, overrides or {}, path)
    if like is not None and (not isinstance(policy, MixturePolicy) or embodiment is None):
        what = "names no robot to lend to" if embodiment is None else "is one of a single robot, which lends nothing"
        raise EmbodimentMismatchError(
            explain(f"the policy {path} {what}", given=f"like={like}", mend="embodiment=NAME, and train on a mixture")
        )
    if isinstance(policy, MixturePolicy):
        if like is not None and embodiment is not None:
            lent: Policy = policy.bind(embodiment, like)
            return lent
        index = find_view(policy.views, embodiment, where=f"the policy {path}")
        bound: Policy = policy.bind(policy.views[index].embodiment)
        return bound
    if embodiment is not None:
        _require(policy.spec.embodiment, embodiment, path)
    loaded: Policy = policy
    return loaded


def check_overrides(path: str | Path, overrides: Mapping[str, Any]) -> None:
    """Refuse what :func:`load_policy` would refuse, without reading the weights.

    Args:
        path: A checkpoint directory.
        overrides: As for :func:`load_policy`.

    Raises:
        ConfigError: every parameter that may not be changed or has a wrong value.
    """
    change_policy(_rebuilt(checkpoint.load(Path(path))), overrides, path)


def _rebuilt(stored: checkpoint.Checkpoint) -> Any:
    """The policy of a checkpoint, with fresh weights."""
    description = stored.document("policy")
    return load_target(description["target"])(
        description["parameters"],
        embodiment=Embodiment.from_dict(stored.document("embodiment")),
        normalizer=Normalizer.from_dict(stored.document("normalizer")),
        environment_state=int(description["environment_state"]),
    )


def _require(own: Embodiment, wanted: str | Embodiment, path: str | Path) -> None:
    if isinstance(wanted, Embodiment):
        own.require_same(wanted, mine=f"the policy {path}", theirs="the embodiment asked for")
    elif wanted not in (own.name, own.hash):
        raise EmbodimentMismatchError(
            explain(
                f"the policy {path} is for '{own.name}' ({own.hash})",
                given=wanted,
                mend="leave embodiment out, or load a policy of that robot",
            )
        )


def load_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: object) -> None:
    """Copy tensors into a module, every one of them and no other.

    Raises:
        CheckpointError: missing, unexpected or misshapen tensors, named.
    """
    own = module.state_dict()
    missing, unexpected = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    misshapen = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            explain(
                f"{source} does not fit the policy: missing {_some(missing)}, unexpected {_some(unexpected)}, "
                f"of another shape {_some(misshapen)}",
                mend="load it with the version and the parameters that wrote it",
            )
        )
    module.load_state_dict(dict(tensors), strict=True)


def pick_device(device: str) -> torch.device:
    """``auto`` is the first of cuda, mps, cpu that works.

    Raises:
        ConfigError: an unknown or absent device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(explain("device not usable", given=device, allowed="auto, cpu, cuda, mps")) from error
    return chosen


def _some(names: list[str]) -> str:
    return str(names[:3])[:-1] + f", ... {len(names)} in all]" if len(names) > 3 else str(names)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
