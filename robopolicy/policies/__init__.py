"""Policy families, one file each. Nothing heavy is imported until a name below is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robopolicy.policies.loading import build_policy, load_policy

__all__ = ["build_policy", "load_policy"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from robopolicy.policies import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
