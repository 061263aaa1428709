"""Learning of robot-manipulation policies: from demonstrations to a moving arm, through one control path.

Five words, imported only when used, so that ``import robopolicy`` costs nothing:

>>> import robopolicy as rp
>>> sorted(rp.__all__)
['compare', 'evaluate', 'load_policy', 'make_env', 'open_dataset']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robopolicy.api import compare, evaluate, load_policy, make_env, open_dataset

__version__ = "0.1.0"
__all__ = ["compare", "evaluate", "load_policy", "make_env", "open_dataset"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from robopolicy import api

        return getattr(api, name)
    raise AttributeError(f"module 'robopolicy' has no attribute '{name}'; it has {sorted(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
