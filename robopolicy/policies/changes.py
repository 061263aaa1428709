"""Parameters of a trained policy that may be changed without training it again, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.schema import build, to_dict

__all__ = ["change_policy", "changed_config"]

T = TypeVar("T")


def changed_config(config: T, changes: Mapping[str, Any]) -> T:
    """A policy's configuration with some parameters otherwise.

    Args:
        config: Dataclass whose class attribute ``CHANGEABLE`` names the parameters that no weight depends on.
        changes: Parameters, nested as in the configuration; what a nested mapping leaves out stays.

    Raises:
        ConfigError: every parameter that may not be changed, is unknown or has a wrong value.
    """
    allowed: tuple[str, ...] = getattr(config, "CHANGEABLE", ())
    own = to_dict(config)
    refused = [name for name in changes if name not in allowed]
    if refused:
        raise ConfigError([_refusal(name, changes[name], own, allowed) for name in refused])
    return build(type(config), _laid_over(own, changes), where="policy")


def change_policy(policy: Any, changes: Mapping[str, Any], source: object) -> None:
    """Let a loaded policy act otherwise, see :func:`changed_config`.

    Args:
        policy: Any policy.
        changes: Parameters; none leaves it alone.
        source: Where it is from, for the message.

    Raises:
        ConfigError: as :func:`changed_config`, or a policy without such parameters.
    """
    if not changes:
        return
    change = getattr(policy, "change", None)
    if change is None:
        raise ConfigError(
            explain(
                f"the policy {source} has no parameters that can be changed after training",
                given=sorted(changes),
                mend="leave them out, or train a policy with these parameters",
            )
        )
    change(changes)


def _refusal(name: str, value: Any, own: Mapping[str, Any], allowed: tuple[str, ...]) -> str:
    if name not in own:
        text = explain("unknown parameter", given=value, allowed=allowed, mend=suggest(name, allowed))
    else:
        mend = f"train a policy with {name}={value}, or leave it out"
        what = "decides the weights or what they mean, so it cannot be changed after training"
        text = explain(what, given=value, allowed=allowed, mend=mend)
    return f"policy.{name}: {text}"


def _laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _laid_over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
