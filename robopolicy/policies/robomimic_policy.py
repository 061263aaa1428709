"""robomimic's behaviour cloning (Mandlekar et al. 2021, arXiv 2108.03298; robomimic 0.3) as a policy of this project.

The network is robomimic's, built from its configuration (:mod:`robopolicy.policies.robomimic_network`); store,
normaliser, trainer, averaged weights and checkpoint are ours::

    observations --our normaliser--> [B, To, D] --robomimic's network--> GMM per step --NLL--> loss
    image[cam] uint8 --robomimic's VisualCore (BatchNorm replaced)--'      '--draw--> action in -1..1 --> physical

**Normalisation.** robomimic sees what our normaliser gives: about -1..1, actions too. Its own normalisation of
observations refuses sequences longer than one step, so BC-RNN is published on raw numbers; ``normalize: false`` is
that, and there for comparison. Actions are always normalised: the means go through tanh.

**Sequences.** A recurrent or attending policy sees To steps and learns one action per step, To = Tp. Acting is
stateless: the network runs from its zero state over the last To observations and answers the newest action, Ta = 1.
robomimic's own rollouts carry the hidden state from call to call and set it to zero every To steps: there an action
rests on 1 to To observations, in turn, here always on To, at To times the work, and at the tenth step both are the
same. Before the start of an episode we repeat its first observation, in training as in acting. Several actions at once
(Ta > 1) exist only where a chunk follows from one observation: ``rnn.open_loop``, To = 1.

**Loss.** robomimic's, over the entries that ``action_mask`` counts. Its own trainer also learns the repeated last
action of windows that reach beyond an episode.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robopolicy.config import build as build_config
from robopolicy.config import setting
from robopolicy.embodiment import Embodiment
from robopolicy.errors import explain, suggest
from robopolicy.models.features import Features
from robopolicy.models.language import build_language
from robopolicy.models.observation import ObservationEncoder
from robopolicy.normalize import Normalizer, StreamNormalizer
from robopolicy.policies.chunk_network import ChunkConfig, ChunkNetwork, increment_ranges, masked_mean
from robopolicy.policies.gaussian_mixture import GaussianMixture
from robopolicy.policies.robomimic_network import (
    ALGORITHMS,
    REWARDED,
    ActorSizes,
    GmmConfig,
    RnnConfig,
    RobomimicNetwork,
    TransformerConfig,
    VaeConfig,
)
from robopolicy.types import Batch, Losses

__all__ = ["RobomimicConfig", "RobomimicPolicy", "build", "derived_ranges"]

_OBSERVED = ("state", "environment_state", "goal")


@dataclass(frozen=True)
class RobomimicConfig(ChunkConfig):
    """Everything that decides the policy, beside what every chunk policy has; the defaults are the published ones.

    Attributes:
        algorithm: One of :data:`robopolicy.policies.robomimic_network.ALGORITHMS`.
        normalize: Observations in about -1..1; False enters them raw, as robomimic does with sequences.
        actor_layer_dims: Perceptron after the encoder or the recurrent layers; none published for those.
        selection: Of the action. ``low_noise`` is published: a mode is drawn by its weight, and its mean taken give or
            take 1e-4; ``sample`` draws with the learnt deviation; ``mode`` takes the mean of the most likely mode. A
            latent is drawn from its prior by the first two and 0 with the last.
        l1_weight, l2_weight: Of the loss of algorithms without a likelihood.
        gmm, rnn, transformer, vae: Of the parts that the algorithm has.
    """

    CHANGEABLE: ClassVar[tuple[str, ...]] = (*ChunkConfig.CHANGEABLE, "selection")

    observation_horizon: int = 10
    action_horizon: int = 1
    prediction_horizon: int = 10
    network: str = "robomimic"
    algorithm: str = "bc_rnn_gmm"
    normalize: bool = True
    actor_layer_dims: tuple[int, ...] = ()
    selection: Literal["low_noise", "sample", "mode"] = "low_noise"
    l2_weight: float = setting("weight of the squared error", default=1.0, ge=0)
    l1_weight: float = setting("weight of the smooth absolute error", default=0.0, ge=0)
    gmm: GmmConfig = field(default_factory=GmmConfig)
    rnn: RnnConfig = field(default_factory=RnnConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)

    @property
    def parts(self) -> tuple[str, ...]:
        """What is switched on, such as ``("rnn", "gmm")``."""
        return tuple(self.algorithm.split("_")[1:])

    def _problems(self) -> list[str]:
        if self.algorithm not in ALGORITHMS:
            return [_unknown(self.algorithm)]
        problems = self._horizons() or super()._problems()
        sequence = "rnn" in self.parts or "transformer" in self.parts
        if not sequence and not self.actor_layer_dims and "vae" not in self.parts:
            problems.append(explain("a perceptron needs layers", mend="set actor_layer_dims=[1024,1024]"))
        heads, width = self.transformer.num_heads, self.transformer.embed_dim
        if "transformer" in self.parts and width % heads:
            problems.append(explain("transformer.num_heads must divide embed_dim", given=f"{heads}, {width}"))
        if self.action_form == "increment" and self.observation_horizon > 1:
            problems.append(
                explain(
                    "increments are counted from the newest state, which the earlier steps of a sequence do not see",
                    given="action_form=increment",
                    mend="use action_form=delta, or absolute",
                )
            )
        foreign = [n for n in ("unet", "dit", "gpt", "observation_mlp") if getattr(self, n)]
        if foreign or self.network != "robomimic":
            problems.append(
                explain("the network is robomimic's own", given=[self.network, *foreign], mend="leave these out")
            )
        return problems

    def _horizons(self) -> list[str]:
        """What the algorithm asks of To, Ta and Tp."""
        to, ta, tp = self.observation_horizon, self.action_horizon, self.prediction_horizon
        given = f"To={to} Ta={ta} Tp={tp}"
        if "rnn" in self.parts and self.rnn.open_loop:
            if to != 1:
                return [explain("rnn.open_loop makes a chunk of one observation", given=given, mend="set To=1, Ta<=Tp")]
        elif "rnn" in self.parts or "transformer" in self.parts:
            if to != tp or ta != 1:
                mend = "set To=Tp and Ta=1"
                mend += "; for several actions at once rnn.open_loop=true, To=1" if "rnn" in self.parts else ""
                what = f"{self.algorithm} answers one action for each observation, and of these the newest is executed"
                return [explain(what, given=given, mend=mend)]
        elif (to, ta, tp) != (1, 1, 1):
            return [explain(f"{self.algorithm} makes one action of one observation", given=given, mend="set all to 1")]
        return []


def _unknown(algorithm: str) -> str:
    if algorithm in REWARDED:
        return explain(
            "this algorithm of robomimic learns from rewards, ends and next observations, which batches do not hold",
            given=algorithm,
            allowed=ALGORITHMS,
            mend="use one that imitates",
        )
    return explain("unknown algorithm", given=algorithm, allowed=ALGORITHMS, mend=suggest(algorithm, ALGORITHMS))


class RobomimicPolicy(ChunkNetwork):
    """A :class:`~robopolicy.protocols.TrainablePolicy`; stateless between calls.

    Args:
        config: See :class:`RobomimicConfig`.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Attributes:
        network: :class:`~robopolicy.policies.robomimic_network.RobomimicNetwork`; ``network.actor`` is robomimic's.

    Raises:
        ConfigError: sizes that do not fit together, or privileged state that the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    config: RobomimicConfig
    network: RobomimicNetwork

    def _make_encoder(self) -> ObservationEncoder:
        if self.config.normalize:
            return super()._make_encoder()
        words = build_language(self.config.language)
        return ObservationEncoder(self._spec, _raw(self.normalizer), self.config.vision, language=words)

    def _make_network(self) -> nn.Module:
        config = self.config
        sizes = ActorSizes(
            algorithm=config.algorithm,
            horizon=config.prediction_horizon,
            actor_layer_dims=config.actor_layer_dims,
            gmm=config.gmm,
            rnn=config.rnn,
            transformer=config.transformer,
            vae=config.vae,
        )
        return RobomimicNetwork(sizes, self.action_form.width, self.encoder.widths)

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``target``, ``parameters``, ``environment_state``."""
        return {"target": f"{__name__}:build", **super().description()}

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Losses:
        """Negative log likelihood, or squared error, over the valid entries of each sample, then over samples.

        In evaluation mode as in training: the standard deviations are the learnt ones, not those of acting.

        Args:
            batch: Physical units; see :mod:`robopolicy.types`.
            rng: Source of crops, dropout and latents, on the batch's device.
        """
        config, mask = self.config, batch.action_mask
        if "transformer" in config.parts and not config.transformer.supervise_all_steps:
            mask = mask.clone()
            mask[:, :-1] = False
        features, wanted = self._encoded(batch, rng)
        features = self._activated(features)
        with _drawing(rng, self.training and "transformer" in config.parts):
            if "gmm" in config.parts:
                per_sample, name = _mean_nll(self._mixture(features), wanted, mask), "negative_log_likelihood"
            elif "vae" in config.parts:
                return self._variational(features, wanted, mask, rng)
            else:
                predicted = torch.tanh(self.network(features)["action"])
                squared = (predicted - wanted).square()
                smooth = F.smooth_l1_loss(predicted, wanted, reduction="none")
                per_sample = masked_mean(config.l2_weight * squared + config.l1_weight * smooth, mask)
                name = "regression"
        total = per_sample.mean()
        return Losses(total, {name: total.detach()}, per_sample.detach())

    def _variational(self, features: Features, wanted: Tensor, mask: Tensor, rng: torch.Generator | None) -> Losses:
        """Squared error of the reconstruction and divergence of the posterior from N(0, 1)."""
        mean, log_variance = self.network.encode(features, (wanted * mask)[:, 0])
        noise = torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
        decoded = self.network.decode(features, mean + noise * (0.5 * log_variance).exp())[:, None]
        error = masked_mean((decoded - wanted).square(), mask)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        per_sample = error + self.config.vae.kl_weight * divergence
        parts: dict[str, float | Tensor] = {
            "reconstruction": error.mean().detach(),
            "divergence": divergence.mean().detach(),
        }
        return Losses(per_sample.mean(), parts, per_sample.detach())

    def _sample(self, features: Features, generators: Sequence[np.random.Generator]) -> Tensor:
        features, config = self._activated(features), self.config
        drawn = config.selection != "mode"
        if "vae" in config.parts:
            width = config.vae.latent_dim
            latent = np.stack([rng.standard_normal(width) if drawn else np.zeros(width) for rng in generators])
            seen = features.steps
            return self.network.decode(features, torch.as_tensor(latent, device=seen.device, dtype=seen.dtype))[:, None]
        if "gmm" not in config.parts:
            return torch.tanh(self.network(features)["action"])
        mixture = self._mixture(features)
        return mixture.sample(generators, config.selection == "low_noise") if drawn else mixture.mode()

    def _mixture(self, features: Features) -> GaussianMixture:
        """Of each step, as robomimic makes it of its network's answer."""
        answered, gmm = self.network(features), self.config.gmm
        positive = F.softplus if gmm.std_activation == "softplus" else torch.exp
        return GaussianMixture(
            torch.tanh(answered["mean"]), positive(answered["scale"]) + gmm.min_std, answered["logits"]
        )

    def _activated(self, features: Features) -> Features:
        """robomimic's networks but the transformer rectify what a camera's encoder gives."""
        cameras = len(self.config.cameras) * self.config.vision.feature_dim
        if not cameras or "transformer" in self.config.parts:
            return features
        numbers, seen = features.steps.split([features.steps.shape[-1] - cameras, cameras], dim=-1)
        return Features(torch.cat([numbers, seen.relu()], dim=-1), features.extra, features.goal, features.language)


def _mean_nll(mixture: GaussianMixture, wanted: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood per step of each sample, [B], over the steps where an entry counts."""
    steps = mask.any(-1).to(wanted.dtype)
    return -(mixture.log_likelihood(wanted, mask) * steps).sum(1) / steps.sum(1).clamp(min=1)


@contextlib.contextmanager
def _drawing(rng: torch.Generator | None, needed: bool) -> Iterator[None]:
    """Dropout draws from torch's global generator: seeded from ``rng`` inside, and outside as it was."""
    if rng is None or not needed:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=rng, device=rng.device).item())
    with torch.random.fork_rng(devices=[rng.device] if rng.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _raw(normalizer: Normalizer) -> Normalizer:
    """The same streams; what is observed stays as it is."""
    streams = {
        name: StreamNormalizer(np.ones(each.width), np.zeros(each.width)) if name in _OBSERVED else each
        for name, each in normalizer.streams.items()
    }
    return Normalizer(streams)


def build(
    parameters: Mapping[str, Any], *, embodiment: Embodiment, normalizer: Normalizer, environment_state: int = 0
) -> RobomimicPolicy:
    """The registry's entry: a policy from plain parameters.

    Raises:
        ConfigError: every unknown, missing or contradictory parameter.
    """
    config = build_config(RobomimicConfig, parameters, where="policy")
    return RobomimicPolicy(config, embodiment, normalizer, environment_state)


def derived_ranges(
    parameters: Mapping[str, Any], embodiment: Embodiment, windows: Callable[[int, int], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Ranges of the increments, where the policy learns those; see the function of this name beside diffusion."""
    config = build_config(RobomimicConfig, parameters, where="policy")
    return increment_ranges(config, embodiment, windows)
