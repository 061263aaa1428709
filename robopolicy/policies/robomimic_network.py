"""robomimic's behaviour-cloning networks, built by robomimic from its own configuration (version 0.3).

This file alone imports ``robomimic.algo``. Two habits of the package end here:

- importing it prints a banner: it is imported on the first use, with the output kept back;
- which observation is a number and which a picture stands in tables of the whole process, which every new
  configuration overwrites. Networks look there while they are built and when they are printed, never when they run.
  So the tables are set for that moment and put back after it (:func:`_observation_tables`), and whoever else uses
  robomimic in this process keeps his own. Beyond that no two policies can differ in what they enter: all
  features of a step are one vector of numbers, :data:`OBSERVATION`, and goal and instruction are another, :data:`GOAL`.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robopolicy.config import setting
from robopolicy.models.features import Features, FeatureWidths

__all__ = [
    "ALGORITHMS",
    "GOAL",
    "OBSERVATION",
    "REWARDED",
    "ActorSizes",
    "GmmConfig",
    "RnnConfig",
    "RobomimicNetwork",
    "TransformerConfig",
    "VaeConfig",
]

ALGORITHMS = ("bc", "bc_gmm", "bc_vae", "bc_rnn", "bc_rnn_gmm", "bc_transformer", "bc_transformer_gmm")
"""What an adapted policy can be; the words after ``bc`` are what is switched on in robomimic's ``algo``."""
REWARDED = ("bcq", "cql", "iql", "td3_bc", "iris", "hbc", "gl")
"""Algorithms of robomimic that need rewards, ends, or observations after the action: no training batch has them."""
OBSERVATION, GOAL = "observation", "goal"
"""Names of the two inputs."""
_TABLES = ("OBS_MODALITIES_TO_KEYS", "OBS_KEYS_TO_MODALITIES", "DEFAULT_ENCODER_KWARGS")
_LOCK = threading.RLock()


@dataclass(frozen=True)
class GmmConfig:
    """``algo.gmm``: a mixture of Gaussians over the action."""

    num_modes: int = setting("Gaussians per step", default=5, ge=1)
    min_std: float = setting("added to every standard deviation, normalised units", default=1e-4, gt=0)
    std_activation: Literal["softplus", "exp"] = setting("makes a standard deviation positive", default="softplus")


@dataclass(frozen=True)
class RnnConfig:
    """``algo.rnn``."""

    hidden_dim: int = setting("width; 400 published from state, 1000 from images", default=400, ge=1)
    num_layers: int = setting("stacked layers", default=2, ge=1)
    rnn_type: Literal["LSTM", "GRU"] = setting("kind of cell", default="LSTM")
    open_loop: bool = setting("every step of a chunk from one observation", default=False)


@dataclass(frozen=True)
class TransformerConfig:
    """``algo.transformer``; its context is To."""

    embed_dim: int = setting("width", default=512, ge=1)
    num_layers: int = setting("blocks", default=6, ge=1)
    num_heads: int = setting("heads of attention, a divisor of embed_dim", default=8, ge=1)
    emb_dropout: float = setting("dropout of the inputs", default=0.1, ge=0, lt=1)
    attn_dropout: float = setting("dropout of the attention", default=0.1, ge=0, lt=1)
    block_output_dropout: float = setting("dropout of each block's output", default=0.1, ge=0, lt=1)
    sinusoidal_embedding: bool = setting("fixed sines instead of learnt positions", default=False)
    activation: Literal["gelu", "geglu"] = setting("of the blocks", default="gelu")
    supervise_all_steps: bool = setting("learn from every step of the context, not from the last", default=False)
    nn_parameter_for_timesteps: bool = setting("learnt positions are a parameter, not a table", default=True)


@dataclass(frozen=True)
class VaeConfig:
    """``algo.vae``, with the prior N(0, 1)."""

    latent_dim: int = setting("width of the latent", default=14, ge=1)
    kl_weight: float = setting("weight of the divergence from the prior", default=1.0, ge=0)
    encoder_layer_dims: tuple[int, ...] = setting("perceptron of the encoder", default=(300, 400), ge=1)
    decoder_layer_dims: tuple[int, ...] = setting("perceptron of the decoder", default=(300, 400), ge=1)


@dataclass(frozen=True)
class ActorSizes:
    """What decides the network.

    Attributes:
        algorithm: One of :data:`ALGORITHMS`.
        horizon: Steps of the sequence that it is run over.
        actor_layer_dims: Perceptron after the encoder or the recurrent layers.
        gmm, rnn, transformer, vae: Of the parts that the algorithm has.
    """

    algorithm: str
    horizon: int
    actor_layer_dims: tuple[int, ...] = (1024, 1024)
    gmm: GmmConfig = field(default_factory=GmmConfig)
    rnn: RnnConfig = field(default_factory=RnnConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)

    @property
    def parts(self) -> tuple[str, ...]:
        """Such as ``("rnn", "gmm")``."""
        return tuple(self.algorithm.split("_")[1:])


@cache
def _robomimic() -> Any:
    """The modules that are needed, imported without a word."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import robomimic.algo as algo
        import robomimic.config as config
        import robomimic.models.obs_nets as obs_nets
        import robomimic.utils.obs_utils as obs_utils
    return SimpleNamespace(algo=algo, config=config, obs_nets=obs_nets, obs_utils=obs_utils)


@contextlib.contextmanager
def _observation_tables(settings: Any) -> Iterator[None]:
    """robomimic's tables of observations as ``settings`` has them, and as they were when it ends."""
    tables = _robomimic().obs_utils
    with _LOCK, contextlib.redirect_stdout(io.StringIO()):
        kept = {name: getattr(tables, name) for name in _TABLES}
        try:
            tables.initialize_obs_utils_with_config(settings)
            yield
        finally:
            for name, value in kept.items():
                setattr(tables, name, value)


def _settings(sizes: ActorSizes) -> Any:
    """robomimic's configuration of the algorithm: its defaults, and what ``sizes`` says."""
    made = _robomimic().config.config_factory("bc")
    with made.values_unlocked():
        made.observation.modalities.obs.low_dim = [OBSERVATION]
        made.observation.modalities.goal.low_dim = [GOAL]
        made.train.seq_length = sizes.horizon
        algo = made.algo
        algo.actor_layer_dims = sizes.actor_layer_dims
        for part in ("gmm", "rnn", "transformer", "vae"):
            for name, value in asdict(getattr(sizes, part)).items():
                algo[part][name] = value
            algo[part].enabled = part in sizes.parts
        algo.rnn.horizon = algo.transformer.context_length = sizes.horizon
    return made


class RobomimicNetwork(nn.Module):
    """robomimic's actor network of one algorithm, on features.

    Args:
        sizes: See :class:`ActorSizes`.
        channels: A.
        widths: Of the features; ``extra`` is not read.

    Attributes:
        actor: robomimic's module (``ActorNetwork``, ``RNNGMMActorNetwork``, ...).
    """

    def __init__(self, sizes: ActorSizes, channels: int, widths: FeatureWidths):
        super().__init__()
        self.sizes = sizes
        self._settings = _settings(sizes)
        shapes = OrderedDict({OBSERVATION: [widths.step]})
        if widths.goal or widths.language:
            shapes[GOAL] = [widths.goal + widths.language]
        with _observation_tables(self._settings):
            algo = _robomimic().algo.algo_factory("bc", self._settings, shapes, channels, torch.device("cpu"))
        self.actor: Any = algo.nets["policy"]
        if "rnn" in sizes.parts:
            # The per-step layers are registered a second time below the recurrent ones. One weight must have one name,
            # or the average of the weights is kept under one of them and undone by the other.
            recurrent = self.actor.nets["rnn"]
            recurrent.__dict__["per_step_net"] = recurrent._modules.pop("per_step_net")

    def __repr__(self) -> str:
        with _observation_tables(self._settings):  # robomimic's modules look there for what they print
            return super().__repr__()

    def forward(self, features: Features) -> dict[str, Tensor]:
        """What the last layer answers at each step of the sequence.

        Args:
            features: ``steps`` [B, To, D]; with ``rnn.open_loop`` the one step is seen at each step of the sequence.

        Returns:
            f32 ``action`` [B, T, A]; of a mixture ``mean`` and ``scale`` [B, T, K, A] and ``logits`` [B, T, K]; all as
            they come, nothing squashed yet.
        """
        nets, parts = _robomimic().obs_nets, self.sizes.parts
        inputs = self.inputs(features)
        if "rnn" in parts or "transformer" in parts:
            run = nets.RNN_MIMO_MLP if "rnn" in parts else nets.MIMO_Transformer
            steps = inputs["obs"][OBSERVATION].shape[1]
            goal = {name: value[:, None].expand(-1, steps, -1) for name, value in inputs["goal"].items()}
            answered = run.forward(self.actor, obs=inputs["obs"], goal=goal)
        else:
            answered = {name: value[:, None] for name, value in nets.MIMO_MLP.forward(self.actor, **inputs).items()}
        return {name: value.float() for name, value in answered.items()}

    def inputs(self, features: Features) -> dict[str, Mapping[str, Tensor]]:
        """``obs`` and ``goal`` as robomimic's modules expect them: [B, T, D], without the T for those of one step."""
        steps = features.steps
        if "rnn" in self.sizes.parts and self.sizes.rnn.open_loop:
            steps = steps.expand(-1, self.sizes.horizon, -1)
        elif "rnn" not in self.sizes.parts and "transformer" not in self.sizes.parts:
            steps = steps[:, 0]
        wanted = [part for part in (features.goal, features.language) if part is not None]
        return {"obs": {OBSERVATION: steps}, "goal": {GOAL: torch.cat(wanted, dim=-1)} if wanted else {}}

    def encode(self, features: Features, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, Z] of the latent of an action [B, A]; variational algorithm only."""
        inputs = self.inputs(features)
        posterior = self.actor.encode(action, inputs["obs"], inputs["goal"] or None)
        return posterior["mean"].float(), posterior["logvar"].float()

    def decode(self, features: Features, latent: Tensor) -> Tensor:
        """Latent [B, Z] -> action [B, A] in -1..1; variational algorithm only."""
        inputs = self.inputs(features)
        action: Tensor = self.actor.decode(inputs["obs"], inputs["goal"] or None, z=latent)["action"]
        return action.float()
