"""A trained policy as ONNX: the whole way from an observation to a normalised chunk in one graph.

::

    state [B, To, S], environment_state, image/<camera>, goal, noise [B, Tp, A] --policy.onnx--> chunk [B, Tp, A]
    scheduled [B, Tp, A], weight [B, Tp], strongest [B]: what it shall agree with; weight 0 for nothing

Normalisation, encoder, network and the sampler's loop, unrolled over its grid, are in the graph; the noise is an input,
so that the answer is a function of its inputs. Real-time chunking is in it with the Jacobian of unit data, which needs
no gradients. ``policy.json`` beside it says what is fed and how the chunk becomes physical. :func:`load_exported` gives
a :class:`~robopolicy.protocols.Policy` that runs it through onnxruntime.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.diffusion.guidance import Inpainting, inpainted
from robopolicy.diffusion.samplers import SAMPLERS
from robopolicy.embodiment import Embodiment
from robopolicy.errors import CheckpointError, ConfigError, MissingDependencyError, NonFiniteError, ShapeError, explain
from robopolicy.exported import DOCUMENT, FORMAT, GRAPH, read_document
from robopolicy.models.action_form import ActionForm
from robopolicy.normalize import Normalizer
from robopolicy.policies.checks import check_observation, selected
from robopolicy.policies.continuation import scheduled
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["ExportedPolicy", "export_policy", "load_exported"]

OPSET = 20
MOST_DIFFERENCE = 0.02
"""Of normalised values, a hundredth of their range. Answering epsilon at the first time divides the network's rounding
by alpha, which is hardly above 0 there; other predictions stay below 1e-4."""

PROVIDERS = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)
"""Tried in this order, as far as the installed runtime has them."""


OWN = ("noise", "scheduled", "weight", "strongest")
"""Inputs beside those that are observed."""


class _Graph(nn.Module):
    """What is exported: tensors in, normalised chunk out."""

    def __init__(self, policy: DenoisingPolicy):
        super().__init__()
        self.policy, self.names = policy, list(_inputs(policy.spec))

    def forward(self, *values: Tensor) -> Tensor:
        policy = self.policy
        given = dict(zip([*self.names, *OWN], values, strict=True))
        images = {name: given[f"image/{name}"] for name in policy.spec.cameras}
        features = policy.encoder(given.get("state"), given.get("environment_state"), images, goal=given.get("goal"))
        sampler, _ = SAMPLERS[policy.sampler.kind]
        wanted = Inpainting(given["scheduled"], given["weight"], given["strongest"], "identity")
        predict = inpainted(policy.predictor(features), policy.grid, wanted, policy.process.clip)
        return sampler(predict, given["noise"], policy.grid, clip=policy.process.clip)


def export_policy(policy: Any, out: str | Path) -> Path:
    """Write ``policy.onnx`` and ``policy.json``.

    Args:
        policy: A denoising policy with a sampler that draws no noise between its steps, for one robot.
        out: Folder, made if absent; an earlier export in it is replaced. A name that ends in ``.onnx`` means the folder
            of that name without the ending.

    Returns:
        The folder.

    Raises:
        ConfigError: a policy that cannot be exported, with the reason; a graph that does not answer what the policy
            answers, in which case nothing is left behind and an earlier export stays.
        MissingDependencyError: the ``onnx`` extra is not installed.
    """
    _check_exportable(policy)
    _require("onnx", "onnxscript")
    folder = Path(out)
    folder = folder.with_suffix("") if folder.suffix == ".onnx" else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        _write(policy, Path(beside))
        difference = _difference(policy, Path(beside))
        if difference is not None and difference > MOST_DIFFERENCE:
            raise ConfigError(
                explain(
                    "the graph does not answer what the policy answers, so it was not kept",
                    given=f"normalised values differ by {difference:.2g}",
                    allowed=f"up to {MOST_DIFFERENCE}",
                    mend="another version of onnx or onnxruntime, or another sampler",
                )
            )
        document = {**_document(policy), "largest_difference": difference}
        (Path(beside) / DOCUMENT).write_text(json.dumps(document, indent=1), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for name in (GRAPH, DOCUMENT):
            os.replace(Path(beside) / name, folder / name)
    return folder


def _write(policy: DenoisingPolicy, folder: Path) -> None:
    was = policy.training
    graph = _Graph(policy).eval()
    example = _example(policy)
    names = [*graph.names, *OWN]
    try:
        with torch.no_grad(), _plainly(policy.network), _quietly():
            torch.onnx.export(
                graph,
                tuple(example.values()),
                str(folder / GRAPH),
                input_names=names,
                output_names=["chunk"],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    finally:
        policy.train(was)


def _difference(policy: DenoisingPolicy, folder: Path) -> float | None:
    """Largest difference of normalised chunks between graph and policy on invented inputs; None without a runtime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
    graph, was, largest = _Graph(policy).eval(), policy.training, 0.0
    generator = torch.Generator().manual_seed(0)
    for weight in (0.0, 1.0):
        given = dict(_example(policy))
        for name, (shape, kind) in _inputs(policy.spec).items():
            drawn = torch.rand((1, *shape), generator=generator)
            given[name] = (255 * drawn).to(torch.uint8) if kind is np.uint8 else drawn
        given["weight"] = given["weight"] + weight
        moved = [value.to(policy.action_form.scale.device) for value in given.values()]
        with torch.no_grad(), _plainly(policy.network):
            expected = graph(*moved).cpu().numpy()
        answer = session.run(["chunk"], {name: value.cpu().numpy() for name, value in given.items()})[0]
        largest = max(largest, float(np.abs(answer - expected).max()))
    policy.train(was)
    return largest


def load_exported(path: str | Path, *, providers: Sequence[str] | None = None, threads: int = 0) -> ExportedPolicy:
    """A policy through onnxruntime.

    Args:
        path: Folder of :func:`export_policy`.
        providers: Execution providers; None takes the first available ones of :data:`PROVIDERS`.
        threads: Of one operator, 0 for the runtime's own choice.

    Raises:
        CheckpointError: no exported policy, or of a newer format.
        ConfigError: a provider that the runtime does not have.
        MissingDependencyError: onnxruntime is not installed.
    """
    _require("onnxruntime")
    import onnxruntime

    folder, document = Path(path), read_document(path)
    available = onnxruntime.get_available_providers()
    chosen = [p for p in PROVIDERS if p in available] if providers is None else list(providers)
    if absent := [p for p in chosen if p not in available]:
        raise ConfigError(explain("execution provider not available", given=absent, allowed=available))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # that an operator is composed of others is no news
    session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=chosen)
    return ExportedPolicy(session, document)


class ExportedPolicy:
    """A :class:`~robopolicy.protocols.Policy` over an ONNX session; made by :func:`load_exported`."""

    def __init__(self, session: Any, document: Mapping[str, Any]):
        card = Embodiment.from_dict(document["embodiment"])
        if card.hash != document["embodiment_hash"]:
            raise CheckpointError(
                explain("the exported embodiment was altered", given=card.hash, allowed=document["embodiment_hash"])
            )
        stored: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document["spec"].items()}
        self._spec = PolicySpec(embodiment=card, **stored)
        normalizer = Normalizer.from_dict(document["normalizer"])
        spec = self._spec
        self._form = ActionForm(
            document["action_form"], card, normalizer, spec.observation_horizon, spec.prediction_horizon
        )
        self._session, self._inputs = session, list(_inputs(spec))

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def chunk(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The graph itself: inputs as in this module -> normalised chunk f32 [1, Tp, A].

        Raises:
            ShapeError: an input is missing.
        """
        wanted = [*self._inputs, *OWN]
        if missing := [name for name in wanted if name not in inputs]:
            raise ShapeError(explain("inputs missing", given=missing, allowed=wanted))
        answer: np.ndarray = self._session.run(["chunk"], {name: inputs[name] for name in wanted})[0]
        return answer

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """See :class:`~robopolicy.protocols.Policy`.

        The noise is that of the policy it was exported from, so both answer the same.

        Raises:
            ConfigError: a prefix that is to be followed by the network's Jacobian: the graph holds no gradients.
            ShapeError, NonFiniteError, EmbodimentMismatchError: as the exported policy's.
        """
        if goal is not None:
            observation = dataclasses.replace(observation, goal=np.asarray(goal, np.float32), goal_names=())
        spec, card = self._spec, self._spec.embodiment
        observation = selected(observation, spec)
        check_observation(observation, spec)
        shape = (1, spec.prediction_horizon, len(card.action))
        state = torch.as_tensor(np.asarray(observation.state, np.float64)[None])
        held = scheduled(spec, self._form, [observation], [prefix], state)
        if prefix is not None and held.jacobian != "identity":
            raise ConfigError(
                explain(
                    "an exported policy holds no gradients",
                    given=f"between.jacobian={held.jacobian}",
                    mend="set between.jacobian=identity",
                )
            )
        inputs = {
            "noise": np.random.default_rng(rng).standard_normal(shape, dtype=np.float32),
            "scheduled": held.values.numpy(),
            "weight": held.weights.numpy(),
            "strongest": np.asarray(held.strongest, np.float32),
        }
        for name, (_, dtype) in _inputs(spec).items():
            stream, _, camera = name.partition("/")
            value = getattr(observation, stream)
            inputs[name] = np.asarray(value[camera] if camera else value, dtype)[None]
        sample = torch.from_numpy(self.chunk(inputs)).double()
        values = self._form.decode(sample, state).numpy()[0, spec.observation_horizon - 1 :]
        if not np.isfinite(values).all():
            raise NonFiniteError(explain("the policy's output is not finite", mend="export another checkpoint"))
        time_ns = int(observation.time_ns[-1])
        return ActionChunk(values, time_ns, card.control_dt_s, card.hash, horizon=spec.action_horizon)


def _inputs(spec: PolicySpec) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name -> shape without the batch, and type; in the order of the graph's inputs."""
    to, card = spec.observation_horizon, spec.embodiment
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    if spec.state:
        found["state"] = ((to, len(card.state)), np.float32)
    if spec.environment_state:
        found["environment_state"] = ((to, spec.environment_state), np.float32)
    for name in spec.cameras:
        camera = card.camera(name)
        found[f"image/{name}"] = ((to, camera.height, camera.width, 3), np.uint8)
    if spec.goal:
        found["goal"] = ((spec.goal,), np.float32)
    return found


def _example(policy: DenoisingPolicy) -> dict[str, Tensor]:
    device = next(policy.parameters()).device
    example = {
        n: torch.zeros((1, *s), device=device).to(torch.uint8 if t is np.uint8 else torch.float32)
        for n, (s, t) in _inputs(policy.spec).items()
    }
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, policy.spec.prediction_horizon, policy.action_form.width)
    return {
        **example,
        "noise": torch.randn(shape, generator=generator, device=device),
        "scheduled": torch.zeros(shape, device=device),
        "weight": torch.zeros(shape[:2], device=device),
        "strongest": torch.ones(1, device=device),
    }


def _document(policy: DenoisingPolicy) -> dict[str, Any]:
    spec = policy.spec
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "embodiment"}
    described = policy.description()
    return {
        "format": FORMAT,
        "target": described.get("target"),
        "spec": fields,
        "embodiment": spec.embodiment.to_dict(),
        "embodiment_hash": spec.embodiment.hash,
        "normalizer": policy.normalizer.to_dict(),
        "action_form": policy.config.action_form,
        "sampler": dataclasses.asdict(policy.sampler),
        "grid": dataclasses.asdict(policy.grid),
        "inputs": {n: {"shape": [1, *s], "type": np.dtype(t).name} for n, (s, t) in _inputs(spec).items()},
    }


def _check_exportable(policy: Any) -> None:
    name = type(policy).__name__
    if not isinstance(policy, DenoisingPolicy) or type(policy)._sample is not DenoisingPolicy._sample:
        raise ConfigError(
            explain("this kind of policy cannot be exported", given=name, allowed="policies that denoise a chunk")
        )
    if SAMPLERS[policy.sampler.kind][1]:
        quiet = [k for k in policy.process.samplers if not SAMPLERS[k][1]]
        raise ConfigError(
            explain(
                "a sampler that draws noise between its steps is no function of one noise",
                given=f"sampler.kind={policy.sampler.kind}",
                allowed=quiet,
                mend=f"set sampler.kind={quiet[0]}; nothing is trained again",
            )
        )
    if policy.spec.goal_cameras:
        raise ConfigError(
            explain(
                "a policy that reads a picture of its goal cannot be exported",
                given=f"{name}, goal.cameras={list(policy.spec.goal_cameras)}",
                mend="run the checkpoint itself, or train with goal.names alone",
            )
        )
    if policy.encoder.language is not None:
        raise ConfigError(explain("a policy that reads instructions cannot be exported", given=name))


def _require(*modules: str) -> None:
    absent = [m for m in modules if importlib.util.find_spec(m) is None]
    if absent:
        raise MissingDependencyError(
            explain("packages missing for ONNX", given=absent, mend="pip install 'robopolicy[onnx]'")
        )


@contextmanager
def _plainly(network: Any) -> Iterator[None]:
    """The network layer by layer, which is what a runtime's own optimiser knows."""
    was = getattr(network, "by_taps", None)
    if was is not None:
        network.by_taps = False
    try:
        yield
    finally:
        if was is not None:
            network.by_taps = was


@contextmanager
def _quietly() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
