"""What arrives at the policy server, as an observation: ours strictly by name, openpi's by a small table.

Every value has been through :mod:`robopolicy.deploy.array_codec`; here it is compared with what the policy reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.deploy.array_errors import shown
from robopolicy.deploy.policy_messages import EMBODIMENT, OBS_ID, restore_rng
from robopolicy.errors import DeployError, explain
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["OPENPI_KEYS", "ObservationError", "Request", "read_request"]

OPENPI_KEYS: dict[str, tuple[str, ...]] = {
    "state": ("observation/state", "state", "observation/joint_position + observation/gripper_position"),
    "environment_state": ("observation/environment_state",),
    "image/front": ("observation/image", "observation/exterior_image_1_left", "images/cam_high"),
    "image/wrist": ("observation/wrist_image", "observation/wrist_image_left", "images/cam_right_wrist"),
}
"""Ours -> where it may stand in a map of openpi's clients, the first that is complete; ``a + b`` joins."""

MAX_PREFIX_STEPS = 1024


class ObservationError(DeployError):
    """An observation that the policy served cannot take."""


@dataclass(frozen=True)
class Request:
    """One question to the policy.

    Attributes:
        observation: What the robot saw.
        rng: Seed or generator.
        prefix: What is still scheduled.
        obs_id: The client's number of it, None from a client that gives none.
    """

    observation: Observation
    rng: int | np.random.Generator
    prefix: ActionChunk | None
    obs_id: int | None


def read_request(message: Any, spec: PolicySpec, keys: Mapping[str, tuple[str, ...]]) -> Request:
    """A decoded frame as a request.

    Args:
        message: Of :func:`~robopolicy.deploy.array_codec.unpack`.
        spec: Of the policy served.
        keys: As :data:`OPENPI_KEYS`, for clients that are not ours.

    Raises:
        DeployError: a key is missing or its value does not fit; the message says what was expected.
    """
    if not isinstance(message, dict):
        raise ObservationError(explain("an observation is a map", given=type(message).__name__))
    obs_id = message.get(OBS_ID)
    if obs_id is not None and (type(obs_id) is not int or not 0 <= obs_id < 2**63):
        raise ObservationError(explain(f"{OBS_ID} is no number", given=shown(obs_id), allowed="an integer >= 0"))
    if EMBODIMENT not in message:
        return Request(_foreign(message, spec, keys), restore_rng(message.get("robopolicy/rng", 0)), None, obs_id)
    card = spec.embodiment
    if message[EMBODIMENT] != card.hash:
        raise ObservationError(
            explain(
                "the observation is of another robot",
                given=shown(message[EMBODIMENT]),
                allowed=f"{card.hash} ({card.name})",
                mend="deploy on the robot that the policy was trained for",
            )
        )
    if "robopolicy/rng" not in message:
        raise ObservationError(explain("robopolicy/rng is missing", allowed="a seed, or uint64 [6]"))
    rng, prefix = restore_rng(message["robopolicy/rng"]), _prefix(message.get("robopolicy/prefix"), spec)
    return Request(_ours(message, spec), rng, prefix, obs_id)


def _ours(message: Mapping[str, Any], spec: PolicySpec) -> Observation:
    rows = spec.observation_horizon
    times = _array(message, "robopolicy/time_ns", "i", (rows,)).astype(np.int64)
    if times[0] < 0 or (times[1:] <= times[:-1]).any():
        raise ObservationError(explain("robopolicy/time_ns has to increase", given=shown(times.tolist())))
    read: dict[str, dict[str, Any]] = {}
    for group, names, kind, ndim in (
        ("depth", spec.depth, "u", 4),
        ("sensor", spec.sensors, "f", None),
        ("goal_image", spec.goal_cameras, "u", 3),
    ):
        read[group] = {}
        for name in names:
            value = _array(message, f"{group}/{name}", kind, None)
            if (ndim or value.ndim) != value.ndim or not value.ndim or (group != "goal_image" and len(value) != rows):
                raise ObservationError(explain(f"{group}/{name} has the wrong shape", given=value.shape))
            read[group][name] = value
    return Observation(
        state=_array(message, "state", "f", (rows, len(spec.embodiment.state))),
        time_ns=times,
        embodiment=spec.embodiment.hash,
        image={name: _image(message, f"image/{name}", name, spec) for name in spec.cameras},
        environment_state=_environment(message, spec),
        language=_text(message.get("prompt", "")),
        point_cloud=_array(message, "point_cloud", "f", (rows, spec.point_cloud, 6)) if spec.point_cloud else None,
        goal=_array(message, "goal", "f", (spec.goal,)) if spec.goal else None,
        environment_names=_names(message, "environment_names"),
        goal_names=_names(message, "goal_names"),
        **read,
    )


def _environment(message: Mapping[str, Any], spec: PolicySpec) -> Any:
    width, given = spec.environment_state, message.get("environment_state")
    if given is None and not width:
        return None
    # A policy that names what it reads takes it out of a longer vector.
    loose = spec.environment_names or not width
    value = _array(message, "environment_state", "f", None if loose else (spec.observation_horizon, width))
    if value.ndim != 2 or len(value) != spec.observation_horizon:
        raise ObservationError(explain("environment_state has the wrong shape", given=value.shape, allowed="[To, E]"))
    return value


def _prefix(given: Any, spec: PolicySpec) -> ActionChunk | None:
    if given is None:
        return None
    card = spec.embodiment
    fields = {"values", "t0_ns", "dt_s", "valid", "horizon"}
    if not isinstance(given, dict) or set(given) != fields:
        raise ObservationError(explain("robopolicy/prefix has the wrong fields", given=shown(given), allowed=fields))
    values = _array(given, "values", "f", None)
    if values.ndim != 2 or not 1 <= len(values) <= MAX_PREFIX_STEPS or values.shape[1] != len(card.action):
        allowed = f"[1..{MAX_PREFIX_STEPS}, {len(card.action)}]"
        raise ObservationError(explain("robopolicy/prefix has the wrong shape", given=values.shape, allowed=allowed))
    valid, t0_ns, dt_s, horizon = _array(given, "valid", "b", values.shape[:1]), given["t0_ns"], given["dt_s"], None
    if given["horizon"] is not None:
        horizon = given["horizon"]
    whole = type(t0_ns) is int and (horizon is None or (type(horizon) is int and 0 <= horizon <= MAX_PREFIX_STEPS))
    if not whole or not isinstance(dt_s, float) or not abs(dt_s - card.control_dt_s) <= 1e-6:
        raise ObservationError(explain("robopolicy/prefix has wrong times", given=shown([t0_ns, dt_s, horizon])))
    return ActionChunk(values, t0_ns, dt_s, card.hash, valid, horizon)


def _foreign(message: Mapping[str, Any], spec: PolicySpec, keys: Mapping[str, tuple[str, ...]]) -> Observation:
    """From flat or nested keys of openpi's clients. A single row stands for To equal ones: the robot at rest."""
    flat = dict(_flat(message))
    rows, card = spec.observation_horizon, spec.embodiment
    found: dict[str, Any] = {"state": _looked_up(flat, "state", keys)}
    wanted = ["environment_state"] * bool(spec.environment_state) + [f"image/{name}" for name in spec.cameras]
    found |= {key: _looked_up(flat, key, keys) for key in wanted}
    unread = [name for name in ("depth", "sensors", "goal", "goal_cameras", "point_cloud") if getattr(spec, name)]
    if unread:
        raise ObservationError(explain("the policy reads what openpi's clients cannot send", given=unread))
    for key, value in found.items():
        single = 3 if key.startswith("image/") else 1
        if value.ndim == single:
            found[key] = np.repeat(value[None], rows, axis=0)
        image = found[key]
        if single == 3 and image.ndim == 4 and image.shape[1] == 3 and image.shape[-1] != 3:
            found[key] = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    dt_ns = round(card.control_dt_s * 1e9)
    return Observation(
        state=_array(found, "state", "f", (rows, len(card.state))).astype(np.float32),
        time_ns=time.monotonic_ns() - dt_ns * np.arange(rows - 1, -1, -1, dtype=np.int64),
        embodiment=card.hash,
        image={name: _image(found, f"image/{name}", name, spec) for name in spec.cameras},
        environment_state=_environment(found, spec) if spec.environment_state else None,
        language=_text(flat.get("prompt", "")),
    )


def _flat(message: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in message.items():
        rows += _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


def _looked_up(flat: Mapping[str, Any], key: str, keys: Mapping[str, tuple[str, ...]]) -> NDArray[Any]:
    choices = keys.get(key, ())
    for choice in choices:
        parts = [part.strip() for part in choice.split("+")]
        values = [value for part in parts if isinstance(value := flat.get(part), np.ndarray) and value.ndim]
        if len(values) == len(parts):
            try:
                return values[0] if len(values) == 1 else np.concatenate(values, axis=-1)
            except ValueError as error:
                raise ObservationError(explain(f"the parts of {key} do not fit together", given=choice)) from error
    mend = "send one of these, or add yours to observation_keys of configs/serve.yaml"
    raise ObservationError(
        explain(f"no {key} in the observation", given=shown(sorted(flat)), allowed=choices, mend=mend)
    )


def _image(message: Mapping[str, Any], key: str, name: str, spec: PolicySpec) -> NDArray[np.uint8]:
    camera = spec.embodiment.camera(name)
    value = _array(message, key, "u", (spec.observation_horizon, camera.height, camera.width, 3))
    if value.dtype != np.uint8:
        raise ObservationError(explain(f"{key} has the wrong dtype", given=value.dtype, allowed="uint8, RGB"))
    return value


def _array(message: Mapping[str, Any], key: str, kind: str, shape: tuple[int, ...] | None) -> NDArray[Any]:
    value = message.get(key)
    if not isinstance(value, np.ndarray):
        raise ObservationError(explain(f"{key} is no array", given=type(value).__name__, allowed=shape))
    if value.dtype.kind not in kind or (shape is not None and value.shape != shape):
        words = {"f": "floats", "u": "unsigned integers", "i": "integers", "b": "bools"}[kind]
        allowed = f"{words} {list(shape) if shape is not None else ''}".strip()
        raise ObservationError(explain(f"{key} does not fit", given=f"{value.dtype} {value.shape}", allowed=allowed))
    return value


def _names(message: Mapping[str, Any], key: str) -> tuple[str, ...]:
    given = message.get(key, [])
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ObservationError(explain(f"{key} is no list of names", given=shown(given)))
    return tuple(given)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ObservationError(explain("prompt is no text", given=shown(value)))
    return value
