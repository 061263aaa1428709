"""What a policy server and its client say to each other: observation, chunk and metadata as maps of the wire.

The server speaks first with its metadata; then one observation and one reply by turns. ``H`` is the length of the
chunk, the other letters are those of :mod:`robopolicy.types`.

========================  ============================================================================================
metadata["robopolicy"]    protocol, version, embodiment {name, hash}, control_dt_s, spec (:class:`ServedSpec`),
                          action_names [A], state_names [S]
========================  ============================================================================================
observation
``robopolicy/obs_id``     int; comes back with the reply
``robopolicy/embodiment`` hash of the card; tells an observation of ours from one of openpi's
``robopolicy/time_ns``    int64 [To] on the client's clock; the server only hands the last one back
``robopolicy/rng``        uint64 [6] state of a PCG64 generator, or a seed (int)
``state``                 float [To, S]
``image/<camera>``        uint8 [To, H, W, C]; also ``goal_image/<camera>`` uint8 [H, W, C]
``depth/<camera>``        uint16 [To, H, W, 1]
``sensor/<name>``         float [To, K, ...]
``environment_state``     float [To, E]; ``environment_names``, ``goal_names``: lists of text
``goal``, ``point_cloud`` float [G], float [To, P, 6]
``prompt``                text
``robopolicy/prefix``     map of what is still scheduled: values, t0_ns, dt_s, valid, horizon
------------------------  --------------------------------------------------------------------------------------------
reply
``actions``               float [H, A]
``robopolicy/...``        obs_id, embodiment, t0_ns (of the observation), dt_s, valid bool [H], horizon, rng
``server_timing``         infer_ms, queue_ms, prev_total_ms
========================  ============================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy import __version__
from robopolicy.deploy.array_errors import shown
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, DeployError, EmbodimentMismatchError, explain
from robopolicy.protocols import Policy, PolicySpec
from robopolicy.schema import build, setting
from robopolicy.types import ActionChunk, Observation

__all__ = [
    "EMBODIMENT",
    "OBS_ID",
    "PROTOCOL",
    "MetadataError",
    "ServedSpec",
    "metadata_of",
    "pack_chunk",
    "pack_observation",
    "pack_rng",
    "read_metadata",
    "restore_rng",
]

PROTOCOL = 1
OBS_ID, EMBODIMENT = "robopolicy/obs_id", "robopolicy/embodiment"


class MetadataError(DeployError):
    """A server whose metadata do not hold together, or that is not ours where ours is expected."""


@dataclass(frozen=True)
class ServedSpec:
    """:class:`~robopolicy.protocols.PolicySpec` on the wire, without the card."""

    observation_horizon: int = setting("To", ge=1, le=64)
    action_horizon: int = setting("Ta", ge=1, le=1024)
    prediction_horizon: int = setting("Tp", ge=1, le=1024)
    state: bool = setting("reads proprioception")
    environment_state: int = setting("E", ge=0, le=4096)
    cameras: tuple[str, ...] = setting("cameras that it reads")
    depth: tuple[str, ...] = setting("cameras whose depth it reads")
    sensors: tuple[str, ...] = setting("sensor histories that it reads")
    point_cloud: int = setting("points per observation", ge=0)
    goal: int = setting("G", ge=0, le=4096)
    environment_names: tuple[str, ...] = setting("entries of the privileged state")
    goal_names: tuple[str, ...] = setting("entries of the goal")
    continues: bool = setting("a chunk follows the prefix")
    goal_cameras: tuple[str, ...] = setting("cameras whose picture of the goal it reads")


def metadata_of(policy: Policy) -> dict[str, Any]:
    """What the server says first."""
    spec, card = policy.spec, policy.spec.embodiment
    served = {field.name: getattr(spec, field.name) for field in dataclasses.fields(ServedSpec)}
    return {
        "robopolicy": {
            "protocol": PROTOCOL,
            "version": __version__,
            "embodiment": {"name": card.name, "hash": card.hash},
            "control_dt_s": card.control_dt_s,
            "spec": {key: list(value) if isinstance(value, tuple) else value for key, value in served.items()},
            "action_names": list(card.action.names),
            "state_names": list(card.state.names),
        }
    }


def read_metadata(metadata: Any, card: Embodiment) -> PolicySpec | None:
    """The spec of the policy served, checked against the robot; None where the server is not one of ours.

    Raises:
        EmbodimentMismatchError: it serves a policy for another robot.
        MetadataError: another protocol, or metadata that contradict themselves.
    """
    ours = metadata.get("robopolicy") if isinstance(metadata, Mapping) else None
    if ours is None:
        return None
    if not isinstance(ours, Mapping) or ours.get("protocol") != PROTOCOL:
        given = shown(ours.get("protocol") if isinstance(ours, Mapping) else ours)
        mend = "use the same version of robopolicy on both sides"
        raise MetadataError(
            explain("the server speaks another protocol", given=given, allowed=f"protocol {PROTOCOL}", mend=mend)
        )
    theirs = ours.get("embodiment")
    name, digest = (theirs.get("name"), theirs.get("hash")) if isinstance(theirs, Mapping) else (None, None)
    if digest != card.hash:
        raise EmbodimentMismatchError(
            explain(
                "the policy served is for another robot",
                given=f"{shown(name)} ({shown(digest)})",
                allowed=f"{card.name} ({card.hash})",
                mend="serve a policy trained for this card, or deploy on that robot",
            )
        )
    try:
        served = build(ServedSpec, ours.get("spec") or {}, "server metadata")
    except ConfigError as error:
        raise MetadataError(explain("the server's spec is faulty", given=str(error)[:400])) from error
    dt_s, actions, states = ours.get("control_dt_s"), ours.get("action_names"), ours.get("state_names")
    same_names = actions == list(card.action.names) and states == list(card.state.names)
    if not same_names or not isinstance(dt_s, float) or not abs(dt_s - card.control_dt_s) <= 1e-9:
        given = f"dt {shown(dt_s)}, actions {shown(actions)}, state {shown(states)}"
        raise MetadataError(explain("the server's metadata contradict the card of the same hash", given=given))
    known = [camera.name for camera in card.cameras]
    for name in (*served.cameras, *served.depth, *served.goal_cameras):
        if name not in known:
            raise MetadataError(explain("the policy served reads an unknown camera", given=shown(name), allowed=known))
    values = {field.name: getattr(served, field.name) for field in dataclasses.fields(ServedSpec)}
    return PolicySpec(embodiment=card, **values)


def pack_observation(
    observation: Observation,
    spec: PolicySpec,
    *,
    obs_id: int,
    rng: int | np.random.Generator,
    prefix: ActionChunk | None = None,
) -> dict[str, Any]:
    """An observation as a map: what the policy reads, no other picture."""
    message: dict[str, Any] = {
        OBS_ID: obs_id,
        EMBODIMENT: observation.embodiment,
        "robopolicy/time_ns": observation.time_ns,
        "robopolicy/rng": pack_rng(rng),
        "state": observation.state,
        "prompt": observation.language,
    }
    for group, names in (
        ("image", spec.cameras),
        ("depth", spec.depth),
        ("goal_image", spec.goal_cameras),
        ("sensor", spec.sensors),
    ):
        held = getattr(observation, group)
        message |= {f"{group}/{name}": held[name] for name in names if name in held}
    for key in ("environment_state", "goal", "point_cloud"):
        if getattr(observation, key) is not None:
            message[key] = getattr(observation, key)
    for key in ("environment_names", "goal_names"):
        if getattr(observation, key):
            message[key] = list(getattr(observation, key))
    if prefix is not None:
        message["robopolicy/prefix"] = {
            "values": prefix.values,
            "t0_ns": prefix.t0_ns,
            "dt_s": float(prefix.dt_s),
            "valid": prefix.valid,
            "horizon": prefix.horizon,
        }
    return message


def pack_chunk(chunk: ActionChunk, obs_id: int | None, rng: int | np.random.Generator) -> dict[str, Any]:
    """A reply, without its timing."""
    reply = {
        "actions": chunk.values,
        EMBODIMENT: chunk.embodiment,
        "robopolicy/t0_ns": chunk.t0_ns,
        "robopolicy/dt_s": float(chunk.dt_s),
        "robopolicy/valid": chunk.valid,
        "robopolicy/horizon": chunk.horizon,
        "robopolicy/rng": pack_rng(rng),
    }
    return reply if obs_id is None else {OBS_ID: obs_id, **reply}


def pack_rng(rng: int | np.random.Generator) -> Any:
    """A seed as it is; a PCG64 generator as uint64 [6]; of another kind of generator a seed is drawn."""
    if not isinstance(rng, np.random.Generator):
        return int(rng)
    state = rng.bit_generator.state
    if state["bit_generator"] != "PCG64":
        return int(rng.integers(2**63))
    words = [state["state"][key] >> shift & 0xFFFFFFFFFFFFFFFF for key in ("state", "inc") for shift in (0, 64)]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def restore_rng(packed: Any, rng: np.random.Generator | None = None) -> int | np.random.Generator:
    """The inverse of :func:`pack_rng`; with ``rng`` that generator is set to the state.

    Raises:
        DeployError: neither a seed nor a state.
    """
    if type(packed) is int and packed >= 0:
        return packed
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint64 or packed.shape != (6,) or packed[4] > 1:
        allowed = "a seed >= 0, or uint64 [6]"
        raise DeployError(explain("robopolicy/rng is no randomness", given=shown(packed), allowed=allowed))
    low, high, inc_low, inc_high, has, left = (int(word) for word in packed)
    found = np.random.Generator(np.random.PCG64(0)) if rng is None else rng
    found.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": low | high << 64, "inc": inc_low | inc_high << 64},
        "has_uint32": has,
        "uinteger": left & 0xFFFFFFFF,
    }
    return found
