"""Which feature of an RLDS data set becomes which stream of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from robopolicy.data.convert.rlds_conventions import Convention, keys_of
from robopolicy.data.convert.rlds_schema import Leaf
from robopolicy.data.convert.source import Finding
from robopolicy.data.episode import StreamSpec
from robopolicy.errors import DataError, explain

__all__ = ["Plan", "make_plan"]

STEPS = "steps/"
FLAGS = ("is_first", "is_last", "is_terminal")
_WIDEST = 16_384
"""Columns of a stream; what is wider (point clouds, uncompressed images) is not low-dimensional."""


@dataclass
class Plan:
    """What is read of every record. Keys are without ``steps/``.

    Attributes:
        cameras: Key -> slot of colour images.
        depth: Key -> stream of 16-bit images.
        state, action: Keys whose numbers make the vectors when no convention is known, in order.
        extra: Key -> stream.
        texts: Keys of text.
        findings: About features that are not read.
    """

    cameras: dict[str, str] = field(default_factory=dict)
    depth: dict[str, str] = field(default_factory=dict)
    state: list[str] = field(default_factory=list)
    action: list[str] = field(default_factory=list)
    extra: dict[str, tuple[str, StreamSpec]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def make_plan(leaves: Mapping[str, Leaf], convention: Convention | None) -> Plan:
    """Sort the features.

    Args:
        leaves: As :func:`robopolicy.data.convert.rlds_schema.read_features` gives them.
        convention: What is known of their meaning.

    Raises:
        DataError: the convention needs a feature that there is not, or nothing can serve as state or action.
    """
    plan = Plan()
    steps = {path.removeprefix(STEPS): leaf for path, leaf in leaves.items() if path.startswith(STEPS) and leaf.rank}
    used: tuple[str, ...] = ()
    if convention is not None:
        used = tuple(dict.fromkeys((*keys_of(convention.state), *keys_of(convention.action))))
        missing = [key for key in used if key not in steps]
        if missing:
            raise DataError(
                explain(
                    f"the convention does not fit: the data set has no {missing}",
                    given=sorted(steps),
                    mend="options.convention=none keeps the numbers as they are; or state your own in a YAML file",
                )
            )
    names = convention.cameras if convention is not None else {}
    for key, leaf in steps.items():
        _place(plan, key, leaf, names)
    state = [k for k in plan.extra if k.startswith("observation/") and _numeric(steps[k])]
    action = [k for k in plan.extra if k == "action" or k.startswith("action/")]
    if convention is None:
        plan.state, plan.action = state, action
        for what, keys in (("state", state), ("action", action)):
            if not keys:
                raise DataError(
                    explain(
                        f"no numbers in this data set can serve as {what}",
                        given=sorted(steps),
                        mend="options.convention=FILE.yaml says where they are",
                    )
                )
        for key in state + action:
            del plan.extra[key]
    else:
        # The measured pose is the state; the action as it was would otherwise be lost in the absolute target.
        for key in keys_of(convention.state):
            plan.extra.pop(key, None)
    return plan


def _place(plan: Plan, key: str, leaf: Leaf, names: Mapping[str, str]) -> None:
    slot = key.removeprefix("observation/").replace("/", "_")
    name = key.rpartition("/")[2]
    if key in FLAGS:
        return
    if leaf.kind == "text" or leaf.dtype in ("string", "object"):
        plan.texts.append(key)
    elif _colour(leaf):
        plan.cameras[key] = names.get(slot, slot)
    elif leaf.dtype == "uint16" and len(leaf.shape) == 3 and leaf.shape[2] == 1 and min(leaf.shape) > 0:
        plan.depth[key] = f"depth/{names.get(slot, slot)}"
    elif _numeric(leaf):
        integers = np.dtype(leaf.dtype).kind in "iub"
        width = int(np.prod(leaf.shape, dtype=np.int64)) if leaf.shape else 1
        scalar = integers and not leaf.shape
        kind = "reward" if name == "reward" else "embedding" if "embedding" in name else ""
        shape = () if scalar else (width,)
        channels = _channels(key, leaf) if not scalar and width <= 64 else ()
        spec = StreamSpec("int64" if integers else "float32", shape, channels, (), kind)
        plan.extra[key] = (f"source/{key}", spec)
    else:
        what = f"{leaf.kind} {leaf.dtype} {list(leaf.shape)}".strip()
        plan.findings.append(
            Finding("not_converted", f"'{key}' ({what}) has no place in the store", "warning", stream=key)
        )


def _colour(leaf: Leaf) -> bool:
    return leaf.rank == 1 and leaf.dtype == "uint8" and len(leaf.shape) == 3 and leaf.shape[2] in (3, -1)


def _numeric(leaf: Leaf) -> bool:
    known = {"float16", "float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}
    if leaf.kind != "tensor" or leaf.dtype not in known or min(leaf.shape, default=0) < 0 or leaf.rank > 1:
        return False
    return int(np.prod(leaf.shape, dtype=np.int64)) <= _WIDEST


def _channels(key: str, leaf: Leaf) -> tuple[str, ...]:
    width = int(np.prod(leaf.shape, dtype=np.int64)) if leaf.shape else 1
    name = key.removeprefix("observation/").replace("/", ".")
    return (name,) if not leaf.shape else tuple(f"{name}.{i}" for i in range(width))
