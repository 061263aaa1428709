"""Episode store -> one HDF5 file in robomimic's layout, for its loaders (robomimic 0.3, ``SequenceDataset``).

::

    /data                attributes: total, env_args (JSON), action_channels, state_channels
    /data/demo_<i>       attributes: num_samples, success, ep_meta (JSON with the instruction)
        actions          f32 [T, A]     absolute targets of the card; with normalise=True in [-1, 1]
        states           f32 [T, D]     the simulator's flat state, where the store has it
        rewards, dones   f32, i64 [T]
        obs/, next_obs/  state, joint_position, object (privileged), <camera>_image u8 [T, H, W, 3], other streams
    /mask/train, valid   names of demonstrations

robomimic's own data hold normalised controller commands. Ours are absolute targets, so ``env_args`` names no robosuite
environment: its type is that of Gym and its kwargs hold the embodiment card. Replaying them in robosuite is impossible;
training and reading is not.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.source import Finding
from robopolicy.data.durable import storage_errors
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, MissingDependencyError, StorageError, explain

__all__ = ["write"]

_GYM = 2
_NAMES = {"environment_state": "object"}
_SIMULATOR = ("source/states", "states")
_REWARDS = ("source/rewards", "source/reward", "rewards", "reward")


def write(
    store: EpisodeStore,
    dst: str | Path,
    *,
    episodes: Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    validation: float = 0.0,
    seed: int = 0,
    normalise: bool = False,
    extra: bool = True,
    overwrite: bool = False,
) -> list[Finding]:
    """Write the file; it appears under its name when it is whole.

    Args:
        store: The episodes.
        dst: The file, ``.hdf5``.
        episodes: Indices, in the order of the file; all when not given.
        cameras: Cameras to write; all when not given.
        validation: Fraction of the demonstrations that go to ``/mask/valid`` instead of ``/mask/train``.
        seed: Of that choice.
        normalise: Map actions linearly to [-1, 1] from the range of each channel over the store; the ranges are the
            attributes ``action_min`` and ``action_max`` of ``/data``.
        extra: Also write the float streams that the card does not know, below ``obs``.
        overwrite: Replace a file that is there.

    Returns:
        What the file does not hold: streams that were left out, and that actions cannot be replayed in robosuite.

    Raises:
        DataError: nothing to write, or options that do not fit.
        StorageError: the file exists, or the disk refused.
        MissingDependencyError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(explain("writing HDF5 needs h5py", mend="pip install h5py")) from error
    path = Path(dst)
    chosen = list(range(store.num_episodes)) if episodes is None else [int(i) for i in episodes]
    _check(store, path, chosen, validation, overwrite)
    keys = _observations(store, cameras, extra)
    limits = _limits(store) if normalise else None
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with h5py.File(partial, "w") as file:
                data = file.create_group("data")
                total = sum(_demo(data, store, n, i, keys, limits) for n, i in enumerate(chosen))
                _describe(data, store, total, limits)
                _masks(file, len(chosen), validation, seed)
            with open(partial, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return _findings(store, keys, normalise)


def _check(store: EpisodeStore, path: Path, chosen: list[int], validation: float, overwrite: bool) -> None:
    if not chosen:
        raise DataError(explain(f"{store.path}: no episodes to write", mend="collect or convert some first"))
    absent = [i for i in chosen if not 0 <= i < store.num_episodes]
    if absent or len(set(chosen)) != len(chosen):
        allowed = f"0 to {store.num_episodes - 1}, each once"
        raise DataError(explain(f"{store.path}: no such episodes", given=absent or chosen, allowed=allowed))
    if not 0.0 <= validation < 1.0:
        raise DataError(explain("validation is a fraction", given=validation, allowed="0 to less than 1"))
    if path.exists() and (not overwrite or path.is_dir()):
        raise StorageError(explain(f"{path} already exists", mend="choose another path, or overwrite=true"))


def _observations(store: EpisodeStore, cameras: Sequence[str] | None, extra: bool) -> dict[str, str]:
    """Stream -> name below ``obs``.

    Raises:
        DataError: no such camera, or two streams of one name.
    """
    wanted = store.cameras if cameras is None else tuple(cameras)
    unknown = [camera for camera in wanted if camera not in store.cameras]
    if unknown:
        raise DataError(explain(f"{store.path} has no camera {unknown}", allowed=store.cameras))
    keys = {"state": "state", **{f"image/{camera}": f"{camera}_image" for camera in wanted}}
    for name, spec in store.streams.items():
        standard = name in ("joint_position", "joint_command", "environment_state")
        apart = name in (*keys, "action", *_SIMULATOR, *_REWARDS) or spec.image or spec.dtype != "float32"
        if not apart and (standard or extra):
            keys[name] = _NAMES.get(name, name.replace("/", "_"))
    if len(set(keys.values())) != len(keys):
        raise DataError(explain("two streams would get one name", given=keys, mend="extra=false"))
    return keys


def _limits(store: EpisodeStore) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range of each action channel; a constant one gets a width of 1 about its value."""
    statistics = store.statistics("action")
    low, high = np.asarray(statistics.min, float), np.asarray(statistics.max, float)
    flat = high <= low
    return np.where(flat, low - 0.5, low), np.where(flat, high + 0.5, high)


def _demo(
    data: Any,
    store: EpisodeStore,
    number: int,
    index: int,
    keys: dict[str, str],
    limits: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> int:
    """One demonstration; -> its rows."""
    info = store.info(index)
    start, stop = int(info["start"]), int(info["stop"])
    rows = stop - start
    demo = data.create_group(f"demo_{number}")
    actions = store.read("action", start, stop)
    if limits is not None:
        low, high = limits
        actions = np.clip(2 * (actions - low) / (high - low) - 1, -1, 1).astype(np.float32)
    demo["actions"] = actions
    states = next((name for name in _SIMULATOR if name in store.streams), None)
    if states:
        demo["states"] = store.read(states, start, stop)
    dones = np.zeros(rows, np.int64)
    dones[-1] = 1
    demo["dones"] = dones
    demo["rewards"] = _rewards(store, start, stop, bool(info["success"]))
    obs, following = demo.create_group("obs"), demo.create_group("next_obs")
    later = np.minimum(np.arange(rows) + 1, rows - 1)
    for stream, key in keys.items():
        values = store.read(stream, start, stop)
        # Whole episodes are read one camera at a time; a frame per chunk lets loaders read single frames.
        layout = {"chunks": (1, *values.shape[1:])} if values.ndim == 4 else {}
        obs.create_dataset(key, data=values, **layout)
        following.create_dataset(key, data=values[later], **layout)
    demo.attrs["num_samples"] = rows
    demo.attrs["success"] = bool(info["success"])
    demo.attrs["ep_meta"] = json.dumps({"lang": info["language"], "metadata": info["metadata"]})
    return rows


def _rewards(store: EpisodeStore, start: int, stop: int, success: bool) -> NDArray[np.float32]:
    """Those recorded, else 1 in the last row of a success."""
    recorded = next((name for name in _REWARDS if name in store.streams), None)
    if recorded:
        return np.asarray(store.read(recorded, start, stop), np.float32).reshape(stop - start, -1)[:, 0]
    rewards = np.zeros(stop - start, np.float32)
    rewards[-1] = float(success)
    return rewards


def _findings(store: EpisodeStore, keys: dict[str, str], normalise: bool) -> list[Finding]:
    """What a user of the file should know."""
    reference = store.embodiment.action_reference
    what = "linearly mapped to [-1, 1]" if normalise else "as in the store"
    text = f"actions are {reference} ({what}), not commands of a robosuite controller: replaying them needs its own env"
    findings = [Finding("convention", text, "note", stream="action")]
    written = {*keys, "action", "time_ns", *_SIMULATOR, *_REWARDS}
    findings += [
        Finding("not_exported", f"'{name}' is not written", "note", stream=name)
        for name in store.streams
        if name not in written
    ]
    return findings


def _describe(
    data: Any, store: EpisodeStore, total: int, limits: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> None:
    card = store.embodiment
    data.attrs["total"] = total
    data.attrs["env_args"] = json.dumps(
        {
            "env_name": store.task or card.name,
            "type": _GYM,
            "env_kwargs": {
                "control_freq": store.fps,
                "robots": [card.name],
                "action_space": card.action_space,
                "action_reference": card.action_reference,
                "normalised": limits is not None,
                "embodiment": card.to_dict(),
            },
        }
    )
    data.attrs["action_channels"] = json.dumps(list(card.action.names))
    data.attrs["state_channels"] = json.dumps(list(card.state.names))
    if limits is not None:
        data.attrs["action_min"], data.attrs["action_max"] = limits


def _masks(file: Any, demos: int, validation: float, seed: int) -> None:
    held_out = round(validation * demos)
    order = np.random.default_rng([seed, demos]).permutation(demos)
    for name, members in (("train", order[held_out:]), ("valid", order[:held_out])):
        if len(members):
            names = [f"demo_{i}" for i in sorted(members.tolist())]
            file.create_dataset(f"mask/{name}", data=np.array(names, dtype="S"))
