"""A loss or a gradient that is not finite: which windows were in the batch, and whether the data or the weights did it.

The order of windows and the noise of a step are functions of (seed, step), so the batch can be had again and looked at
with the weights as they were before the step; nothing has to be kept for it while training goes well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy import checkpoint
from robopolicy.data.loader import Loader
from robopolicy.errors import CheckpointError, NonFiniteError, explain
from robopolicy.types import Batch, Losses

__all__ = ["REPORT", "gradient_norm", "inspect_batch", "not_finite_error", "not_finite_weights"]

REPORT = "not_finite.json"
"""Written to the run directory: every window of the batch, with its loss."""
MOST_NAMED = 3
DATA_MEND = "robopolicy data validate STORE shows what is damaged; delete these episodes, or collect them again"
WEIGHTS_MEND = "lower optimizer.lr, or set optimizer.clip_norm=1; then start again, or go on from the checkpoint"


def gradient_norm(module: nn.Module) -> Tensor:
    """Norm of all gradients together, f32 []; 0 where there are none."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).float() if gradients else torch.zeros(())


def not_finite_weights(module: nn.Module) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity."""
    named = [(name, p) for name, p in module.named_parameters() if p.is_floating_point()]
    if not named:
        return []
    finite = torch.stack([torch.isfinite(p.detach()).all() for _, p in named]).tolist()
    return [name for (name, _), good in zip(named, finite, strict=True) if not good]


def inspect_batch(
    policy: Any, source: Any, parts: np.ndarray, generator: Callable[[int], torch.Generator], device: Any
) -> dict[str, Any]:
    """The batch of a step once more.

    Args:
        policy: With the weights that it had before the step.
        source: A :class:`~robopolicy.data.loader.Loader`; of anything else only the windows are told.
        parts: int64 [accumulate, micro] windows of this process's micro-batches.
        generator: Micro-batch -> the noise that it had.
        device: Of the policy.

    Returns:
        ``micro_batch`` (from 0, the first at fault, None where none of this process is), ``windows`` of it with
        ``index``, ``place`` and ``loss`` (None where the policy tells no losses of samples, a word where it is not
        finite), ``data`` (stream -> what is not finite in it), ``weights`` (names of those that are not finite).
    """
    weights = not_finite_weights(policy)
    dataset = getattr(source, "dataset", None)
    looked: list[dict[str, Any]] = []
    for number, indices in enumerate(parts):
        entry: dict[str, Any] = {"micro_batch": number, "data": {}, "fault": False}
        losses: list[float | None] = [None] * len(indices)
        places = [""] * len(indices)
        if dataset is not None:
            batch = next(iter(Loader(dataset, len(indices)).batches(indices))).to(device)
            places = dataset.places(indices)
            entry["data"] = _bad_streams(batch, policy, indices, places)
            total, losses = _losses(policy, batch, generator(number), len(indices))
            entry["fault"] = bool(entry["data"]) or not math.isfinite(total)
        entry["windows"] = [
            {"index": int(index), "place": place, "loss": loss}
            for index, place, loss in zip(indices.tolist(), places, losses, strict=True)
        ]
        looked.append(entry)
        if entry["fault"]:
            break
    chosen = looked[-1] if looked[-1]["fault"] else {**_merged(looked), "micro_batch": None}
    return {key: chosen[key] for key in ("micro_batch", "data", "windows")} | {"weights": weights}


def not_finite_error(
    what: str, found: Mapping[str, Any], run_dir: Path, accumulate: int, write: bool = True
) -> NonFiniteError:
    """The error that says it, with :data:`REPORT` written beside the checkpoints.

    Args:
        what: What is not finite, with stage and step: the beginning of the message.
        found: From :func:`inspect_batch`.
        run_dir: Of the run.
        accumulate: Micro-batches per step.
        write: On the first process only.
    """
    number, windows = found["micro_batch"], found["windows"]
    where = "" if number is None or accumulate == 1 else f", micro-batch {number} of {accumulate}"
    worst = sorted(windows, key=lambda w: -_size(w["loss"]))
    named = "; ".join(_named(window) for window in worst[:MOST_NAMED])
    if found["data"]:
        cause = "the data are not: " + "; ".join(found["data"].values())
        mend = DATA_MEND
    elif found["weights"]:
        cause = f"the data of the batch are finite, the weights are not: {_few(found['weights'])}"
        mend = WEIGHTS_MEND
    else:
        cause = f"data and weights are finite, the numbers between them overflow; worst samples: {named}"
        mend = WEIGHTS_MEND
    try:
        kept = f"kept: {checkpoint.latest(run_dir)}"
    except CheckpointError:
        kept = "no checkpoint had been written yet"
    if write:
        readable = {**found, "what": what, "windows": [{**w, "loss": _plain(w["loss"])} for w in windows]}
        checkpoint.write_json(run_dir / REPORT, readable)
    batch = f"{len(windows)} windows, all in {run_dir / REPORT}"
    return NonFiniteError(explain(f"{what}{where} ({batch}): {cause}", allowed=kept, mend=mend))


def _losses(policy: Any, batch: Batch, rng: torch.Generator, count: int) -> tuple[float, list[float | None]]:
    """Of the batch, and of its samples where the policy tells them."""
    with torch.no_grad():
        losses: Losses = policy.loss(batch, rng=rng)
    if losses.per_sample is None:
        return float(losses.total), [None] * count
    return float(losses.total), [float(value) for value in losses.per_sample]


def _bad_streams(batch: Batch, policy: Any, indices: np.ndarray, places: Sequence[str]) -> dict[str, str]:
    """Stream -> which windows and channels of it are not finite."""
    streams = {"state": batch.state, "environment_state": batch.environment_state, "goal": batch.goal}
    found = {}
    for name, values in {**streams, "action": batch.action}.items():
        if values is None or not values.numel():
            continue
        bad = ~torch.isfinite(values).reshape(len(values), -1, values.shape[-1]).all(dim=1).cpu().numpy()  # [B, width]
        rows = np.flatnonzero(bad.any(axis=1))
        if len(rows):
            channels = _channel_names(policy, name, np.flatnonzero(bad.any(axis=0)), bad.shape[1])
            shown = [f"window {indices[row]} ({places[row]})" for row in rows[:MOST_NAMED]]
            more = f" and {len(rows) - MOST_NAMED} more windows" if len(rows) > MOST_NAMED else ""
            found[name] = f"{name} channels {_few(channels)} in {', '.join(shown)}{more}"
    return found


def _channel_names(policy: Any, stream: str, channels: np.ndarray, width: int) -> list[str]:
    card = getattr(getattr(policy, "spec", None), "embodiment", None)
    names = tuple(getattr(getattr(card, stream, None), "names", ()))
    return [names[c] if len(names) == width else str(c) for c in channels.tolist()]


def _merged(looked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """No micro-batch is at fault by itself: all of them together."""
    return {"data": {}, "windows": [window for entry in looked for window in entry["windows"]]}


def _named(window: Mapping[str, Any]) -> str:
    loss = "" if window["loss"] is None else f" loss {window['loss']:.3g}"
    return f"window {window['index']} ({window['place']}){loss}"


def _size(loss: float | None) -> float:
    return 0.0 if loss is None else math.inf if math.isnan(loss) else abs(loss)


def _plain(loss: float | None) -> float | str | None:
    return loss if loss is None or math.isfinite(loss) else str(loss)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
