"""What the policies share that answer one observation with one chunk of one network.

::

    Observation --encoder--> Features --_sample (each family's own)--> [B, Tp, A] --action_form--> ActionChunk

Here are the encoder, the network, the normalised form of the chunk and the way from an observation to physical units.
A family adds its parameters, its loss and :meth:`ChunkNetwork._sample`.

Index convention (see :mod:`robopolicy.types`): prediction index 0 belongs to the oldest observation;
:meth:`ChunkNetwork.act` returns indices ``To-1 .. Tp-1``, of which the first ``Ta`` are meant to be executed.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.config import to_dict
from robopolicy.diffusion.guidance import Inpainting
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, NonFiniteError, ShapeError, explain
from robopolicy.goals import GoalConfig, goal_cameras, goal_names, goal_width
from robopolicy.models.action_form import INCREMENT_STREAM, ActionForm, increment_range
from robopolicy.models.features import Features
from robopolicy.models.language import LanguageConfig, build_language
from robopolicy.models.networks import build_network
from robopolicy.models.observation import ObservationEncoder
from robopolicy.models.vision import VisionConfig
from robopolicy.normalize import Normalizer
from robopolicy.policies.changes import changed_config
from robopolicy.policies.checks import check_observation, selected
from robopolicy.policies.continuation import scheduled
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Batch, Observation

__all__ = ["ChunkConfig", "ChunkNetwork", "increment_ranges", "masked_mean"]


@dataclass(frozen=True)
class ChunkConfig:
    """What is observed and how much is predicted: the first parameters of every family.

    Attributes:
        observation_horizon: To.
        action_horizon: Ta, executed before re-planning.
        prediction_horizon: Tp.
        state: Read proprioception.
        environment_state: Read the privileged object state (simulation).
        environment_names: Entries of it that are read, by name; all of them when empty.
        cameras: Cameras to read, in this order.
        goal: What the goal consists of, see :mod:`robopolicy.goals`; the width G of a recorded one that is taken as it
            is; 0 for none.
        action_form: What the network answers in, see :mod:`robopolicy.models.action_form`.
        observation_mlp: Width of a two-layer perceptron over the low-dimensional observations whose output joins
            them; 0 for none.
        network: One of :data:`robopolicy.models.networks.NETWORKS`.
        unet, dit, gpt: Sizes of the network of that name.
        vision: Encoders of the cameras.
        language: What is made of the instruction, see :mod:`robopolicy.models.language`.
        CHANGEABLE: Parameters that may differ in execution from what was trained: no weight depends on them.
    """

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("action_horizon",)

    observation_horizon: int = 2
    action_horizon: int = 8
    prediction_horizon: int = 16
    state: bool = True
    environment_state: bool = True
    environment_names: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    goal: int | GoalConfig = 0
    action_form: str = "absolute"
    observation_mlp: int = 0
    network: str = "unet"
    unet: dict[str, Any] = field(default_factory=dict)
    dit: dict[str, Any] = field(default_factory=dict)
    gpt: dict[str, Any] = field(default_factory=dict)
    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise ConfigError(problems)

    def _problems(self) -> list[str]:
        """All that is contradictory; a family adds what is wrong with its own parameters."""
        problems = []
        to, ta, tp = self.observation_horizon, self.action_horizon, self.prediction_horizon
        if min(to, ta, tp) < 1 or to - 1 + ta > tp:
            problems.append(
                explain(
                    "horizons need To-1+Ta <= Tp", given=f"To={to} Ta={ta} Tp={tp}", mend="raise prediction_horizon"
                )
            )
        if len(set(self.environment_names)) != len(self.environment_names):
            problems.append(explain("environment_names names an entry twice", given=list(self.environment_names)))
        if not (self.state or self.environment_state or self.cameras):
            problems.append(explain("the policy observes nothing", mend="switch state or a camera on"))
        return problems


class ChunkNetwork(nn.Module, ABC):
    """Encoder, network and plumbing of a :class:`~robopolicy.protocols.BatchPolicy`; stateless between calls.

    Args:
        config: Parameters of the family.
        embodiment: Card of the robot.
        normalizer: Ranges of the streams; its widths must fit.
        environment_state: Width E in the data; used only where the config reads it.

    Raises:
        ConfigError: sizes that do not fit together, or privileged state that the data do not have.
        DataError: statistics missing or of the wrong width.
    """

    CONTINUES: ClassVar[bool] = False
    """Whether :meth:`_continue` follows what is being executed."""

    config: ChunkConfig

    def __init__(
        self,
        config: ChunkConfig,
        embodiment: Embodiment,
        normalizer: Normalizer,
        environment_state: int = 0,
    ):
        super().__init__()
        if config.environment_state and not environment_state:
            raise ConfigError(
                explain(
                    "the policy reads environment_state, the data have none",
                    mend="set environment_state=false and name cameras, or record it",
                )
            )
        if config.environment_names and environment_state not in (0, len(config.environment_names)):
            raise ConfigError(
                explain(
                    "environment_names names another number of entries than are given",
                    given=len(config.environment_names),
                    allowed=environment_state,
                )
            )
        self.config, self.normalizer = config, normalizer
        horizon = config.prediction_horizon
        self._spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=config.observation_horizon,
            action_horizon=config.action_horizon,
            prediction_horizon=horizon,
            state=config.state,
            environment_state=environment_state if config.environment_state else 0,
            cameras=config.cameras,
            goal=goal_width(config.goal),
            environment_names=config.environment_names,
            goal_names=goal_names(config.goal),
            continues=self.CONTINUES,
            goal_cameras=goal_cameras(config.goal),
        )
        self.action_form = ActionForm(config.action_form, embodiment, normalizer, config.observation_horizon, horizon)
        self.encoder = self._make_encoder()
        self.network = self._make_network()

    def _make_encoder(self) -> ObservationEncoder:
        """From observations to features; a family that wants other features makes its own."""
        config = self.config
        words = build_language(config.language)
        difference = isinstance(config.goal, GoalConfig) and config.goal.difference
        return ObservationEncoder(
            self._spec, self.normalizer, config.vision, config.observation_mlp, words, goal_difference=difference
        )

    def _make_network(self) -> nn.Module:
        """The network between features and chunk; a family without a denoiser makes its own."""
        config = self.config
        return build_network(
            config.network,
            getattr(config, config.network, {}),
            channels=self.action_form.width,
            widths=self.encoder.widths,
            horizon=config.prediction_horizon,
        )

    @property
    def spec(self) -> PolicySpec:
        """Its needs."""
        return self._spec

    def description(self) -> dict[str, Any]:
        """What a checkpoint stores beside the weights: ``parameters``, ``environment_state``; a family adds more."""
        words = self.encoder.language
        # as kept in a checkpoint: files that a fresh policy was filled from are not needed again
        stored = {"vision": to_dict(self.config.vision.stored())}
        stored["language"] = to_dict(self.config.language if words is None else words.stored())
        return {
            "parameters": {**to_dict(self.config), **stored},
            "environment_state": self._spec.environment_state,
        }

    def change(self, changes: Mapping[str, Any]) -> None:
        """Act otherwise from now on; nothing is trained again.

        Args:
            changes: Parameters, nested as in the configuration, of those in ``config.CHANGEABLE``.

        Raises:
            ConfigError: a parameter that decides the weights or what they mean; those that may be changed are named.
        """
        self.config = changed_config(self.config, changes)
        self._spec = dataclasses.replace(self._spec, action_horizon=self.config.action_horizon)

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """One chunk; the same observation and seed give the same.

        Args:
            observation: Last To control steps.
            rng: Seed or generator.
            prefix: What is still scheduled, from ``observation.time_ns[-1]`` on; its ``horizon`` says how many of its
                values will have been executed before this answer is there. Families that cannot use it ignore it.
            goal: f32 [G] in the place of the observation's own, its entries in the order of ``spec.goal_names``; or
                camera -> uint8 [H, W, C] in the place of its pictures.

        Returns:
            values f64 [Tp-To+1, A] in physical units.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: an observation that does not fit the spec.
            NonFiniteError: the network's output is not finite.
        """
        return self.act_batch([_told(observation, goal)], [rng], [prefix])[0]

    def act_batch(
        self,
        observations: Sequence[Observation],
        rngs: Sequence[int | np.random.Generator],
        prefixes: Sequence[ActionChunk | None] = (),
    ) -> list[ActionChunk]:
        """One chunk per observation in one pass of the network; the noise of each comes from its own generator.

        Of a batch of one it is :meth:`act`. The kernels of other batch sizes may round the last bits otherwise.

        Args:
            observations: B of them.
            rngs: B seeds or generators.
            prefixes: B of them, or none at all; see :meth:`act`.

        Raises:
            ShapeError, NonFiniteError, EmbodimentMismatchError: as :meth:`act`, for any of the observations.
        """
        if len(rngs) != len(observations):
            raise ShapeError(explain("one seed per observation", given=len(rngs), allowed=len(observations)))
        return self._answers(observations, [np.random.default_rng(rng) for rng in rngs], prefixes)

    def act_candidates(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator,
        count: int,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> list[ActionChunk]:
        """Several chunks for one observation, to choose from or to see how sure the policy is; the encoder runs once.

        Args:
            observation, prefix, goal: As in :meth:`act`.
            rng: Seed or generator; each chunk draws from a child of it, so the first few do not depend on ``count``.
            count: How many. A policy that does not sample gives the same chunk as often.

        Raises:
            ConfigError: fewer than one.
            ShapeError, NonFiniteError, EmbodimentMismatchError: as :meth:`act`.
        """
        if count < 1:
            raise ConfigError(explain("needs at least one candidate", given=f"count={count}"))
        return self._answers([_told(observation, goal)], np.random.default_rng(rng).spawn(count), [prefix], count)

    def _answers(
        self,
        observations: Sequence[Observation],
        generators: Sequence[np.random.Generator],
        prefixes: Sequence[ActionChunk | None],
        copies: int = 1,
    ) -> list[ActionChunk]:
        """``copies`` chunks for each observation, a generator for each of them."""
        observations = [selected(observation, self._spec) for observation in observations]
        for observation in observations:
            check_observation(observation, self._spec)
        if self.training:  # dropout has no place in execution, also in the middle of training
            self.eval()
            try:
                return self._answers(observations, generators, prefixes, copies)
            finally:
                self.train()
        state = np.stack([np.asarray(observation.state, np.float64) for observation in observations])
        seen = torch.as_tensor(state, device=self.action_form.scale.device)
        told = any(prefix is not None for prefix in prefixes)
        # a prefix is followed by differentiating the network, which tensors of inference mode do not allow
        with torch.no_grad() if told else torch.inference_mode():
            features = self._condition(observations)
            if copies > 1:
                features, seen = features.repeated(copies), seen.repeat_interleave(copies, dim=0)
                observations = [observation for observation in observations for _ in range(copies)]
                prefixes = [prefix for prefix in prefixes for _ in range(copies)]
            if told:
                wanted = scheduled(self._spec, self.action_form, observations, prefixes, seen)
                sample = self._continue(features, generators, wanted)
            else:
                sample = self._sample(features, generators)
            decoded = self.action_form.decode(sample.double(), seen)
        values = decoded.cpu().numpy()[:, self._spec.observation_horizon - 1 :]
        if not np.isfinite(values).all():
            raise NonFiniteError(
                explain("the policy's output is not finite", mend="the weights are damaged: load another checkpoint")
            )
        card, horizon = self._spec.embodiment, self._spec.action_horizon
        return [
            ActionChunk(own, int(seen.time_ns[-1]), card.control_dt_s, card.hash, horizon=horizon)
            for own, seen in zip(values, observations, strict=True)
        ]

    @abstractmethod
    def _sample(self, features: Features, generators: Sequence[np.random.Generator]) -> Tensor:
        """Normalised chunks [B, Tp, A]; row b draws from ``generators[b]`` alone."""

    def _continue(self, features: Features, generators: Sequence[np.random.Generator], wanted: Inpainting) -> Tensor:
        """As :meth:`_sample`, in agreement with what is being executed; a family that cannot do it samples freely."""
        return self._sample(features, generators)

    def _encoded(
        self, batch: Batch, rng: torch.Generator | None, keep_goal: Tensor | None = None
    ) -> tuple[Features, Tensor]:
        """Features of a training batch, crops drawn from ``rng``, and its chunks [B, Tp, A] as the network sees them.

        Rows where ``keep_goal`` bool [B] is False do not see their goal.
        """
        features = self.encoder(
            batch.state,
            batch.environment_state,
            batch.image,
            augment=self.training,
            rng=rng,
            image_mask=batch.image_mask,
            goal=batch.goal,
            goal_images=batch.goal_image if self._spec.goal_cameras else None,
            keep_goal=keep_goal,
            language=batch.language,
        )
        return features, self.action_form.encode(batch.action, batch.state)

    def _condition(self, observations: Sequence[Observation]) -> Features:
        """Features of observations."""
        device, spec = self.action_form.scale.device, self._spec

        def tensor(rows: Sequence[Any], dtype: Any) -> Tensor:
            return torch.tensor(np.stack([np.asarray(row, dtype) for row in rows]), device=device)

        state = tensor([o.state for o in observations], np.float32) if spec.state else None
        environment = None
        if spec.environment_state:
            environment = tensor([o.environment_state for o in observations], np.float32)
        images = {name: tensor([o.image[name] for o in observations], np.uint8) for name in spec.cameras}
        goal = tensor([o.goal for o in observations], np.float32) if spec.goal else None
        wanted = {name: tensor([o.goal_image[name] for o in observations], np.uint8) for name in spec.goal_cameras}
        words = [o.language for o in observations]
        return self.encoder(state, environment, images, goal=goal, goal_images=wanted or None, language=words)


def _told(observation: Observation, goal: Any) -> Observation:
    """The observation with another goal in the place of its own: a vector, or a picture per camera."""
    if goal is None:
        return observation
    if isinstance(goal, Mapping):
        return dataclasses.replace(observation, goal_image=dict(goal))
    return dataclasses.replace(observation, goal=np.asarray(goal, np.float32), goal_names=())


def masked_mean(squared: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid entries of each sample, 0 where there are none.

    The mean of these over samples is the same for any division of a batch over processes or micro-batches.

    Args:
        squared: [B, Tp, A].
        mask: bool [B, Tp, A], True where an entry counts.

    Returns:
        [B].
    """
    weight = mask.to(squared.dtype)
    return (squared * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def increment_ranges(
    config: ChunkConfig,
    embodiment: Embodiment,
    windows: Callable[[int, int], Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Ranges that a policy needs beyond the store's own statistics, made from the training windows.

    Args:
        config: Parameters of the policy; increments and deltas need ranges of their own.
        embodiment: Card of the robot.
        windows: ``(To, Tp) -> {state, action, action_mask}`` over the training windows.

    Returns:
        Stream -> ``min`` and ``max``, to be joined to the store's statistics.
    """
    if config.action_form == "absolute":
        return {}
    gathered = windows(config.observation_horizon, config.prediction_horizon)
    return {INCREMENT_STREAM: increment_range(gathered, embodiment, config.observation_horizon, config.action_form)}
